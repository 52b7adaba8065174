//! What the kernel says of processes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The file system of pidfds, since Linux 6.9 (`linux/magic.h`).
const PIDFS: u64 = 0x5049_4446;

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
