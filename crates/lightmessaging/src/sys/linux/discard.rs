//! Descriptors that a peer has sent and that would not let us go: who closes one may have to wait for
//! what is behind it.
//!
//! The last close of a TCP socket may wait until all is sent (`SO_LINGER`, `socket(7)`), and any close
//! of a file waits for its file system, which may be the peer's own (`fuse(4)`). Nothing that we send
//! to strangers is like that. So what may be is closed by a thread of its own, and another descriptor,
//! which is good for nothing, is received in its place.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::net::{AddressFamily, sockopt};

use super::process::pid_of;

/// How many threads may wait at once. What comes after that stays open until one of them is done.
const MOST: usize = 64;
static DISCARDED: Mutex<Discarded> = Mutex::new(Discarded { fds: Vec::new(), threads: 0 });

struct Discarded {
    fds: Vec<OwnedFd>,
    threads: usize,
}

fn discarded() -> MutexGuard<'static, Discarded> {
    DISCARDED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The descriptor, or another in its place if it may not be possible to close it without waiting for
/// somebody. `None` if there is no other.
pub(super) fn tame(fd: OwnedFd) -> Option<OwnedFd> {
    if is_tame(&fd) {
        return Some(fd);
    }
    close_elsewhere(fd);
    rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Whether a close returns at once. None of these calls waits, whatever it is.
fn is_tame(fd: &OwnedFd) -> bool {
    // Files in memory have seals, memfds or not.
    if rustix::fs::fcntl_get_seals(fd).is_ok() {
        return true;
    }
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let Ok(stat) = rustix::fs::statx(fd, c"", flags, StatxFlags::TYPE) else { return false };
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Socket if sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX) => true,
        // Bells have no type.
        FileType::Fifo | FileType::Directory | FileType::Unknown => true,
        // Pidfds are files, in newer kernels.
        FileType::RegularFile if pid_of(fd.as_fd()).is_some() => true,
        // Of a place, nothing is open.
        _ => rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::PATH)),
    }
}

fn close_elsewhere(fd: OwnedFd) {
    {
        let mut discarded = discarded();
        discarded.fds.push(fd);
        if discarded.threads == MOST {
            return;
        }
        discarded.threads += 1;
    }
    if thread::Builder::new().stack_size(64 << 10).spawn(close_all).is_err() {
        discarded().threads -= 1;
    }
}

fn close_all() {
    loop {
        let mut discarded = discarded();
        let Some(fd) = discarded.fds.pop() else {
            discarded.threads -= 1;
            return;
        };
        drop(discarded);
        let _ = sockopt::set_socket_linger(&fd, None);
        drop(fd);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_we_send_is_tame_and_what_may_wait_is_not() {
        let me = rustix::process::getpid();
        let pidfd = rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty()).unwrap();
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let path = OFlags::PATH | OFlags::CLOEXEC;
        for fd in [
            pidfd,
            rustix::event::eventfd(1, flags).unwrap(),
            rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap(),
            rustix::pipe::pipe().unwrap().0,
            stream.into(),
            rustix::fs::open("/proc/version", path, Mode::empty()).unwrap(),
        ] {
            assert!(is_tame(&fd), "{fd:?}");
        }
        let file: OwnedFd = File::open("/proc/version").unwrap().into();
        let socket: OwnedFd = TcpListener::bind("127.0.0.1:0").unwrap().into();
        for fd in [file, socket] {
            assert!(!is_tame(&fd), "{fd:?}");
            let stand_in = tame(fd).unwrap();
            assert!(is_tame(&stand_in));
        }
    }
}
