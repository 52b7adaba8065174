//! Keeps the tables usable in a forked child. An unsafe room.
//!
//! Another thread may hold a table's lock at the moment of the fork, and does not live in the
//! child. So all of them are held across it, by the thread that forks (`pthread_atfork(3)`). It
//! promises that a table is never found locked for good, and that [`epoch`] differs in a child.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once};

use crate::data::Datas;
use crate::memory::Memory;
use crate::rights::Rights;
use crate::run_loop::Loops;
use crate::unlock::Names;
use crate::{data, memory, rights, run_loop, unlock};

static EPOCH: AtomicU64 = AtomicU64::new(1);

/// A number that is the same for as long as no fork lies between.
pub(crate) fn epoch() -> u64 {
    EPOCH.load(Ordering::Relaxed)
}

type Guards = (
    MutexGuard<'static, Rights>,
    MutexGuard<'static, Memory>,
    MutexGuard<'static, Datas>,
    MutexGuard<'static, Loops>,
    MutexGuard<'static, Names>,
);

/// The locks, while a fork is under way.
struct Held(UnsafeCell<Option<Guards>>);
// SAFETY: only the thread that holds all of the locks touches it.
unsafe impl Sync for Held {}
static HELD: Held = Held(UnsafeCell::new(None));

/// A new table, whose lock is held across forks.
pub(crate) fn guarded<T: Default>() -> Mutex<T> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handlers are functions that live as long as the program; this library cannot
        // be unloaded (`-z nodelete`, as threads may have its destructors pending).
        unsafe { libc::pthread_atfork(Some(before), Some(after_in_parent), Some(after_in_child)) };
    });
    Mutex::default()
}

extern "C" fn before() {
    // No thread holds one of these while it waits for another.
    let guards =
        (rights::table(), memory::table(), data::table(), run_loop::table(), unlock::table());
    // SAFETY: this thread holds all of the locks.
    unsafe { *HELD.0.get() = Some(guards) };
}

extern "C" fn after_in_parent() {
    // SAFETY: this thread holds all of the locks, until here.
    drop(unsafe { (*HELD.0.get()).take() });
}

extern "C" fn after_in_child() {
    EPOCH.fetch_add(1, Ordering::Relaxed);
    after_in_parent();
}
