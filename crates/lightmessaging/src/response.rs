//! The reply to a two-way message.

use std::fmt;

use crate::payload::{Body, Payload};

/// The reply to a two-way message.
pub struct Response {
    body: Body,
}

impl Response {
    pub(crate) fn new(body: Body) -> Response {
        Response { body }
    }

    /// The payload's length in bytes.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload where it is: nothing is copied but what is read.
    pub fn payload(&self) -> Payload<'_> {
        self.body.payload()
    }

    /// The payload's bytes, which stay as they are. A payload of more than
    /// [`INLINE_MAX`](crate::INLINE_MAX) bytes, and one that was sent [on loan](crate::Loan), is copied once, on the first call,
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
    /// No process, the service above all, may write to the payload until the slice is gone: the
    /// sender of a large payload keeps a writable mapping of it.
    #[allow(unsafe_code)]
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: passed on to the caller.
        unsafe { self.body.as_slice() }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("len", &self.len()).finish_non_exhaustive()
    }
}
