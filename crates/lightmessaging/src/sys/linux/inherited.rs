//! Listening sockets that were open before the process began (`sd_listen_fds(3)`).
//!
//! An unsafe room. It promises that a socket is used by one service at a time, and only if the starter
//! of this process meant it for this process. The descriptor itself stays open, so that a service can
//! be stopped and can check in again.
#![allow(unsafe_code)]

use std::env;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::FdFlags;
use rustix::net::{SocketAddrAny, sockopt};

use super::Listener;
use super::process::pidfd_id;
use super::socket::is_ours;

/// The first descriptor that is handed over, `SD_LISTEN_FDS_START`.
const FIRST: RawFd = 3;
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// The socket is in use until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken(RawFd);

impl Drop for Taken {
    fn drop(&mut self) {
        taken().retain(|fd| *fd != self.0);
    }
}

fn taken() -> MutexGuard<'static, Vec<RawFd>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes over the listening socket that was handed to this process under this name, or that is
/// bound to a file of this name.
pub(crate) fn take(name: &[u8], file: &str) -> Option<(Listener, Taken)> {
    let number = |key| env::var(key).ok()?.parse::<i32>().ok();
    if number("LISTEN_PID")? != rustix::process::getpid().as_raw_nonzero().get() {
        return None;
    }
    // A process id may have been another's before; the pidfd's own number never was.
    if let (Ok(theirs), Some(ours)) = (env::var("LISTEN_PIDFDID"), own_id())
        && theirs.parse() != Ok(ours)
    {
        return None;
    }
    let count = number("LISTEN_FDS")?.clamp(0, 1024);
    let names = env::var_os("LISTEN_FDNAMES").unwrap_or_default();
    // A name may have a colon in it, which is no matter if it is the only one.
    let mut names = names.as_bytes().split(|byte| *byte == b':' && count > 1);
    let mut taken = taken();
    for fd in FIRST..FIRST + count {
        let is_named = names.next().is_some_and(|its| its == name);
        if taken.contains(&fd) || !is_listener(fd, is_named, file) {
            continue;
        }
        // SAFETY: it is open, or `is_listener` would have failed; its starter gave it to this
        // process, of which no other part has any business with a socket of ours.
        let inherited = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::io::fcntl_setfd(inherited, FdFlags::CLOEXEC).ok()?;
        rustix::io::ioctl_fionbio(inherited, true).ok()?;
        let own = rustix::io::fcntl_dupfd_cloexec(inherited, FIRST).ok()?;
        taken.push(fd);
        return Some((Listener::from_inherited(own), Taken(fd)));
    }
    None
}

/// The number of this process's pidfd.
fn own_id() -> Option<u64> {
    let me = rustix::process::getpid();
    pidfd_id(rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty()).ok()?)
}

/// Whether it is a socket of our kind that listens, and the one that is looked for.
fn is_listener(fd: RawFd, is_named: bool, file: &str) -> bool {
    // SAFETY: borrowed for the length of this function only; a number that is not open makes the
    // first call fail.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let is_ours = is_ours(fd) && sockopt::socket_acceptconn(fd) == Ok(true);
    let is_at = |address: SocketAddrAny| {
        rustix::net::SocketAddrUnix::try_from(address).is_ok_and(|address| {
            let path = address.path_bytes().unwrap_or_default();
            path.rsplit(|byte| *byte == b'/').next() == Some(file.as_bytes())
        })
    };
    is_ours && (is_named || rustix::net::getsockname(fd).is_ok_and(is_at))
}
