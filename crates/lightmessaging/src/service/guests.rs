//! Those who have connected and are not clients yet: what they want is in their first packets.
//!
//! A client says hello. rocketd connects on a client's behalf and introduces it first. The owner,
//! the service's own user or root, may want something of the service itself.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::clients::Member;
use super::{CLIENTS, Service};
use crate::lane::server::Hello;
use crate::lane::{Broken, Lane};
use crate::peer::{Introduction, Peer};
use crate::sys::{self, Fd, Socket};
use crate::wire::{self, PACKET_MAX, Packet, Refusal};

/// Somebody who has connected.
pub(super) struct Guest {
    socket: Socket,
    introduced: Option<Introduced>,
}

/// What rocketd said of a guest.
struct Introduced {
    introduction: Introduction,
    /// rocketd sees it closed when the client is gone.
    ticket: Fd,
    /// The process that asked rocketd.
    asker: Option<OwnedFd>,
}

/// What a guest wants.
enum Wish {
    /// To be a client.
    Lane(Box<Hello>),
    /// Nothing yet: more is to come.
    Wait,
    /// Something that only the owner may ask for.
    Owner(Packet),
}

impl Guest {
    pub(super) fn new(socket: Socket) -> Guest {
        Guest { socket, introduced: None }
    }

    /// Reads what has come.
    fn read(&mut self, service: &Service) -> Result<Wish, Broken> {
        loop {
            let mut buffer = [0; PACKET_MAX];
            let packet = match self.socket.receive(&mut buffer) {
                Ok(packet) => packet,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Wish::Wait),
                Err(error) => return Err(error.into()),
            };
            if packet.len == 0 {
                return Err(Broken::Gone);
            }
            if packet.truncated {
                return Err(Broken::Busy);
            }
            let bytes = &buffer[..packet.len];
            let mut who = packet
                .credentials
                .map(Peer::new)
                .ok_or(Broken::Malformed("a packet from nobody"))?;
            match Packet::decode(bytes)? {
                Packet::Hello(shape) => {
                    let mut maps = who.is_same_user();
                    if let Some(introduced) = &mut self.introduced {
                        introduced.check(&who)?;
                        who.introduce(std::mem::take(&mut introduced.introduction));
                        maps &= service.maps_introduced;
                    }
                    who.put_away();
                    let hello = Hello::check(shape, packet.fds, who, maps)?;
                    return Ok(Wish::Lane(Box::new(hello)));
                }
                Packet::Introduction if self.introduced.is_none() => {
                    // Whoever may act for our user may as well say who comes.
                    if !who.is_owner() {
                        return Err(Broken::Denied);
                    }
                    let introduction = wire::introduction(bytes)?;
                    let mut fds = packet.fds.into_iter();
                    let ticket =
                        fds.next().ok_or(Broken::Malformed("an introduction without a ticket"))?;
                    let (ticket, asker) = (ticket.into(), fds.next());
                    self.introduced = Some(Introduced { introduction, ticket, asker });
                }
                // Somebody who came through rocketd is the owner's user often enough, and yet in a
                // sandbox.
                wish if self.introduced.is_none() && packet.fds.is_empty() => {
                    return if who.is_owner() {
                        Ok(Wish::Owner(wish))
                    } else {
                        Err(Broken::Denied)
                    };
                }
                _ => return Err(Broken::Malformed("a first packet that is no hello")),
            }
        }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Lets it say nothing more than it has said.
    pub(super) fn hush(&self) {
        self.socket.refuse();
    }

    fn refuse(&self, broken: &Broken) {
        let refusal = match broken {
            Broken::Gone => return,
            Broken::Version(_) => Refusal::Version,
            Broken::Malformed(_) => Refusal::Malformed,
            Broken::Denied => Refusal::Denied,
            _ => Refusal::Busy,
        };
        let _ = self.socket.send(Packet::Refuse(refusal).encode().as_slice(), &[]);
    }
}

impl Introduced {
    /// Whether the one who says hello is the one who asked rocketd: a connection that was passed on
    /// would come under somebody else's name.
    fn check(&self, who: &Peer) -> Result<(), Broken> {
        match &self.asker {
            Some(asker) if !sys::is_process(asker.as_fd(), who.pid(), who.pidfd()) => {
                Err(Broken::Malformed("a hello from another process than the one introduced"))
            }
            _ => Ok(()),
        }
    }
}

impl Service {
    /// Meets somebody who has connected, and may have said what for.
    pub(super) fn greet(&mut self, index: usize, mut guest: Guest, new: bool) {
        let end = match guest.read(self) {
            Ok(Wish::Lane(hello)) => {
                let ticket = guest.introduced.map(|introduced| introduced.ticket);
                match Lane::welcome(&self.name, guest.socket, *hello) {
                    Ok(met) => return self.admit(index, met, ticket, new),
                    Err(broken) => Err(broken),
                }
            }
            Ok(Wish::Wait) => {
                if new && self.watch(&guest.socket, CLIENTS + 2 * index as u64 + 1).is_err() {
                    return self.vacate(index);
                }
                self.clients[index] = Some(Member::Guest(guest));
                return;
            }
            Ok(Wish::Owner(Packet::TakeOver)) => return self.offer(index, guest.socket, new),
            Ok(Wish::Owner(packet)) => {
                let served = self.serve_owner(packet, &guest.socket);
                served.inspect_err(|broken| guest.refuse(broken))
            }
            Err(broken) => {
                guest.refuse(&broken);
                guest.socket.clear();
                Err(broken)
            }
        };
        if let Err(broken) = end {
            self.blame(&broken);
        }
        self.vacate(index);
    }

    /// Does what the owner asks for.
    fn serve_owner(&mut self, packet: Packet, socket: &Socket) -> Result<(), Broken> {
        match packet {
            Packet::Unlock(unlock) => self.unlock(unlock),
            Packet::Share => return self.share(socket),
            _ => return Err(Broken::Malformed("a first packet that is no hello")),
        }
        // The owner may have gone.
        let _ = socket.send(Packet::Done(None).encode().as_slice(), &[]);
        Ok(())
    }

    /// Lets whoever starts the service on demand listen again, as it does after its own restart. A name
    /// of the service's own is not shared.
    fn share(&self, socket: &Socket) -> Result<(), Broken> {
        let (answer, listener) = match (&self.inherited, &self.listener) {
            (Some(_), Some(listener)) => (Packet::Done(None), Some(listener.as_fd())),
            _ => (Packet::Done(Some(Refusal::Denied)), None),
        };
        let fds: Vec<_> = listener.into_iter().collect();
        Ok(socket.send(answer.encode().as_slice(), &fds)?)
    }
}
