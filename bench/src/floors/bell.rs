//! A wake-up there and one back through eventfds (`eventfd(2)`), nothing else.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use super::{Floor, time, with_warm_up};
use crate::peer::Peer;
use crate::place::Place;
use crate::shared::adopt;
use crate::stats::Block;

/// The measuring end.
pub struct Bell {
    there: OwnedFd,
    back: OwnedFd,
    peer: Peer,
}

impl Bell {
    pub fn start(place: Place) -> Bell {
        let new = || eventfd(0, EventfdFlags::empty()).expect("an eventfd");
        let (there, back) = (new(), new());
        let numbers = [there.as_raw_fd().to_string(), back.as_raw_fd().to_string()];
        let peer =
            Peer::start(place.far(), &["bell".to_owned(), numbers[0].clone(), numbers[1].clone()]);
        Bell { there, back, peer }
    }
}

fn ring(bell: &OwnedFd) {
    rustix::io::write(bell, &1u64.to_ne_bytes()).expect("ringing");
}

fn sleep(bell: &OwnedFd) {
    rustix::io::retry_on_intr(|| rustix::io::read(bell, &mut [0; 8])).expect("sleeping");
}

impl Floor for Bell {
    fn block(&mut self, calls: usize) -> Block {
        self.peer.say(with_warm_up(calls));
        let block = time(calls, || {
            ring(&self.there);
            sleep(&self.back);
        });
        self.peer.line();
        block
    }
}

pub fn responder(numbers: &[i32]) -> Box<dyn FnMut(u64)> {
    let (there, back) = (adopt(numbers[0]), adopt(numbers[1]));
    Box::new(move |calls| {
        for _ in 0..calls {
            sleep(&there);
            ring(&back);
        }
    })
}
