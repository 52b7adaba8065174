//! What the owner of a service, its own user or root, may ask of it.

use std::io;
use std::os::fd::OwnedFd;

use crate::peer::Peer;
use crate::sys::{Poll, Socket};
use crate::wait::Clock;
use crate::wire::{PACKET_MAX, Packet, Refusal};
use crate::{Error, Registry, Result, ServiceName};

/// A connection to a running service, to ask something of it.
#[derive(Debug)]
pub(crate) struct Line {
    service: ServiceName,
    socket: Socket,
    poll: Poll,
}

/// What a service has done for its owner.
pub(crate) struct Done {
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) who: Peer,
}

/// Asks the running service of a name for something, and waits until it is done.
pub(crate) fn ask(
    registry: &Registry,
    service: &ServiceName,
    packet: Packet,
    clock: &Clock,
) -> Result<Done> {
    let line = Line::open(registry, service, clock)?;
    line.say(packet)?;
    match line.hear(clock)? {
        Ok(done) => Ok(done),
        Err(Packet::Done(Some(Refusal::Denied)) | Packet::Refuse(Refusal::Denied)) => {
            Err(line.denied("only its own user and root may ask this of it"))
        }
        Err(Packet::Refuse(Refusal::Busy)) => Err(Error::NotDelivered { service: service.clone() }),
        Err(_) => Err(line.malformed("an answer to another question")),
    }
}

impl Line {
    pub(crate) fn open(registry: &Registry, service: &ServiceName, clock: &Clock) -> Result<Line> {
        let socket = registry.open(service, false)?.connect(service, clock.left())?;
        let make = || {
            let poll = Poll::new()?;
            poll.add(&socket, 0)?;
            socket.ask_for_credentials(true)?;
            Ok(poll)
        };
        let poll = make().map_err(|source| os(service, source))?;
        Ok(Line { service: service.clone(), socket, poll })
    }

    pub(crate) fn say(&self, packet: Packet) -> Result<()> {
        self.socket
            .send(packet.encode().as_slice(), &[])
            .map_err(|source| os(&self.service, source))
    }

    /// Waits until what was asked for is done, or refused with one packet or another.
    pub(crate) fn hear(&self, clock: &Clock) -> Result<Result<Done, Packet>> {
        while !clock.over() {
            if let Some(answer) = self.look()? {
                return Ok(answer);
            }
            self.poll
                .wait(&mut Vec::new(), clock.left())
                .map_err(|source| os(&self.service, source))?;
        }
        // Of an answer that comes after this, the service knows that it does not arrive.
        self.socket.refuse();
        let timed_out = || Error::TimedOut { service: self.service.clone(), delivered: true };
        match self.look() {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(Error::NotDelivered { .. }) => Err(timed_out()),
            Err(error) => Err(error),
        }
    }

    /// What has been answered, if it has come.
    pub(crate) fn look(&self) -> Result<Option<Result<Done, Packet>>> {
        let mut buffer = [0; PACKET_MAX];
        // A lock is a file; and the service is our own user's or root's, as the registry is.
        let packet = match self.socket.receive_all(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            packet => packet.map_err(|source| os(&self.service, source))?,
        };
        if packet.len == 0 {
            return Err(Error::NotDelivered { service: self.service.clone() });
        }
        match Packet::decode(&buffer[..packet.len]) {
            Ok(Packet::Done(None)) => {
                let who = packet.credentials.map(Peer::new);
                let who = who.ok_or_else(|| self.malformed("an answer from nobody"))?;
                Ok(Some(Ok(Done { fds: packet.fds, who })))
            }
            Ok(no @ (Packet::Done(Some(_)) | Packet::Refuse(_))) => Ok(Some(Err(no))),
            _ => Err(self.malformed("an answer to another question")),
        }
    }

    #[cfg(feature = "rocketd")]
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(crate) fn denied(&self, reason: &str) -> Error {
        Error::Denied { service: self.service.clone(), reason: reason.to_owned() }
    }

    pub(crate) fn malformed(&self, what: &'static str) -> Error {
        Error::Malformed { service: self.service.clone(), what }
    }
}

fn os(service: &ServiceName, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            Error::NotDelivered { service: service.clone() }
        }
        _ => Error::Os { service: service.clone(), doing: "ask the service", source },
    }
}
