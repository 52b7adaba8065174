//! The map of a lane's memory: the same bytes for 32- and 64-bit peers. No run time.
//!
//! Every struct here is made of atomics only, so that a reference to one is sound whatever the
//! peer writes meanwhile. Words that one side polls while the other works have a cache line of
//! their own. See PROTOCOL.md.

use std::mem::{align_of, offset_of, size_of};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// The unit in which memory is shared.
pub(crate) const PAGE: usize = 4096;
/// Call slots that our lanes have unless told otherwise: calls in flight at once on one connection.
pub(crate) const SLOTS: usize = 8;
/// The most call slots that a peer's lane may have.
pub(crate) const SLOTS_MAX: usize = 64;
/// Inline room of one call slot, in bytes.
pub(crate) const SLOT_ROOM: usize = crate::INLINE_MAX;
/// Bytes of our ring of one-way messages.
pub(crate) const RING: usize = 64 * 1024;
/// The bounds of a peer's ring: a power of two between these.
pub(crate) const RING_MIN: usize = 16 * 1024;
pub(crate) const RING_MAX: usize = 16 * 1024 * 1024;
/// Regions that each side of a lane may have lent or kept at once.
pub(crate) const REGIONS: usize = 32;

/// In place of the cut: there will be one, once the service has taken what is there.
pub(crate) const CLOSING: u64 = u64::MAX;

/// The first section of either side's memory.
#[repr(C, align(64))]
pub(crate) struct Control {
    /// Client: the ring's tail, a byte position that only grows. Service: the ring's head.
    pub(crate) position: AtomicU64,
    _0: [AtomicU64; 7],
    /// Service: the core it is awake on, plus one; 0 when it sleeps and wants its bell rung.
    /// Client: 1 when it waits for room in the ring or for a region, and wants the last bell.
    pub(crate) awake: AtomicU32,
    /// Client: the core its last message was sent from, plus one.
    pub(crate) core: AtomicU32,
    /// When this side last rang the other's bell: nanoseconds of CLOCK_MONOTONIC, or 0.
    pub(crate) rang_at: AtomicU64,
    /// Service: 0; [`CLOSING`]; or one more than the sequence number of the last message it will
    /// ever take.
    pub(crate) cut: AtomicU64,
    _2: [AtomicU64; 5],
    /// For each region of the other side: the last loan of it that was handed back.
    pub(crate) returned: [AtomicU64; REGIONS],
    _3: [AtomicU64; 16],
}

/// A client's call slot: the sequence number of the call in it, written last. They lie side by
/// side, so that the service polls one line for all of them; it polls while the rest of a call is
/// being written, so nothing else is in that line. Also what a service has taken from a slot.
#[repr(C, align(8))]
pub(crate) struct Word(pub(crate) AtomicU64);

/// What else the client says about the call in a slot.
#[repr(C, align(64))]
pub(crate) struct Call {
    /// The sequence number of the call that the client has given up.
    pub(crate) cancelled: AtomicU64,
    /// The core on which the caller is awake, plus one; 0 when it sleeps and wants its bell rung.
    pub(crate) awake: AtomicU32,
    pub(crate) id: AtomicU32,
    pub(crate) len: AtomicU32,
    /// 0 if the payload is inline, else the region's number plus one.
    pub(crate) region: AtomicU32,
    pub(crate) loan: AtomicU64,
    _0: [AtomicU64; 4],
}

/// A service's answer: the sequence number of the call that is answered, written last. Each is
/// polled by another thread, so each has a line of its own.
#[repr(C, align(64))]
pub(crate) struct AnswerWord(pub(crate) AtomicU64, [AtomicU64; 7]);

/// What else the service says about its answer in a slot.
#[repr(C, align(64))]
pub(crate) struct Answer {
    /// 0 a reply, 1 no reply, 2 not taken.
    pub(crate) status: AtomicU32,
    pub(crate) len: AtomicU32,
    pub(crate) region: AtomicU32,
    _0: AtomicU32,
    pub(crate) loan: AtomicU64,
    _1: [AtomicU64; 5],
}

const _: () = {
    assert!(size_of::<Control>() == 512 && align_of::<Control>() == 64);
    assert!(offset_of!(Control, position) == 0);
    assert!(offset_of!(Control, awake) == 64);
    assert!(offset_of!(Control, core) == 68 && offset_of!(Control, rang_at) == 72);
    assert!(offset_of!(Control, cut) == 80);
    assert!(offset_of!(Control, returned) == 128);
    assert!(size_of::<Word>() == 8 && align_of::<Word>() == 8);
    assert!(size_of::<Call>() == 64 && offset_of!(Call, cancelled) == 0);
    assert!(offset_of!(Call, awake) == 8 && offset_of!(Call, id) == 12);
    assert!(offset_of!(Call, len) == 16 && offset_of!(Call, region) == 20);
    assert!(offset_of!(Call, loan) == 24);
    assert!(size_of::<AnswerWord>() == 64 && align_of::<AnswerWord>() == 64);
    assert!(size_of::<Answer>() == 64 && offset_of!(Answer, status) == 0);
    assert!(offset_of!(Answer, len) == 4 && offset_of!(Answer, region) == 8);
    assert!(offset_of!(Answer, loan) == 16);
};

/// Where the parts of one side's memory begin, in bytes: of its first part, which every lane has, and of
/// its annex, which is made when it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) slots: usize,
    /// `Control`.
    pub(crate) control: usize,
    /// `Word`s of a client, `AnswerWord`s of a service.
    pub(crate) words: usize,
    /// `Call`s of a client, `Answer`s of a service.
    pub(crate) lines: usize,
    /// A service's `Word`s: what it has taken from each slot. Unused by a client.
    pub(crate) taken: usize,
    /// `SLOT_ROOM` bytes for the first slot.
    pub(crate) room: usize,
    /// The length of the first part.
    pub(crate) len: usize,
    /// In the annex: `SLOT_ROOM` bytes for each other slot.
    pub(crate) rooms: usize,
    /// In the annex: the ring of a client and its length; unused by a service.
    pub(crate) ring: usize,
    pub(crate) ring_len: usize,
    /// The length of the annex.
    pub(crate) annex_len: usize,
}

impl Shape {
    /// The memory that our clients make for so many slots.
    pub(crate) fn client(slots: usize) -> Shape {
        let words = size_of::<Control>();
        let lines = words + (slots * size_of::<Word>()).next_multiple_of(64);
        // A short payload lies in the page of the words, which is touched anyway.
        let room = lines + slots * size_of::<Call>();
        let len = room + SLOT_ROOM;
        let ring = (slots - 1) * SLOT_ROOM;
        let (ring_len, annex_len) = (RING, ring + RING);
        let (control, taken, rooms) = (0, 0, 0);
        Shape { slots, control, words, lines, taken, room, len, rooms, ring, ring_len, annex_len }
    }

    /// The memory that our services make for a client with so many slots.
    pub(crate) fn service(slots: usize) -> Shape {
        let words = size_of::<Control>();
        let lines = words + slots * size_of::<AnswerWord>();
        let taken = lines + slots * size_of::<Answer>();
        let room = (taken + slots * size_of::<Word>()).next_multiple_of(64);
        let len = room + SLOT_ROOM;
        let annex_len = (slots - 1) * SLOT_ROOM;
        let (control, rooms, ring, ring_len) = (0, 0, 0, 0);
        Shape { slots, control, words, lines, taken, room, len, rooms, ring, ring_len, annex_len }
    }
}
