//! 64 bytes there and back through a Unix socket that keeps packets apart (`unix(7)`).

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{Floor, time, with_warm_up};
use crate::peer::Peer;
use crate::place::Place;
use crate::shared::adopt;
use crate::stats::Block;

/// The measuring end.
pub struct Seqpacket {
    socket: OwnedFd,
    peer: Peer,
}

impl Seqpacket {
    pub fn start(place: Place) -> Seqpacket {
        let (near, far) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::empty(),
            None,
        )
        .expect("a pair of sockets");
        let peer = Peer::start(place.far(), &["seqpacket".to_owned(), far.as_raw_fd().to_string()]);
        Seqpacket { socket: near, peer }
    }
}

fn send(socket: &OwnedFd, bytes: &[u8]) {
    rustix::net::send(socket, bytes, SendFlags::empty()).expect("sending");
}

fn receive(socket: &OwnedFd, bytes: &mut [u8]) {
    rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *bytes, RecvFlags::empty()))
        .expect("receiving");
}

impl Floor for Seqpacket {
    fn block(&mut self, calls: usize) -> Block {
        self.peer.say(with_warm_up(calls));
        let block = time(calls, || {
            let mut bytes = [7; 64];
            send(&self.socket, &bytes);
            receive(&self.socket, &mut bytes);
        });
        self.peer.line();
        block
    }
}

pub fn responder(numbers: &[i32]) -> Box<dyn FnMut(u64)> {
    let socket = adopt(numbers[0]);
    Box::new(move |calls| {
        for _ in 0..calls {
            let mut bytes = [0; 64];
            receive(&socket, &mut bytes);
            send(&socket, &bytes);
        }
    })
}
