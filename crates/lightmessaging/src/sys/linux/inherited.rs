//! Listening sockets that were open before the process began (`sd_listen_fds(3)`).
//!
//! An unsafe room. It promises that a socket is used by one service at a time, and only if the starter
//! of this process meant it for this process. The descriptor itself stays open, so that a service can
//! be stopped and can check in again.
#![allow(unsafe_code)]

use std::env;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketAddrAny, SocketType, sockopt};

use super::Listener;

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
    let count = number("LISTEN_FDS")?.clamp(0, 1024);
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut taken = taken();
    for fd in FIRST..FIRST + count {
        let is_named = names.next().is_some_and(|its| its.as_bytes() == name);
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

/// Whether it is a socket of our kind that listens, and the one that is looked for.
fn is_listener(fd: RawFd, is_named: bool, file: &str) -> bool {
    // SAFETY: borrowed for the length of this function only; a number that is not open makes the
    // first call fail.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let is_ours = sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(fd) == Ok(SocketType::SEQPACKET)
        && sockopt::socket_acceptconn(fd) == Ok(true);
    let is_at = |address: SocketAddrAny| {
        rustix::net::SocketAddrUnix::try_from(address).is_ok_and(|address| {
            let path = address.path_bytes().unwrap_or_default();
            path.rsplit(|byte| *byte == b'/').next() == Some(file.as_bytes())
        })
    };
    is_ours && (is_named || rustix::net::getsockname(fd).is_ok_and(is_at))
}
