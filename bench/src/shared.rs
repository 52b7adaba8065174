//! Memory that two processes share, for the floors. An unsafe room.
//!
//! Both processes are this program, so neither lies: each part of the memory has one writer at a
//! time, handed over by the atomic words.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// A mapped memfd.
pub struct Shared {
    base: *mut u8,
    len: usize,
    fd: OwnedFd,
}

impl Shared {
    /// New memory, inherited by every child.
    pub fn new(len: usize) -> Shared {
        let fd = rustix::fs::memfd_create("floor", MemfdFlags::empty()).expect("a memfd");
        rustix::fs::ftruncate(&fd, len as u64).expect("its length");
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, len as u64).expect("its memory");
        Shared::map(fd, len)
    }

    /// The memory that the parent made.
    pub fn inherited(fd: i32, len: usize) -> Shared {
        Shared::map(adopt(fd), len)
    }

    fn map(fd: OwnedFd, len: usize) -> Shared {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping touches nobody's memory.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                &fd,
                0,
            )
        };
        Shared { base: base.expect("a mapping").cast(), len, fd }
    }

    /// The number under which a child finds it.
    pub fn fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// An atomic word.
    pub fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len);
        // SAFETY: in bounds, aligned, and mapped as long as `self`.
        unsafe { &*self.base.add(at).cast() }
    }

    /// Copies in.
    #[inline]
    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        // SAFETY: in bounds; the other process does not touch them now.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len()) };
    }

    /// Copies out.
    #[inline]
    pub fn read(&self, at: usize, bytes: &mut [u8]) {
        assert!(at + bytes.len() <= self.len);
        // SAFETY: as in `write`.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base.add(at), bytes.as_mut_ptr(), bytes.len())
        };
    }

    /// The bytes in place, while it is this process's turn.
    #[inline]
    pub fn bytes(&self, at: usize, len: usize) -> &[u8] {
        assert!(at + len <= self.len);
        // SAFETY: in bounds; the other process waits until we have answered.
        unsafe { std::slice::from_raw_parts(self.base.add(at), len) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.len) };
    }
}

/// Takes over a descriptor that the parent left open for this child.
pub fn adopt(fd: i32) -> OwnedFd {
    // SAFETY: the parent named a descriptor that it left open for this, and nobody else takes it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
