//! A descriptor that this library owns, known to the fork handler until it is closed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::fork;

/// An owned descriptor. A forked child's copy is replaced by an inert one in the child, so that
/// the death of this process is seen although the child lives.
#[derive(Debug)]
pub struct Fd(OwnedFd);

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Fd {
        fork::own(fd.as_raw_fd());
        Fd(fd)
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // Before the close, so that the number is never marked when somebody else has it.
        fork::disown(self.0.as_raw_fd());
    }
}
