//! What the kernel says of processes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Fd, limit};

/// The file system of pidfds, since Linux 6.9 (`linux/magic.h`).
const PIDFS: u64 = 0x5049_4446;

/// A pidfd, or what it takes to open it again.
#[derive(Debug)]
pub(crate) struct Handle {
    pid: u32,
    fd: OnceLock<Fd>,
    /// The number of a pidfd that was put away.
    number: Option<u64>,
}

impl Handle {
    /// Has the pidfd of a process.
    pub(crate) fn new(pid: u32, pidfd: OwnedFd) -> Handle {
        Handle { pid, fd: OnceLock::from(Fd::from(pidfd)), number: None }
    }

    /// Lets go of the pidfd, if it can be told from others when it is opened again.
    pub(crate) fn put_away(&mut self) {
        // In another namespace processes are known by other numbers, or by none.
        if self.pid != 0
            && let Some(number) = self.fd.get().and_then(pidfd_id)
        {
            self.number = Some(number);
            self.fd.take();
        }
    }

    /// The pidfd; `None` if it was put away and the process has ended since.
    pub(crate) fn get(&self) -> Option<BorrowedFd<'_>> {
        if self.fd.get().is_none() {
            let pid = Pid::from_raw(self.pid.try_into().ok()?)?;
            let pidfd = limit::within(|| pidfd_open(pid, PidfdFlags::empty())).ok()?;
            if pidfd_id(&pidfd) != self.number {
                // The number is another process's by now.
                return None;
            }
            let _ = self.fd.set(pidfd.into());
        }
        self.fd.get().map(Fd::as_fd)
    }
}

/// Whether a pidfd (`pidfd_open(2)`) stands for the process that was said to be this one, by its number
/// and, where the kernel gave one, its own pidfd.
pub(crate) fn is_process(pidfd: BorrowedFd<'_>, pid: u32, its: Option<BorrowedFd<'_>>) -> bool {
    match (pidfd_id(pidfd), its.and_then(pidfd_id)) {
        // Also once it has ended.
        (Some(one), Some(other)) => one == other,
        // One that has ended could be anybody by its number.
        _ => pid_of(pidfd) == Some(pid),
    }
}

/// The number of a pidfd itself, which is that of its process alone and is never given again.
pub(super) fn pidfd_id(pidfd: impl AsFd) -> Option<u64> {
    let is_own = rustix::fs::fstatfs(&pidfd).is_ok_and(|stat| stat.f_type as u64 == PIDFS);
    is_own.then(|| rustix::fs::fstat(pidfd).ok()).flatten().map(|stat| stat.st_ino)
}

/// The process id that a pidfd stands for, as this process sees it: 0 if it lives where we cannot see
/// it. `None` if it has ended and was waited for, or is no pidfd.
pub(super) fn pid_of(pidfd: BorrowedFd<'_>) -> Option<u32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    // Of one that has ended it is -1.
    pid.trim().parse().ok()
}
