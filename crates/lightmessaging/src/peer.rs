//! Who is at the other end, in the kernel's word.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::sys::{Credentials, Handle};

/// The process at the other end of a connection, as the kernel vouched for it when it said hello
/// (`SCM_CREDENTIALS` and `SCM_PIDFD`, `unix(7)`).
#[derive(Clone, Debug)]
pub struct Peer {
    uid: u32,
    gid: u32,
    pid: u32,
    handle: Option<Arc<Handle>>,
    introduction: Option<Arc<Introduction>>,
}

/// What rocketd says of a client that came through it: what the kernel does not say by itself.
///
/// A service believes the rocketd of its own user and root's, and nobody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Introduction {
    pub(crate) application: Option<String>,
    pub(crate) cgroup: Option<String>,
    pub(crate) label: Option<String>,
}

impl Introduction {
    /// How long the application, the control group and the label may be, in bytes.
    pub(crate) const MOST: [usize; 3] = [255, 512, 255];

    /// The id of the Flatpak application that the client is a part of (`flatpak-metadata(5)`).
    pub fn application(&self) -> Option<&str> {
        self.application.as_deref()
    }

    /// Its control group, a path below the root of the hierarchy (`cgroups(7)`).
    pub fn cgroup(&self) -> Option<&str> {
        self.cgroup.as_deref()
    }

    /// Its security label, of whichever security module is in use (`proc_pid_attr(5)`).
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    pub(crate) fn texts(&self) -> [Option<&str>; 3] {
        [self.application(), self.cgroup(), self.label()]
    }
}

impl Peer {
    pub(crate) fn new(credentials: Credentials) -> Peer {
        let Credentials { pid, uid, gid, pidfd } = credentials;
        let handle = pidfd.map(|fd| Arc::new(Handle::new(pid, fd)));
        Peer { uid, gid, pid, handle, introduction: None }
    }

    /// Keeps no descriptor for the process until somebody asks for it: there may be very many peers.
    pub(crate) fn put_away(&mut self) {
        if let Some(handle) = self.handle.as_mut().and_then(Arc::get_mut) {
            handle.put_away();
        }
    }

    pub(crate) fn introduce(&mut self, introduction: Introduction) {
        self.introduction = Some(Arc::new(introduction));
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
    /// (Linux 6.5 and later). It is opened when this is first called (from Linux 6.9 on), and stays
    /// open from then on; `None` if the process has ended before that, or if there is no descriptor
    /// left.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.handle.as_ref()?.get()
    }

    /// What rocketd says of it, if it came through rocketd.
    pub fn introduction(&self) -> Option<&Introduction> {
        self.introduction.as_deref()
    }

    /// Whether it may act for this process's user.
    pub(crate) fn is_owner(&self) -> bool {
        self.uid == 0 || self.is_same_user()
    }

    pub(crate) fn is_same_user(&self) -> bool {
        self.uid == rustix::process::geteuid().as_raw()
    }
}
