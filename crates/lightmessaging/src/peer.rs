//! Who is at the other end, in the kernel's word.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::sys::{Credentials, Fd};

/// The process at the other end of a connection, as the kernel vouched for it when it said hello
/// (`SCM_CREDENTIALS` and `SCM_PIDFD`, `unix(7)`).
#[derive(Clone, Debug)]
pub struct Peer {
    uid: u32,
    gid: u32,
    pid: u32,
    pidfd: Option<Arc<Fd>>,
}

impl Peer {
    pub(crate) fn new(credentials: Credentials) -> Peer {
        let Credentials { pid, uid, gid, pidfd } = credentials;
        Peer { uid, gid, pid, pidfd: pidfd.map(|fd| Arc::new(fd.into())) }
    }

    /// Its effective user.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Its effective group.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Its process id, 0 if it lives in a namespace that we cannot see. The number may be another
    /// process's once this one has ended; the [pidfd](Peer::pidfd) never is.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A handle to the process that stays its own (`pidfd_open(2)`), where the kernel gives one
    /// (Linux 6.5 and later).
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(|fd| fd.as_fd())
    }

    pub(crate) fn is_same_user(&self) -> bool {
        self.uid == rustix::process::geteuid().as_raw()
    }
}
