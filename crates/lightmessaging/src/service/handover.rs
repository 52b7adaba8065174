//! Handing a name over to another instance of the same service, without a moment in which nobody
//! holds it.
//!
//! Three steps, so that neither side can lose the name by dying or stalling halfway: the old
//! instance offers its listening socket and its lock, the new one says that it has them, the old one
//! says that they are the new one's now. Until that last packet is on its way the old one goes on
//! serving; it leaves with it (see `leave`), and not a moment earlier.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::clients::Member;
use super::leave::Leaving;
use super::{CLIENTS, Service};
use crate::lane::lock;
use crate::owner::{Done, Line};
use crate::peer::Peer;
use crate::registry::Claim;
use crate::sys::{Listener, Socket};
use crate::wait::{Clock, coarse};
use crate::wire::{PACKET_MAX, Packet, Refusal};
use crate::{Error, Registry, Result, ServiceName, deadlock};

/// How long somebody to whom the name was offered may take to say that it has come.
const PATIENCE: Duration = Duration::from_secs(5);

/// Somebody to whom the name was offered.
pub(super) struct Heir {
    socket: Socket,
    /// Until when it may take it, in milliseconds of the coarse clock.
    until: u64,
}

impl Heir {
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// What it has to say; `None` if it has not said it yet.
    fn accepts(&self) -> Option<bool> {
        let mut buffer = [0; PACKET_MAX];
        match self.socket.receive(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => Some(false),
            Ok(packet) => {
                let is_owner = packet.credentials.is_some_and(|who| Peer::new(who).is_owner());
                let said = Packet::decode(&buffer[..packet.len]);
                Some(is_owner && packet.fds.is_empty() && said == Ok(Packet::Done(None)))
            }
        }
    }
}

impl Service {
    /// Offers the name to another instance. Nothing changes by that.
    pub(super) fn offer(&mut self, index: usize, socket: Socket, new: bool) {
        if self.send_offer(&socket).is_err()
            || new && self.watch(&socket, CLIENTS + 2 * index as u64 + 1).is_err()
        {
            return self.vacate(index);
        }
        let until = coarse() + PATIENCE.as_millis() as u64;
        self.clients[index] = Some(Member::Heir(Heir { socket, until }));
        self.heir = Some(index);
        self.wake_in(PATIENCE);
    }

    fn send_offer(&self, socket: &Socket) -> io::Result<()> {
        let refusal = match (&self.listener, &*lock(&self.shared.claim)) {
            // The name is its starter's.
            _ if self.inherited.is_some() => Refusal::Denied,
            (Some(listener), Some(claim)) if self.heir.is_none() => {
                let fds = [listener.as_fd(), claim.lock().as_fd()];
                return socket.send(Packet::Done(None).encode().as_slice(), &fds);
            }
            _ => Refusal::Busy,
        };
        socket.send(Packet::Done(Some(refusal)).encode().as_slice(), &[])?;
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// The heir has said something, or is gone.
    pub(super) fn hear_heir(&mut self, index: usize) {
        let Some(Some(Member::Heir(heir))) = self.clients.get(index) else { return };
        let Some(accepts) = heir.accepts() else { return };
        if accepts && self.give_name(&heir.socket) {
            self.handed_over = true;
            self.leaving = Leaving::Soon;
        }
        self.heir = None;
        self.vacate(index);
    }

    /// Says that the name is the heir's now. If it hears of that, it is.
    fn give_name(&self, heir: &Socket) -> bool {
        let mut claim = lock(&self.shared.claim);
        // Whoever stops the service takes the claim first; then there is nothing to give.
        if claim.is_none() || heir.send(Packet::Done(None).encode().as_slice(), &[]).is_err() {
            return false;
        }
        claim.take().into_iter().for_each(Claim::give);
        true
    }

    /// The timer has fired: an heir that takes too long is told that it comes to nothing.
    pub(super) fn look_after_heir(&mut self) {
        let Some(index) = self.heir else { return };
        let Some(Some(Member::Heir(heir))) = self.clients.get(index) else { return };
        let now = coarse();
        if now < heir.until {
            let left = Duration::from_millis(heir.until - now);
            return self.wake_in(left);
        }
        self.heir = None;
        self.vacate(index);
    }
}

/// Takes a name over from whoever runs the service, or takes it if nobody does.
pub(super) fn take_over(
    registry: &Registry,
    service: &ServiceName,
    mode: u32,
    clock: &Clock,
) -> Result<(Claim, Listener)> {
    if deadlock::is_run_here(registry, service) {
        return Err(Error::WouldDeadlock { service: service.clone() });
    }
    let mut attempts = 0;
    loop {
        let error = match ask(registry, service, clock) {
            // Nobody has it, or nobody any more.
            Err(Error::NotFound { .. } | Error::NotDelivered { .. }) => {
                match registry.open(service, true)?.claim(service, mode) {
                    // Somebody is just about to listen, or to end.
                    Err(error @ Error::NameInUse { .. }) => error,
                    claimed => return claimed,
                }
            }
            Err(Error::TimedOut { .. }) => {
                return Err(Error::TimedOut { service: service.clone(), delivered: false });
            }
            // It is on its way out, or being handed over to somebody else.
            Err(error @ Error::NameInUse { .. }) => error,
            asked => return asked,
        };
        if clock.over() {
            return Err(error);
        }
        attempts += 1;
        clock.pause(attempts);
    }
}

/// Asks the running instance for its name.
fn ask(registry: &Registry, service: &ServiceName, clock: &Clock) -> Result<(Claim, Listener)> {
    let line = Line::open(registry, service, clock)?;
    line.say(Packet::TakeOver)?;
    let Done { fds, who } = line.hear(clock)?.map_err(|no| match no {
        Packet::Done(Some(Refusal::Busy)) | Packet::Refuse(Refusal::Busy) => {
            Error::NameInUse { service: service.clone(), on_demand: false }
        }
        Packet::Done(_) => line.denied(
            "it was started on demand, so its name belongs to whoever starts it; \
             have the new program started there, and stop this one",
        ),
        Packet::Refuse(Refusal::Denied) => line.denied("it is run by another user"),
        _ => line.malformed("it does not know how to hand its name over; stop it first"),
    })?;
    if !who.is_owner() {
        return Err(line.denied("it is run by another user"));
    }
    let [listener, lock]: [OwnedFd; 2] =
        fds.try_into().map_err(|_| line.malformed("an offer without its two descriptors"))?;
    let listener = Listener::from_peer(listener).map_err(|what| line.malformed(what))?;
    let folder = registry.open(service, false)?;
    if !folder.is_lock_of(service, &lock) {
        return Err(line.malformed("an offer of something else than its name"));
    }
    line.say(Packet::Done(None))?;
    match line.hear(clock)? {
        Ok(_) => Ok((folder.take_over(service, lock), listener)),
        Err(_) => Err(line.malformed("an offer that was taken back")),
    }
}
