//! How many descriptors this process may have open (`RLIMIT_NOFILE`, `getrlimit(2)`).
//!
//! The soft limit is raised as far as the hard one lets, but not before it comes into sight: until then
//! a program that uses `select(2)`, which knows no descriptor beyond 1023, is as it was.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A descriptor below this number is no sign of want.
static ROOM: AtomicU64 = AtomicU64::new(0);

/// Raises the limit if the number of a new descriptor, the lowest that was free, says that three
/// quarters of what this process may have are in use. What comes along with a packet is lost where there
/// is no number for it (`unix(7)`), so it must not come that far.
pub(crate) fn keep_room(fd: impl AsFd) {
    let number = u64::from(fd.as_fd().as_raw_fd().unsigned_abs());
    if number < ROOM.load(Ordering::Relaxed) {
        return;
    }
    let room = || getrlimit(Resource::Nofile).current.map_or(u64::MAX, |most| most - most / 4);
    let mut most = room();
    if number >= most && raise() {
        most = room();
    }
    ROOM.store(most, Ordering::Relaxed);
}

/// Makes a descriptor; once more if there was none left and the limit could be raised.
pub(super) fn within<T>(make: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match make() {
        Err(Errno::MFILE) if raise() => make(),
        made => made,
    }
}

/// Returns `false` if the limit cannot be raised, or was before.
fn raise() -> bool {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let can = current.is_some_and(|now| maximum.is_none_or(|most| now < most));
    can && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok()
}
