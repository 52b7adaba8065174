//! Private buffers that payloads are copied into, recycled per thread.

use std::cell::RefCell;
use std::mem;
use std::ops::{Deref, DerefMut};

/// Buffers of at most this capacity are kept by the handful, in bytes.
const SMALL: usize = 8 * 1024;
/// The largest buffer that is kept, in bytes; one per thread.
const LARGE: usize = 16 * 1024 * 1024;

#[derive(Default)]
struct Kept {
    small: Vec<Vec<u8>>,
    large: Vec<u8>,
}

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept { small: Vec::new(), large: Vec::new() }) };
}

/// An empty vector that may have room already, and that goes back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    /// A buffer for `len` bytes; the room may be less, and is found or made when it is filled.
    #[inline]
    pub(crate) fn take(len: usize) -> Buffer {
        if len == 0 {
            return Buffer::default();
        }
        let taken = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if len <= SMALL { kept.small.pop() } else { Some(mem::take(&mut kept.large)) }
        });
        Buffer(taken.ok().flatten().unwrap_or_else(|| Vec::with_capacity(len.max(256))))
    }

    /// The bytes as a vector of one's own.
    pub(crate) fn into_vec(mut self) -> Vec<u8> {
        mem::take(&mut self.0)
    }
}

/// Whether this thread keeps a large one, of up to 16 MiB.
pub(crate) fn keeps_large() -> bool {
    KEPT.try_with(|kept| kept.borrow().large.capacity() > 0).unwrap_or(false)
}

/// Lets go of what this thread keeps.
pub(crate) fn trim() {
    let _ = KEPT.try_with(|kept| *kept.borrow_mut() = Kept::default());
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        let capacity = self.0.capacity();
        if capacity == 0 || capacity > LARGE {
            return;
        }
        let mut bytes = mem::take(&mut self.0);
        bytes.clear();
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if capacity <= SMALL {
                if kept.small.len() < 8 {
                    kept.small.push(bytes);
                }
            } else if capacity > kept.large.capacity() {
                kept.large = bytes;
            }
        });
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}
