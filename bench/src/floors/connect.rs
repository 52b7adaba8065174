//! Connecting a Unix socket and exchanging a byte (`unix(7)`), the server accepting by epoll.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::{Floor, time, with_warm_up};
use crate::peer::Peer;
use crate::place::Place;
use crate::shared::adopt;
use crate::stats::Block;

const LISTENER: u64 = u64::MAX;

/// The measuring end.
pub struct Connect {
    address: SocketAddrUnix,
    peer: Peer,
    _folder: tempfile::TempDir,
}

fn socket() -> OwnedFd {
    let flags = SocketFlags::empty();
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .expect("a socket")
}

impl Connect {
    pub fn start(place: Place) -> Connect {
        let folder = tempfile::tempdir().expect("a folder");
        let address = SocketAddrUnix::new(folder.path().join("socket")).expect("a short path");
        let listener = socket();
        rustix::net::bind(&listener, &address).expect("its file");
        rustix::net::listen(&listener, 64).expect("listening");
        let number = listener.as_raw_fd().to_string();
        let peer = Peer::start(place.far(), &["connect".to_owned(), number]);
        Connect { address, peer, _folder: folder }
    }
}

impl Floor for Connect {
    fn block(&mut self, calls: usize) -> Block {
        self.peer.say(with_warm_up(calls));
        let block = time(calls, || {
            let socket = socket();
            rustix::net::connect(&socket, &self.address).expect("a server");
            let mut byte = [7];
            rustix::net::send(&socket, &byte, SendFlags::empty()).expect("sending");
            rustix::net::recv(&socket, &mut byte, RecvFlags::empty()).expect("receiving");
        });
        self.peer.line();
        block
    }
}

pub fn responder(numbers: &[i32]) -> Box<dyn FnMut(u64)> {
    let listener = adopt(numbers[0]);
    let poll = epoll::create(CreateFlags::empty()).expect("an epoll");
    let watch = move |poll: &OwnedFd, source: &OwnedFd, token| {
        epoll::add(poll, source, EventData::new_u64(token), EventFlags::IN).expect("watching");
    };
    watch(&poll, &listener, LISTENER);
    let mut clients = HashMap::<u64, OwnedFd>::new();
    let mut events = Vec::with_capacity(16);
    Box::new(move |calls| {
        let mut left = calls;
        while left > 0 {
            events.clear();
            match epoll::wait(&poll, spare_capacity(&mut events), None) {
                Err(rustix::io::Errno::INTR) => continue,
                waited => waited.expect("sleeping"),
            };
            for event in &events {
                let token = event.data.u64();
                if token == LISTENER {
                    let client = rustix::net::accept(&listener).expect("a client");
                    let token = client.as_raw_fd() as u64;
                    watch(&poll, &client, token);
                    clients.insert(token, client);
                    continue;
                }
                let mut byte = [0];
                let client = &clients[&token];
                let (len, _) =
                    rustix::net::recv(client, &mut byte, RecvFlags::empty()).expect("receiving");
                if len == 0 {
                    clients.remove(&token);
                    left -= 1;
                } else {
                    rustix::net::send(client, &byte, SendFlags::empty()).expect("sending");
                }
            }
        }
    })
}
