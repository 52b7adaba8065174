//! The limits of a message and how long a call may take. No I/O, no memory of others.

use std::time::Duration;

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

/// How a side waits for the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// Spin while that is cheaper than being woken, as measured here; block otherwise.
    #[default]
    Adaptive,
    /// Always block.
    Block,
}
