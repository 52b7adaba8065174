//! The map of a lane's memory: the same bytes for 32- and 64-bit peers. No run time.
//!
//! Every struct here is made of atomics only, so that a reference to one is sound whatever the
//! peer writes meanwhile. Words that one side polls while the other works have a cache line of
//! their own. See PROTOCOL.md.

use std::mem::{align_of, offset_of, size_of};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// The unit in which memory is shared.
pub(crate) const PAGE: usize = 4096;
/// Call slots that our lanes have: calls in flight at once on one connection.
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
    /// When this side last rang the other's bell: nanoseconds of CLOCK_MONOTONIC.
    pub(crate) rang_at: AtomicU64,
    /// Service: 0, or one more than the sequence number of the last message it will ever take.
    pub(crate) cut: AtomicU64,
    _2: [AtomicU64; 5],
    /// For each region of the other side: the last loan of it that was handed back.
    pub(crate) returned: [AtomicU64; REGIONS],
    _3: [AtomicU64; 16],
}

/// A call slot of the client.
#[repr(C, align(64))]
pub(crate) struct Call {
    /// The sequence number of the call in this slot; written last.
    pub(crate) word: AtomicU64,
    /// The sequence number of the call that the client has given up.
    pub(crate) cancelled: AtomicU64,
    /// The core on which the caller is awake, plus one; 0 when it sleeps and wants its bell rung.
    pub(crate) awake: AtomicU32,
    pub(crate) id: AtomicU32,
    pub(crate) len: AtomicU32,
    /// 0 if the payload is inline, else the region's number plus one.
    pub(crate) region: AtomicU32,
    pub(crate) loan: AtomicU64,
    _0: [AtomicU64; 3],
}

/// The service's answer in a call slot.
#[repr(C, align(64))]
pub(crate) struct Answer {
    /// The sequence number of the call that is answered; written last.
    pub(crate) word: AtomicU64,
    /// 0 a reply, 1 no reply, 2 not taken.
    pub(crate) status: AtomicU32,
    pub(crate) len: AtomicU32,
    pub(crate) region: AtomicU32,
    _0: AtomicU32,
    pub(crate) loan: AtomicU64,
    _1: [AtomicU64; 4],
}

/// What the service has taken from a call slot.
#[repr(C, align(64))]
pub(crate) struct Taken {
    /// The sequence number of the call.
    pub(crate) word: AtomicU64,
    _0: [AtomicU64; 7],
}

const _: () = {
    assert!(size_of::<Control>() == 512 && align_of::<Control>() == 64);
    assert!(offset_of!(Control, position) == 0);
    assert!(offset_of!(Control, awake) == 64);
    assert!(offset_of!(Control, core) == 68 && offset_of!(Control, rang_at) == 72);
    assert!(offset_of!(Control, cut) == 80);
    assert!(offset_of!(Control, returned) == 128);
    assert!(size_of::<Call>() == 64 && offset_of!(Call, cancelled) == 8);
    assert!(offset_of!(Call, awake) == 16 && offset_of!(Call, id) == 20);
    assert!(offset_of!(Call, len) == 24 && offset_of!(Call, region) == 28);
    assert!(offset_of!(Call, loan) == 32);
    assert!(size_of::<Answer>() == 64 && offset_of!(Answer, status) == 8);
    assert!(offset_of!(Answer, len) == 12 && offset_of!(Answer, region) == 16);
    assert!(offset_of!(Answer, loan) == 24);
    assert!(size_of::<Taken>() == 64);
};

/// Where the parts of one side's memory begin, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) slots: usize,
    /// `Control`.
    pub(crate) control: usize,
    /// `Call`s of a client, `Answer`s of a service.
    pub(crate) lines: usize,
    /// `Taken`s of a service; unused by a client.
    pub(crate) taken: usize,
    /// `SLOT_ROOM` bytes for each slot.
    pub(crate) rooms: usize,
    /// The ring of a client and its length; unused by a service.
    pub(crate) ring: usize,
    pub(crate) ring_len: usize,
    /// The length of the whole.
    pub(crate) len: usize,
}

impl Shape {
    /// The memory that our clients make.
    pub(crate) const CLIENT: Shape = {
        let rooms = PAGE;
        let ring = rooms + SLOTS * SLOT_ROOM;
        Shape {
            slots: SLOTS,
            control: 0,
            lines: 512,
            taken: 0,
            rooms,
            ring,
            ring_len: RING,
            len: ring + RING,
        }
    };

    /// The memory that our services make for a client with so many slots.
    pub(crate) fn service(slots: usize) -> Shape {
        let taken = 512 + slots * size_of::<Answer>();
        let rooms = (taken + slots * size_of::<Taken>()).next_multiple_of(PAGE);
        Shape {
            slots,
            control: 0,
            lines: 512,
            taken,
            rooms,
            ring: 0,
            ring_len: 0,
            len: rooms + slots * SLOT_ROOM,
        }
    }
}
