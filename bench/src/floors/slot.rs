//! 64 bytes there and back through one reused slot in shared memory, both sides spinning.

use std::hint::spin_loop;
use std::sync::atomic::Ordering;

use super::{Floor, time, with_warm_up};
use crate::peer::Peer;
use crate::place::Place;
use crate::shared::Shared;
use crate::stats::Block;

const LEN: usize = 4 * 4096;
// The words on lines of their own, the payloads on pages of their own.
const ASK: usize = 0;
const ANSWER: usize = 64;
const REQUEST: usize = 4096;
const REPLY: usize = 8192;

/// The measuring end.
pub struct Slot {
    shared: Shared,
    peer: Peer,
    seq: u64,
}

impl Slot {
    pub fn start(place: Place) -> Slot {
        let shared = Shared::new(LEN);
        let peer = Peer::start(place.far(), &["slot".to_owned(), shared.fd().to_string()]);
        Slot { shared, peer, seq: 0 }
    }
}

impl Floor for Slot {
    fn block(&mut self, calls: usize) -> Block {
        self.peer.say(with_warm_up(calls));
        let (shared, seq) = (&self.shared, &mut self.seq);
        let (ask, answer) = (shared.word(ASK), shared.word(ANSWER));
        let request = [7; 64];
        let block = time(calls, || {
            *seq += 1;
            shared.write(REQUEST, &request);
            ask.swap(*seq, Ordering::SeqCst);
            while answer.load(Ordering::Acquire) != *seq {
                spin_loop();
            }
            let mut reply = [0; 64];
            shared.read(REPLY, &mut reply);
            assert_eq!(reply[63], 7);
        });
        self.peer.line();
        block
    }
}

pub fn responder(numbers: &[i32]) -> Box<dyn FnMut(u64)> {
    let shared = Shared::inherited(numbers[0], LEN);
    let mut seq = 0;
    Box::new(move |calls| {
        let (ask, answer) = (shared.word(ASK), shared.word(ANSWER));
        for _ in 0..calls {
            seq += 1;
            while ask.load(Ordering::Acquire) != seq {
                spin_loop();
            }
            let mut bytes = [0; 64];
            shared.read(REQUEST, &mut bytes);
            shared.write(REPLY, std::hint::black_box(&bytes));
            answer.swap(seq, Ordering::SeqCst);
        }
    })
}
