//! Mapped shared memory. An unsafe room.
//!
//! The peer may change any byte at any time. So no reference to bytes of a mapping ever leaves
//! this file except through one `unsafe fn`: there are references to atomics, and copies in and
//! out of a checked [`Span`]. A mapping stays mapped, at its full length, for as long as it lives
//! (its seals keep the memory from being cut off); a read can tear, but it reads.
#![allow(unsafe_code)]

use std::mem::{align_of, size_of};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::{io, slice};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::layout::{Answer, AnswerWord, Call, Control, Word};

/// A type that consists of atomics only, so that a shared reference to it is sound although
/// another process writes.
///
/// # Safety
///
/// Every byte is part of an atomic integer or padding, and any bit pattern is valid.
pub(crate) unsafe trait Words {}
// SAFETY: atomics only, see layout.rs.
unsafe impl Words for Control {}
// SAFETY: as above.
unsafe impl Words for Call {}
// SAFETY: as above.
unsafe impl Words for Answer {}
// SAFETY: as above.
unsafe impl Words for AnswerWord {}
// SAFETY: as above.
unsafe impl Words for Word {}

/// A whole memfd, mapped and shared.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    writable: bool,
}

// SAFETY: it owns its address range; all access goes through atomics and raw copies.
unsafe impl Send for Mapping {}
// SAFETY: as above. Who may write which span when is the business of the lane.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps memory of our own making for writing.
    pub(crate) fn own(fd: impl AsFd, len: usize) -> io::Result<Mapping> {
        Mapping::new(fd, len, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// Maps a peer's memory, which must have been checked to be `len` bytes long and sealed.
    pub(crate) fn of_peer(fd: impl AsFd, len: usize) -> io::Result<Mapping> {
        Mapping::new(fd, len, ProtFlags::READ)
    }

    fn new(fd: impl AsFd, len: usize, protection: ProtFlags) -> io::Result<Mapping> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0)
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, len, writable: protection.contains(ProtFlags::WRITE) })
    }

    /// The words at `offset`, which comes from our own shape or was checked against ours.
    ///
    /// # Panics
    ///
    /// If they do not lie in the mapping: a bug of this library.
    #[inline]
    pub(crate) fn words<T: Words>(&self, offset: usize) -> &T {
        assert!(offset.is_multiple_of(align_of::<T>()) && offset + size_of::<T>() <= self.len);
        // SAFETY: in bounds by the check above.
        let words = unsafe { self.base.add(offset) }.cast::<T>();
        // SAFETY: in bounds, aligned (the base is page-aligned), alive as long as `self`, and
        // atomics only, so that other writers, in whichever process, are allowed.
        unsafe { words.as_ref() }
    }

    /// As many words as `count` at `offset`, one behind the other.
    ///
    /// # Panics
    ///
    /// As [`words`](Mapping::words).
    #[inline]
    pub(crate) fn words_in_row<T: Words>(&self, offset: usize, count: usize) -> &[T] {
        let end = offset + count * size_of::<T>();
        assert!(offset.is_multiple_of(align_of::<T>()) && end <= self.len);
        // SAFETY: in bounds by the check above.
        let words = unsafe { self.base.add(offset) }.cast::<T>();
        // SAFETY: as in `words`, for each of them.
        unsafe { slice::from_raw_parts(words.as_ptr(), count) }
    }

    /// Asks for the cache line at `offset`, which is about to be written: the peer has read it,
    /// and taking it back costs as much as a message. A hint; it changes nothing.
    #[inline(always)]
    pub(crate) fn will_write(&self, offset: usize) {
        if offset >= self.len {
            return;
        }
        // SAFETY: in bounds by the check above.
        let line = unsafe { self.base.add(offset) }.as_ptr();
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads and writes nothing that the program can see and never faults;
        // processors without the instruction ignore it. The compiler's own intrinsic would make
        // it a prefetch for reading.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags))
        };
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("prfm pstl1keep, [{}]", in(reg) line, options(nostack, preserves_flags))
        };
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = line;
    }

    /// The `len` bytes at `offset`, if they lie in the mapping.
    #[inline]
    pub(crate) fn span(&self, offset: usize, len: usize) -> Option<Span<'_>> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then_some(Span { mapping: self, offset, len })
    }

    /// The first `len` bytes, to be read in place.
    ///
    /// # Panics
    ///
    /// If there are not so many, or the memory is a peer's: a bug of this library.
    ///
    /// # Safety
    ///
    /// Nobody who has this mapping, or inherited it (`fork(2)`), writes to the bytes until the slice is
    /// gone. A peer cannot: our own memory is sealed against that.
    pub(crate) unsafe fn bytes(&self, len: usize) -> &[u8] {
        assert!(self.writable && len <= self.len);
        // SAFETY: in bounds, initialised (a memfd begins as zeroes), alive as long as `self`, and nobody
        // writes by the contract.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), len) }
    }

    /// The first `len` bytes, to be read and written in place.
    ///
    /// # Panics
    ///
    /// As [`bytes`](Mapping::bytes).
    ///
    /// # Safety
    ///
    /// Nobody who has this mapping, or inherited it (`fork(2)`), reads or writes the bytes until the
    /// slice is gone.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn bytes_mut(&self, len: usize) -> &mut [u8] {
        assert!(self.writable && len <= self.len);
        // SAFETY: as in `bytes`, and the caller is the only one by the contract.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), len) }
    }

    /// Gives the pages back to the system's idea of our size; they come again when touched.
    pub(crate) fn forget_pages(&self) {
        // SAFETY: exactly our mapping; a shared file's pages survive their unmapping.
        let _ = unsafe {
            rustix::mm::madvise(self.base.as_ptr().cast(), self.len, Advice::LinuxDontNeed)
        };
    }

    /// Makes all pages present for writing at once, which is cheaper than one fault for each.
    pub(crate) fn populate(&self) {
        // SAFETY: exactly our mapping; populating changes no byte. Kernels before 5.14 refuse it.
        let _ = unsafe {
            rustix::mm::madvise(self.base.as_ptr().cast(), self.len, Advice::LinuxPopulateWrite)
        };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and no borrow of it outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Some bytes of a mapping, checked to lie in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'a> {
    mapping: &'a Mapping,
    offset: usize,
    len: usize,
}

