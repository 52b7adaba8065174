//! Doorbells: eventfds that are never read (`eventfd(2)`).
//!
//! A bell's counter starts at 1 and stays there, so it is always readable, and an edge-triggered
//! epoll reports it once for each write. The ringer writes 0, which the kernel never lets block,
//! whatever the peer did to the counter or the flags, and which wakes all the same.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::{AtFlags, FileType, StatxFlags};

use super::{Fd, limit};

/// Wakes whoever waits for it, in this process or another.
#[derive(Debug)]
pub(crate) struct Bell(Fd);

impl Bell {
    pub(crate) fn new() -> io::Result<Bell> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let fd = limit::within(|| rustix::event::eventfd(1, flags))?;
        Ok(Bell(fd.into()))
    }

    /// Takes a descriptor from a peer, if it is an eventfd: anything else might block the ringer.
    ///
    /// The kernel's own name for it is asked (`proc_pid_fd(5)`), which involves no file system.
    pub(crate) fn from_peer(fd: OwnedFd) -> Result<Bell, &'static str> {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        match rustix::fs::readlink(path, Vec::new()) {
            Ok(target) if target.as_bytes() == b"anon_inode:[eventfd]" => Ok(Bell(fd.into())),
            _ => Err("a bell that is no eventfd"),
        }
    }

    /// Takes a descriptor from a peer that this side will only wait for, and never ring: it must have
    /// nothing behind it that could keep an epoll waiting, such as a file system.
    ///
    /// Asking for its type takes a sixth of the time that asking for its name does.
    pub(crate) fn to_hear(fd: OwnedFd) -> Result<Bell, &'static str> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        match rustix::fs::statx(&fd, c"", flags, StatxFlags::TYPE) {
            // What is made of nothing has no type.
            Ok(stat) if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Unknown => {
                Ok(Bell(fd.into()))
            }
            _ => Err("a bell that is none"),
        }
    }

    /// Wakes the sleeper, or does nothing.
    pub(crate) fn ring(&self) {
        // The only failures are those of a bell that the peer broke, to its own harm.
        let _ = rustix::io::write(&self.0, &0u64.to_ne_bytes());
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
