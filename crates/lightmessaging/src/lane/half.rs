//! One side's memory and where in it everything is.

use std::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Broken;
use crate::shm::layout::{Answer, AnswerWord, Call, Control, SLOT_ROOM, Shape, Word};
use crate::shm::mapping::{Mapping, Span};
use crate::sys::{Fd, memory};

/// The length of a cache line, as far as asking for one goes.
const LINE: usize = 64;

/// One side's memory. Its shape was checked against its length when it was made or mapped.
#[derive(Debug)]
pub(super) struct Half {
    memory: Mapping,
    pub(super) shape: Shape,
    /// What only some lanes need: the ring, and the rooms of all slots but the first.
    annex: OnceLock<Mapping>,
}

impl Half {
    /// Makes this side's memory: mapped here, sealed, its descriptor ready to be sent.
    pub(super) fn make(shape: Shape) -> std::io::Result<(Half, Fd)> {
        let (memory, fd) = make(shape.len)?;
        Ok((Half { memory, shape, annex: OnceLock::new() }, fd))
    }

    /// Checks and maps the peer's memory.
    pub(super) fn of_peer(fd: impl AsFd, shape: Shape) -> Result<Half, Broken> {
        Ok(Half { memory: map(fd, shape.len)?, shape, annex: OnceLock::new() })
    }

    /// Makes the annex of this side's memory: `share` tells the other side of it, and the annex is in
    /// use once that is done. Under a lock, as there is one only.
    pub(super) fn extend<E: From<std::io::Error>>(
        &self,
        share: impl FnOnce(&Fd) -> Result<(), E>,
    ) -> Result<(), E> {
        let (annex, fd) = make(self.shape.annex_len)?;
        share(&fd)?;
        let _ = self.annex.set(annex);
        Ok(())
    }

    /// Checks and maps the annex of the peer's memory.
    pub(super) fn extend_peers(&self, fd: impl AsFd) -> Result<(), Broken> {
        let annex = map(fd, self.shape.annex_len)?;
        self.annex.set(annex).map_err(|_| Broken::Malformed("a second annex"))
    }

    /// The annex, if there is one yet.
    #[inline(always)]
    pub(super) fn annex(&self) -> Option<&Mapping> {
        self.annex.get()
    }

    /// Gives the pages back to the system's idea of our size.
    pub(super) fn forget_pages(&self) {
        self.memory.forget_pages();
        if let Some(annex) = self.annex() {
            annex.forget_pages();
        }
    }

    #[inline(always)]
    pub(super) fn control(&self) -> &Control {
        self.memory.words(self.shape.control)
    }

    /// The last loan of a region of the other side's that this one has handed back.
    pub(super) fn returned(&self, number: usize) -> u64 {
        self.control().returned[number].load(Ordering::SeqCst)
    }

    /// Asks for the line in which a region of the other side's will be handed back, while its payload
    /// is being read: the other side has looked there since.
    pub(super) fn prepare_to_return(&self, number: usize) {
        let word = offset_of!(Control, returned) + number * size_of::<AtomicU64>();
        self.memory.will_write(self.shape.control + word);
    }

    /// A client's words: which call is in which slot.
    #[inline(always)]
    pub(super) fn call_words(&self) -> &[Word] {
        self.memory.words_in_row(self.shape.words, self.shape.slots)
    }

    #[inline(always)]
    pub(super) fn call(&self, slot: usize) -> &Call {
        self.memory.words(self.shape.lines + slot * size_of::<Call>())
    }

    /// A service's word: which call was answered in a slot.
    #[inline(always)]
    pub(super) fn answer_word(&self, slot: usize) -> &AtomicU64 {
        &self.memory.words::<AnswerWord>(self.shape.words + slot * size_of::<AnswerWord>()).0
    }

    #[inline(always)]
    pub(super) fn answer(&self, slot: usize) -> &Answer {
        self.memory.words(self.shape.lines + slot * size_of::<Answer>())
    }

    /// A service's word: which call was taken from a slot.
    #[inline(always)]
    pub(super) fn taken_word(&self, slot: usize) -> &AtomicU64 {
        &self.memory.words::<Word>(self.shape.taken + slot * size_of::<Word>()).0
    }

    /// The room of a slot, if it is there yet.
    #[inline(always)]
    pub(super) fn room(&self, slot: usize) -> Option<Span<'_>> {
        let (memory, at) = self.place(slot)?;
        Some(memory.span(at, SLOT_ROOM).expect("a shape lies in its memory"))
    }

    #[inline(always)]
    fn place(&self, slot: usize) -> Option<(&Mapping, usize)> {
        if slot == 0 {
            return Some((&self.memory, self.shape.room));
        }
        Some((self.annex()?, self.shape.rooms + (slot - 1) * SLOT_ROOM))
    }

    /// Asks for the lines that are written next in a slot of ours, while there is other work: likely as
    /// many as last time, when an inline payload had `last` bytes.
    #[inline(always)]
    pub(super) fn prepare(&self, slot: usize, last: u32) {
        if let Some((memory, at)) = self.place(slot) {
            memory.will_write(at);
            for line in (LINE..(last as usize).min(SLOT_ROOM)).step_by(LINE) {
                memory.will_write(at + line);
            }
        }
    }
}

/// Memory of ours: mapped, sealed, and its descriptor.
fn make(len: usize) -> std::io::Result<(Mapping, Fd)> {
    let fd = memory::create(len)?;
    let mapping = Mapping::own(&fd, len)?;
    memory::seal(&fd)?;
    Ok((mapping, fd.into()))
}

/// A peer's memory, checked.
fn map(fd: impl AsFd, len: usize) -> Result<Mapping, Broken> {
    let there = memory::check(&fd).map_err(Broken::Malformed)?;
    if there < len as u64 {
        return Err(Broken::Malformed("a memfd that is too small"));
    }
    Ok(Mapping::of_peer(&fd, len)?)
}
