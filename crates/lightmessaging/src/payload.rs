//! The bytes of a received message, wherever they are.

use std::io;
use std::sync::{Arc, OnceLock};

use crate::buffer::Buffer;
use crate::lane::Lane;
use crate::shm::region::Region;

/// How much of an out-of-line payload is held in private memory at a time while it is read: smaller
/// pieces cost more calls, larger ones leave the nearest cache.
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
    pub(crate) loan: Borrowed,
    pub(crate) copy: OnceLock<Buffer>,
}

/// A region of the peer's, ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Borrowed {
    pub(crate) lane: Arc<Lane>,
    pub(crate) region: Arc<Region>,
    pub(crate) number: usize,
    pub(crate) loan: u64,
    pub(crate) len: usize,
}

impl Borrowed {
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

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.lane.give_back(self.number, self.loan);
    }
}

impl Body {
    #[inline]
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
/// [`read_at`](Payload::read_at) is for a header or for a few places, [`chunks`](Payload::chunks) for all
/// of it once, [`reader`](Payload::reader) for what reads a stream; `data` of the message gives a slice,
/// of a copy.
///
/// The sender of an out-of-line payload could change it meanwhile, so what was read twice may
/// differ; `data` gives bytes that stay.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    body: &'a Body,
}

impl<'a> Payload<'a> {
    /// Its length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the bytes from `offset` on into `bytes` and returns how many there were.
    #[inline]
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) -> usize {
        let left = self.len().saturating_sub(offset);
        // All of it, as nearly always: a short read then has a length that is known when it is compiled.
        if bytes.len() <= left {
            self.read(offset, bytes)
        } else {
            self.read(offset, &mut bytes[..left])
        }
    }

    /// Reads bytes that are there.
    #[inline]
    fn read(&self, offset: usize, bytes: &mut [u8]) -> usize {
        match self.body {
            Body::Inline(inline) => {
                let from = inline.get(offset..).unwrap_or_default();
                let len = bytes.len().min(from.len());
                bytes[..len].copy_from_slice(&from[..len]);
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
    ///
    /// The fastest way to read all of a large payload once: a piece stays in the nearest cache, and no
    /// memory is taken for the whole. A number of several bytes may lie in two pieces, unless its size
    /// divides 16 KiB and they begin at a multiple of it.
    ///
    /// ```
    /// # use lightmessaging::Request;
    /// fn sum(request: &Request) -> u64 {
    ///     let mut sum = 0;
    ///     request.payload().chunks(|piece| sum += piece.iter().map(|byte| u64::from(*byte)).sum::<u64>());
    ///     sum
    /// }
    /// ```
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
