//! Keeps a forked child from holding this process's lanes, listeners and locks open.
//!
//! An unsafe room. It promises the safe ones: after `fork(2)`, in the child, every [`Fd`] of the
//! parent still is an open descriptor, but an inert one (an eventfd), so that closing it harms
//! nobody and no peer takes the child for the parent; and [`epoch`] differs from every value that
//! the parent saw. Children of raw `clone(2)` or `vfork(2)` are out of scope, except that `epoch`
//! changes for them too where they have memory of their own.
//!
//! [`Fd`]: super::Fd
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Descriptors up to the kernel's own default ceiling (`fs.nr_open`, 2^20): one bit each, in
/// memory that costs nothing until it is touched.
const WORDS: usize = (1 << 20) / 64;
static OWNED: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
/// One more than the highest word of `OWNED` ever used.
static USED: AtomicUsize = AtomicUsize::new(0);
static EPOCH: AtomicU64 = AtomicU64::new(1);
static MARK: OnceLock<Option<NonNullMark>> = OnceLock::new();

/// A word that reads 1 in the process that set it and 0 in a child of it.
struct NonNullMark(NonNull<AtomicU32>);
// SAFETY: it points to an atomic in a mapping that is never unmapped.
unsafe impl Send for NonNullMark {}
// SAFETY: as above; an atomic may be shared.
unsafe impl Sync for NonNullMark {}

/// A number that is the same for as long as no fork lies between.
#[inline]
pub(crate) fn epoch() -> u64 {
    if let Some(mark) = MARK.get_or_init(prepare) {
        // SAFETY: points to a live, aligned, zero-initialised mapping of this process, for ever.
        let mark = unsafe { mark.0.as_ref() };
        if mark.load(Ordering::Relaxed) == 0 && mark.swap(1, Ordering::Relaxed) == 0 {
            EPOCH.fetch_add(1, Ordering::Relaxed);
        }
    }
    EPOCH.load(Ordering::Relaxed)
}

/// Registers the child handler and maps the page that the kernel wipes in children
/// (`madvise(2)`, `MADV_WIPEONFORK`, since Linux 4.14).
fn prepare() -> Option<NonNullMark> {
    // SAFETY: the handler is an `extern "C"` function that lives as long as the process.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    let length = rustix::param::page_size();
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nobody.
    let page = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            length,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }
    .ok()?;
    // SAFETY: exactly the mapping made above, which nothing else uses yet.
    unsafe { rustix::mm::madvise(page, length, Advice::LinuxWipeOnFork) }.ok()?;
    let mark = NonNull::new(page.cast::<AtomicU32>())?;
    // SAFETY: mapped above, page-aligned, and zero is a valid value.
    unsafe { mark.as_ref() }.store(1, Ordering::Relaxed);
    Some(NonNullMark(mark))
}

/// Runs in the child, where only async-signal-safe calls are allowed (`fork(2)`).
extern "C" fn in_child() {
    EPOCH.fetch_add(1, Ordering::Relaxed);
    if let Some(Some(mark)) = MARK.get() {
        // SAFETY: as in `epoch`.
        unsafe { mark.0.as_ref() }.store(1, Ordering::Relaxed);
    }
    let mut inert: RawFd = -1;
    let used = USED.load(Ordering::Relaxed);
    for (index, owned) in OWNED.iter().enumerate().take(used) {
        let mut word = owned.load(Ordering::Relaxed);
        while word != 0 {
            let fd = (index * 64) as RawFd + word.trailing_zeros() as RawFd;
            word &= word - 1;
            if inert < 0 {
                // The table may be full: give up the number first, then take it again.
                // SAFETY: the bit says that the library owns this number, and the owner will
                // close it once more, whatever it refers to by then.
                unsafe { libc::close(fd) };
                // SAFETY: plain numbers; it needs no file system.
                inert = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
                if inert == fd || inert < 0 {
                    continue;
                }
            }
            // SAFETY: both are numbers of ours; the copy takes the place of the one we own.
            unsafe { libc::dup3(inert, fd, libc::O_CLOEXEC) };
        }
    }
    let marked = |fd: RawFd| {
        let word = OWNED.get(fd as usize / 64);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (fd % 64)) != 0)
    };
    if inert >= 0 && !marked(inert) {
        // SAFETY: made above, and nobody else's.
        unsafe { libc::close(inert) };
    }
}

/// Marks a descriptor as one that a child must not keep.
pub(super) fn own(fd: RawFd) {
    epoch();
    let fd = fd as usize;
    if let Some(word) = OWNED.get(fd / 64) {
        USED.fetch_max(fd / 64 + 1, Ordering::Relaxed);
        word.fetch_or(1 << (fd % 64), Ordering::Relaxed);
    }
}

/// Takes the mark away again, before the descriptor is closed.
pub(super) fn disown(fd: RawFd) {
    let fd = fd as usize;
    if let Some(word) = OWNED.get(fd / 64) {
        word.fetch_and(!(1 << (fd % 64)), Ordering::Relaxed);
    }
}
