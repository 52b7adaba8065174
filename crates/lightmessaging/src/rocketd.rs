//! What rocketd shares with the library. Not for anybody else: it changes whenever that helps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

pub use crate::changes::Changes;
pub use crate::sys::{Credentials, Event, Fd, Listener, Packet, Poll, Socket, Timer, is_exhausted};
pub use crate::wire::Misread;
pub use crate::wire::rocket::{Entry, No, Rocket};

use crate::registry::file_name;
use crate::wait::Clock;
use crate::wire::{self, Refusal};
use crate::{Deadline, Error, Introduction, Registry, Result, ServiceName, owner};

/// Tells a service who is about to say hello on this connection. The service holds the ticket for as
/// long as that client is there.
pub fn introduce(
    socket: &Socket,
    application: Option<&str>,
    cgroup: Option<&str>,
    label: Option<&str>,
    ticket: BorrowedFd<'_>,
    asker: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let [application, cgroup, label] = [application, cgroup, label].map(|t| t.map(str::to_owned));
    let bytes = wire::encode_introduction(&Introduction { application, cgroup, label });
    let fds: Vec<_> = [Some(ticket), asker].into_iter().flatten().collect();
    socket.send(bytes.as_slice(), &fds)
}

/// Tells a client that the service could not be started, for good: whoever finds that it can send nothing
/// more has been told.
pub fn refuse_start(socket: &Socket) -> io::Result<()> {
    socket.send(wire::Packet::Refuse(Refusal::NotStarted).encode().as_slice(), &[])?;
    socket.clear();
    Ok(())
}

/// Listens under a name for a service that is started on demand. What comes along says so, for as long
/// as it is kept.
///
/// # Errors
///
/// As [`Service::start`](crate::Service::start).
pub fn listen(registry: &Registry, name: &ServiceName) -> Result<(Listener, Option<Fd>)> {
    let folder = registry.open(name, true)?;
    // Before a lock file is made: one that comes and goes is news to whoever watches the folder, who
    // would try again and again.
    if folder.is_listened_to(&file_name(name)) {
        return Err(Error::NameInUse { service: name.clone(), on_demand: true });
    }
    let (claim, listener) = folder.claim(name, 0o600)?;
    let kept = keep(registry, name);
    claim.leave_socket();
    Ok((listener, kept))
}

/// A running service is asked to let us listen with it: one that was started on demand by a rocketd that
/// is no more.
#[derive(Debug)]
pub struct Adoption(owner::Line);

/// Such a service.
#[derive(Debug)]
pub struct Orphan {
    /// What it listens on.
    pub listener: Listener,
    /// Its process.
    pub pid: u32,
    /// A handle to it.
    pub pidfd: Option<OwnedFd>,
}

impl Adoption {
    /// Asks, and waits for nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Registry::unlock`].
    pub fn begin(registry: &Registry, name: &ServiceName) -> Result<Adoption> {
        let now = Clock::new(Deadline::After(Duration::ZERO));
        let line = owner::Line::open(registry, name, &now)?;
        line.say(wire::Packet::Share)?;
        Ok(Adoption(line))
    }

    /// The service, once it has answered.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] if its name is its own, and what may be wrong with an answer.
    pub fn hear(&self, name: &ServiceName) -> Result<Option<Orphan>> {
        let owner::Done { fds, who } = match self.0.look()? {
            None => return Ok(None),
            Some(Ok(done)) => done,
            Some(Err(_)) => return Err(self.0.denied("its name is its own")),
        };
        let listener = fds.into_iter().next().ok_or("an answer without a socket");
        let listener = listener.and_then(Listener::from_peer);
        let listener = listener.map_err(|what| Error::Malformed { service: name.clone(), what })?;
        let pidfd = who.pidfd().and_then(|fd| fd.try_clone_to_owned().ok());
        Ok(Some(Orphan { listener, pid: who.pid(), pidfd }))
    }
}

impl AsFd for Adoption {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket().as_fd()
    }
}

/// Says that this process listens under a name on a service's behalf, for as long as it has this: so
/// those who list names can tell one that was left behind.
pub fn keep(registry: &Registry, name: &ServiceName) -> Option<Fd> {
    registry.open(name, false).ok()?.keep(name)
}

/// The socket that is there under a name now, to be connected to.
pub fn socket_file(registry: &Registry, name: &ServiceName) -> Option<OwnedFd> {
    registry.open(name, false).ok()?.socket_file(name)
}

/// Removes a name that was [listened](listen) under, if it still leads to that socket.
pub fn forget(registry: &Registry, name: &ServiceName, socket: impl AsFd) {
    if let Ok(folder) = registry.open(name, false) {
        folder.remove_socket(name, socket.as_fd());
    }
}
