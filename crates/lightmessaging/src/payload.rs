//! The bytes of a received message, wherever they are.

use std::io;
use std::sync::{Arc, OnceLock};

use crate::buffer::Buffer;
use crate::lane::Lane;
use crate::shm::region::Region;

/// How much of an out-of-line payload is held in private memory at a time while it is read.
const PIECE: usize = 16 * 1024;

/// A received payload: inline bytes already copied out, or a region on loan.
#[derive(Debug)]
pub(crate) enum Body {
    Inline(Buffer),
    /// Boxed, so that a small message moves few bytes.
    Region(Box<OutOfLine>),
}

/// A payload in a region, and the private copy of it, once one was made.
#[derive(Debug)]
pub(crate) struct OutOfLine {
    pub(crate) loan: Loan,
    pub(crate) copy: OnceLock<Buffer>,
}

/// A region of the peer's, ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Loan {
    pub(crate) lane: Arc<Lane>,
    pub(crate) region: Arc<Region>,
    pub(crate) number: usize,
    pub(crate) loan: u64,
    pub(crate) len: usize,
}

impl Loan {
    /// Copies all of it out, behind what the vector holds.
    fn append_to(&self, bytes: &mut Vec<u8>) {
        match self.region.span(self.len) {
            Some(span) => span.append_to(bytes),
            None => {
                let start = bytes.len();
                bytes.resize(start + self.len, 0);
                self.region.read_at(0, &mut bytes[start..]);
            }
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.lane.give_back(self.number, self.loan);
    }
}

impl Body {
    pub(crate) fn len(&self) -> usize {
        match self {
            Body::Inline(bytes) => bytes.len(),
            Body::Region(large) => large.loan.len,
        }
    }

    pub(crate) fn payload(&self) -> Payload<'_> {
        Payload { body: self }
    }

    pub(crate) fn data(&self) -> &[u8] {
        match self {
            Body::Inline(bytes) => bytes,
            Body::Region(large) => large.copy.get_or_init(|| {
                let mut bytes = Buffer::take(large.loan.len);
                large.loan.append_to(&mut bytes);
                bytes
            }),
        }
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            Body::Inline(bytes) => bytes.into_vec(),
            Body::Region(large) => {
                let OutOfLine { loan, copy } = *large;
                copy.into_inner().map_or_else(
                    || {
                        let mut bytes = Vec::new();
                        loan.append_to(&mut bytes);
                        bytes
                    },
                    Buffer::into_vec,
                )
            }
        }
    }

    /// The bytes in place, where they are mapped; a private copy elsewhere.
    ///
    /// # Safety
    ///
    /// No process writes to the payload until the slice is gone.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn as_slice(&self) -> &[u8] {
        if let Body::Region(large) = self
            && let Some(span) = large.loan.region.span(large.loan.len)
        {
            // SAFETY: passed on to the caller.
            return unsafe { span.as_slice() };
        }
        self.data()
    }
}

/// A payload, read where it is: out-of-line bytes are not copied as a whole.
///
/// The sender of an out-of-line payload could change it meanwhile, so what was read twice may
/// differ; `data` gives bytes that stay.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    body: &'a Body,
}

impl<'a> Payload<'a> {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the bytes from `offset` on into `bytes` and returns how many there were.
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) -> usize {
        let len = self.len().saturating_sub(offset).min(bytes.len());
        let bytes = &mut bytes[..len];
        match self.body {
            Body::Inline(inline) => {
                bytes.copy_from_slice(&inline[offset.min(inline.len())..][..len]);
                len
            }
            Body::Region(large) => large.loan.region.read_at(offset, bytes),
        }
    }

    /// Appends all of it to a vector.
    pub fn copy_to(&self, bytes: &mut Vec<u8>) {
        match self.body {
            Body::Inline(inline) => bytes.extend_from_slice(inline),
            Body::Region(large) => large.loan.append_to(bytes),
        }
    }

    /// A copy of all of it.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.copy_to(&mut bytes);
        bytes
    }

    /// Calls `each` with one private piece after the other, in order, of at most 16 KiB.
    pub fn chunks(&self, mut each: impl FnMut(&[u8])) {
        match self.body {
            Body::Inline(inline) if inline.is_empty() => {}
            Body::Inline(inline) => each(inline),
            Body::Region(large) => {
                let mut piece = [0; PIECE];
                let mut offset = 0;
                while offset < large.loan.len {
                    let len = self.read_at(offset, &mut piece);
                    if len == 0 {
                        break;
                    }
                    each(&piece[..len]);
                    offset += len;
                }
            }
        }
    }

    /// Reads it as a stream.
    pub fn reader(&self) -> PayloadReader<'a> {
        PayloadReader { payload: *self, offset: 0 }
    }
}

/// A payload as a stream.
#[derive(Clone, Debug)]
pub struct PayloadReader<'a> {
    payload: Payload<'a>,
    offset: usize,
}

impl io::Read for PayloadReader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let len = self.payload.read_at(self.offset, bytes);
        self.offset += len;
        Ok(len)
    }
}
