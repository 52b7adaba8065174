//! A received message, the limits of one, and how long a call may take. No I/O.

use std::fmt;
use std::time::Duration;

use crate::payload::{Body, Payload};

/// The largest payload that travels inside the lane, in bytes; a larger one goes out of line.
pub const INLINE_MAX: usize = 4096;

/// The largest payload of all, in bytes: 4 GiB − 1.
pub const PAYLOAD_MAX: u64 = u32::MAX as u64;

/// How long a call may take, everything it does included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// This long, from the moment the call is made.
    After(Duration),
    /// As long as the service lives.
    Never,
}

impl Deadline {
    /// What a connection uses unless told otherwise: 30 s.
    pub const DEFAULT: Deadline = Deadline::After(Duration::from_secs(30));
}

impl From<Duration> for Deadline {
    fn from(duration: Duration) -> Deadline {
        Deadline::After(duration)
    }
}

/// How a side waits for the other. Each side chooses for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// Spin while that is cheaper than being woken, as measured here; block otherwise.
    #[default]
    Adaptive,
    /// Always block: the least processor time, and never a moment of spinning.
    Block,
    /// Never block while the other side lives: for a core that is set aside for this.
    ///
    /// A caller spins until its answer is there or its deadline has passed. A service spins for as long
    /// as [`Service::run`](crate::Service::run) runs, and uses all of a core while nothing is to be done.
    /// With fewer cores than spinning threads this is the slowest way of all.
    Spin,
}

/// A message that has arrived: an id and bytes.
pub struct Message {
    id: i32,
    body: Body,
}

impl Message {
    pub(crate) fn new(id: i32, body: Body) -> Message {
        Message { id, body }
    }

    /// The message's id, whatever the sender chose.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// The payload's length in bytes.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the payload is in a region of the sender's.
    #[inline]
    pub(crate) fn is_in_region(&self) -> bool {
        matches!(self.body, Body::Region(_))
    }

    /// The payload where it is: nothing is copied but what is read.
    pub fn payload(&self) -> Payload<'_> {
        self.body.payload()
    }

    /// The payload's bytes, which stay as they are. A payload of more than
    /// [`INLINE_MAX`] bytes, and one that was sent [on loan](crate::Loan), is copied once, on the first call,
    /// into memory as large. Where it is enough to see the bytes once, in order,
    /// [`chunks`](Payload::chunks) spares that.
    pub fn data(&self) -> &[u8] {
        self.body.data()
    }

    /// The payload's bytes as a vector of one's own.
    pub fn into_vec(self) -> Vec<u8> {
        self.body.into_vec()
    }

    /// The payload's bytes in place, without a copy.
    ///
    /// # Safety
    ///
    /// No process, the sender above all, may write to the payload until the slice is gone: the
    /// sender of a large payload keeps a writable mapping of it.
    #[allow(unsafe_code)]
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: passed on to the caller.
        unsafe { self.body.as_slice() }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("id", &self.id).field("len", &self.len()).finish()
    }
}
