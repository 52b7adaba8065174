//! Memory of our own making, lent to one writer at a time. An unsafe room.
//!
//! It promises the safe ones: while a [`Draft`] lives, nothing else in this process reads or writes
//! its memory; while a [`Written`] lives, nothing writes to it. So both hand out ordinary slices.
//! The peer cannot write, as its view is sealed. A forked child could, through the mapping that it
//! inherits, and its parent could under it: there both are empty.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::mapping::Mapping;
use crate::sys::fork;

/// The owner's handle. It is never cloned, so whoever else has the memory has it by a loan.
#[derive(Debug)]
pub(crate) struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    memory: Mapping,
    /// A draft of it was begun and has not become [`Written`] yet.
    drafted: AtomicBool,
    /// The fork epoch it was made in.
    epoch: u64,
}

/// The right to write, for one at a time.
#[derive(Debug)]
pub(crate) struct Draft(Arc<Shared>);

/// What was written, for as long as somebody reads it.
#[derive(Debug)]
pub(crate) struct Written(Arc<Shared>);

impl Store {
    /// Takes memory of our own making.
    pub(crate) fn new(memory: Mapping) -> Store {
        let drafted = AtomicBool::new(false);
        Store(Arc::new(Shared { memory, drafted, epoch: fork::epoch() }))
    }

    /// Whether nobody else has it.
    pub(crate) fn is_idle(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Begins to write; `None` while somebody else has it.
    pub(crate) fn draft(&mut self) -> Option<Draft> {
        // Nobody else has it, and nobody else can get it from here while `self` is borrowed.
        *Arc::get_mut(&mut self.0)?.drafted.get_mut() = true;
        Some(Draft(self.0.clone()))
    }

    /// A copy of the first `len` bytes; `None` while they are being written, or if there are not so
    /// many.
    pub(crate) fn copy(&self, len: usize) -> Option<Vec<u8>> {
        // Pairs with the store in `finish`. No draft begins meanwhile, as `self` is borrowed.
        if self.0.drafted.load(Ordering::Acquire) {
            return None;
        }
        let mut bytes = Vec::new();
        self.0.memory.span(0, len)?.append_to(&mut bytes);
        Some(bytes)
    }

    /// Makes all pages present for writing.
    pub(crate) fn populate(&self) {
        self.0.memory.populate();
    }
}

impl Draft {
    /// The first `len` bytes: what was written there last, or zeroes. None in a forked child.
    ///
    /// # Panics
    ///
    /// If there are not so many: a bug of this library.
    #[inline]
    pub(crate) fn bytes(&self, len: usize) -> &[u8] {
        let len = self.0.here(len);
        // SAFETY: a draft is the only one that writes, and it is borrowed. In a child the slice is
        // empty, so nobody there has written through one.
        unsafe { self.0.memory.bytes(len) }
    }

    /// The same, to be written.
    ///
    /// # Panics
    ///
    /// As [`bytes`](Draft::bytes).
    #[inline]
    pub(crate) fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        let len = self.0.here(len);
        // SAFETY: a draft is made only while nobody else has the memory (`Store::draft`), the store
        // copies nothing meanwhile (`Store::copy`), and this one is borrowed for writing. In a child
        // the slice is empty.
        unsafe { self.0.memory.bytes_mut(len) }
    }

    /// Ends the writing for good.
    pub(crate) fn finish(self) -> Written {
        // Pairs with the load in `Store::copy`.
        self.0.drafted.store(false, Ordering::Release);
        Written(self.0)
    }
}

impl Written {
    /// The first `len` bytes. None in a forked child.
    ///
    /// # Panics
    ///
    /// As [`Draft::bytes`].
    #[inline]
    pub(crate) fn bytes(&self, len: usize) -> &[u8] {
        let len = self.0.here(len);
        // SAFETY: the draft is gone, and none is made while this lives (`Store::draft`).
        unsafe { self.0.memory.bytes(len) }
    }
}

impl Shared {
    /// So many bytes in the process that made the memory, none in a child of it.
    #[inline]
    fn here(&self, len: usize) -> usize {
        if self.epoch == fork::epoch() { len } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory;

    fn store() -> Store {
        let fd = memory::create(8192).unwrap();
        let memory = Mapping::own(&fd, 8192).unwrap();
        memory::seal(&fd).unwrap();
        Store::new(memory)
    }

    #[test]
    fn there_is_one_draft_at_a_time_and_none_while_it_is_read() {
        let mut store = store();
        let mut draft = store.draft().unwrap();
        assert!(store.draft().is_none());
        assert!(!store.is_idle());
        draft.bytes_mut(8192)[8190..].copy_from_slice(b"ok");
        let written = draft.finish();
        assert!(store.draft().is_none());
        assert_eq!(&written.bytes(8192)[8190..], b"ok");
        drop(written);
        assert!(store.is_idle());
        assert_eq!(&store.draft().unwrap().bytes(8192)[8190..], b"ok");
    }

    #[test]
    fn nothing_is_copied_while_it_is_written() {
        let mut store = store();
        let mut draft = store.draft().unwrap();
        draft.bytes_mut(4).copy_from_slice(b"loan");
        assert_eq!(store.copy(4), None);
        let written = draft.finish();
        assert_eq!(store.copy(4).as_deref(), Some(&b"loan"[..]));
        drop(written);
        assert_eq!(store.copy(4).as_deref(), Some(&b"loan"[..]));
        assert_eq!(store.copy(8193), None);
    }

    #[test]
    fn memory_on_loan_outlives_its_store() {
        let mut store = store();
        let mut draft = store.draft().unwrap();
        drop(store);
        draft.bytes_mut(4).copy_from_slice(b"loan");
        assert_eq!(draft.finish().bytes(4), b"loan");
    }
}
