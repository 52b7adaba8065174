//! Byte buffers behind `CFDataRef`, for programs without a CoreFoundation.
//!
//! A `CFDataRef` is a number that looks like a pointer: one that was released too often leads
//! nowhere instead of to freed memory. An unsafe room.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{LazyLock, Mutex, MutexGuard};

use crate::{fork, lock};

/// What happens to bytes that were not copied.
pub(crate) enum Bytes {
    Copied(Vec<u8>),
    /// The program's own, for longer than the data.
    Borrowed(usize, usize),
    /// From `malloc`, and ours to free.
    Malloced(usize, usize),
}

struct Data {
    bytes: Bytes,
    references: usize,
}

#[derive(Default)]
pub(crate) struct Datas {
    numbers: usize,
    all: HashMap<usize, Data>,
}

static DATAS: LazyLock<Mutex<Datas>> = LazyLock::new(fork::guarded);

pub(crate) fn table() -> MutexGuard<'static, Datas> {
    lock(&DATAS)
}

/// Makes a data of these bytes, with one reference.
pub(crate) fn create(bytes: Bytes) -> *mut c_void {
    let mut table = table();
    // Not a pointer that anybody has, nor a small object of an Objective-C runtime: no program's
    // memory is there.
    const NOWHERE: usize =
        if cfg!(target_pointer_width = "64") { 0x4c4d << (usize::BITS - 16) } else { 0 };
    table.numbers = table.numbers.wrapping_add(16);
    let number = NOWHERE.wrapping_add(table.numbers);
    table.all.insert(number, Data { bytes, references: 1 });
    std::ptr::without_provenance_mut(number)
}

/// Where the bytes are, and how many; null and 0 for what is no data.
pub(crate) fn bytes(data: *const c_void) -> (*const u8, usize) {
    match table().all.get(&data.addr()).map(|data| &data.bytes) {
        Some(Bytes::Copied(bytes)) => (bytes.as_ptr(), bytes.len()),
        Some(Bytes::Borrowed(address, len) | Bytes::Malloced(address, len)) => {
            (std::ptr::with_exposed_provenance(*address), *len)
        }
        None => (std::ptr::null(), 0),
    }
}

/// One more reference. `false` for what is no data.
pub(crate) fn retain(data: *const c_void) -> bool {
    let mut table = table();
    let Some(data) = table.all.get_mut(&data.addr()) else { return false };
    data.references += 1;
    true
}

/// One reference less; the last one frees it. `false` for what is no data.
pub(crate) fn release(data: *const c_void) -> bool {
    let mut table = table();
    let Some(known) = table.all.get_mut(&data.addr()) else { return false };
    known.references -= 1;
    if known.references == 0
        && let Some(Data { bytes: Bytes::Malloced(address, _), .. }) =
            table.all.remove(&data.addr())
    {
        // SAFETY: the program said that it comes from `malloc`, and gave it to us.
        unsafe { libc::free(std::ptr::with_exposed_provenance_mut(address)) };
    }
    true
}
