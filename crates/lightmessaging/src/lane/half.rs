//! One side's memory and where in it everything is.

use std::mem::offset_of;
use std::os::fd::AsFd;
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
    pub(super) memory: Mapping,
    pub(super) shape: Shape,
}

impl Half {
    /// Makes this side's memory: mapped here, sealed, its descriptor ready to be sent.
    pub(super) fn make(shape: Shape) -> std::io::Result<(Half, Fd)> {
        let fd = memory::create(shape.len)?;
        let mapping = Mapping::own(&fd, shape.len)?;
        memory::seal(&fd)?;
        Ok((Half { memory: mapping, shape }, fd.into()))
    }

    /// Checks and maps the peer's memory.
    pub(super) fn of_peer(fd: impl AsFd, shape: Shape) -> Result<Half, Broken> {
        let len = memory::check(&fd).map_err(Broken::Malformed)?;
        if len < shape.len as u64 {
            return Err(Broken::Malformed("a memfd that is too small"));
        }
        Ok(Half { memory: Mapping::of_peer(&fd, shape.len)?, shape })
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

    #[inline(always)]
    pub(super) fn room(&self, slot: usize) -> Span<'_> {
        let at = self.shape.rooms + slot * SLOT_ROOM;
        self.memory.span(at, SLOT_ROOM).expect("a shape lies in its memory")
    }

    /// Asks for the lines that are written next in a slot of ours, while there is other work: likely as
    /// many as last time, when an inline payload had `last` bytes.
    #[inline(always)]
    pub(super) fn prepare(&self, slot: usize, last: u32) {
        let room = self.shape.rooms + slot * SLOT_ROOM;
        self.memory.will_write(room);
        for at in (LINE..(last as usize).min(SLOT_ROOM)).step_by(LINE) {
            self.memory.will_write(room + at);
        }
    }
}