impl<'a> Span<'a> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Part of these bytes, cut to what there is.
    #[inline]
    pub(crate) fn part(&self, offset: usize, len: usize) -> Span<'a> {
        let offset = offset.min(self.len);
        let len = len.min(self.len - offset);
        Span { mapping: self.mapping, offset: self.offset + offset, len }
    }

    /// Copies `bytes` in, to the beginning of the span.
    ///
    /// # Panics
    ///
    /// If the bytes are longer than the span, or the memory is a peer's: a bug of this library.
    #[inline]
    pub(crate) fn copy_in(&self, bytes: &[u8]) {
        assert!(self.mapping.writable && bytes.len() <= self.len);
        // SAFETY: in bounds since the span was made.
        let to = unsafe { self.mapping.base.add(self.offset) };
        // SAFETY: `to` has room by the check above; the source is private memory, so they do not
        // overlap. No reference to the target exists anywhere.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
    }

    /// Copies out as many bytes as both sides have, and says how many.
    #[inline]
    pub(crate) fn copy_out(&self, bytes: &mut [u8]) -> usize {
        let len = bytes.len().min(self.len);
        // SAFETY: in bounds since the span was made.
        let from = unsafe { self.mapping.base.add(self.offset) };
        // SAFETY: both have `len` bytes, and `bytes` is private memory. A byte that the peer
        // changes meanwhile arrives old or new.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), bytes.as_mut_ptr(), len) };
        len
    }

    /// Copies all of it out, behind what the vector holds.
    #[inline]
    pub(crate) fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.reserve(self.len);
        // SAFETY: in bounds since the span was made.
        let from = unsafe { self.mapping.base.add(self.offset) };
        let to = bytes.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `reserve` made room for `self.len` bytes of private memory at `to`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, self.len) };
        let len = bytes.len() + self.len;
        // SAFETY: these bytes were written just now.
        unsafe { bytes.set_len(len) };
    }

    /// The bytes in place.
    ///
    /// # Safety
    ///
    /// No process, this one or the peer, writes to them until the slice is gone.
    pub(crate) unsafe fn as_slice(&self) -> &'a [u8] {
        // SAFETY: in bounds since the span was made.
        let from = unsafe { self.mapping.base.add(self.offset) };
        // SAFETY: in bounds, alive as long as the mapping, and nobody writes by the contract.
        unsafe { slice::from_raw_parts(from.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory;

    fn mapping(len: usize) -> (Mapping, Mapping) {
        let fd = memory::create(len).unwrap();
        let own = Mapping::own(&fd, len).unwrap();
        memory::seal(&fd).unwrap();
        assert_eq!(memory::check(&fd), Ok(len as u64));
        let peer = Mapping::of_peer(&fd, len).unwrap();
        (own, peer)
    }

    #[test]
    fn a_span_lies_in_its_mapping() {
        let (own, _) = mapping(8192);
        assert!(own.span(0, 8192).is_some());
        assert!(own.span(8192, 0).is_some());
        assert!(own.span(8192, 1).is_none());
        assert!(own.span(1, usize::MAX).is_none());
        assert_eq!(own.span(0, 10).unwrap().part(8, 10).len(), 2);
        assert_eq!(own.span(0, 10).unwrap().part(11, 10).len(), 0);
    }

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let (own, peer) = mapping(4096);
        own.span(100, 5).unwrap().copy_in(b"hello");
        let mut bytes = vec![b'>'];
        peer.span(100, 5).unwrap().append_to(&mut bytes);
        assert_eq!(bytes, b">hello");
        let mut short = [0; 3];
        assert_eq!(peer.span(100, 5).unwrap().copy_out(&mut short), 3);
        assert_eq!(&short, b"hel");
    }

    #[test]
    fn unsealed_memory_is_refused() {
        let fd = memory::create(4096).unwrap();
        assert_eq!(memory::check(&fd), Err("a memfd without its seals"));
        let file = tempfile::tempfile().unwrap();
        assert!(memory::check(&file).is_err());
    }
}
