//! Who waits for one of a lane's call slots: threads and futures, in the order in which they came.
//!
//! A slot that comes free wakes the first of them, who may find that somebody else was quicker and
//! then takes its old place again. Of the lane's end they learn by themselves. Knows nothing of slots.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use super::{Lane, lock};

/// Those who wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// How many there are, for those who would rather not take the lock.
    len: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

/// A place in the queue of a lane, given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    lane: Arc<Lane>,
    number: u64,
    /// Whoever was woken here has got what it was woken for.
    is_served: bool,
}

impl Queue {
    /// Whether anybody waits. Pairs with the fence in [`Place::wait`]: whoever has freed a slot with a
    /// `SeqCst` swap before this sees those who have not seen the slot.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.len.load(Ordering::SeqCst) == 0
    }

    /// Wakes the first.
    #[cold]
    pub(super) fn wake_one(&self) {
        let first = {
            let mut waiting = lock(&self.waiting);
            let first = waiting.wakers.pop_first();
            self.len.store(waiting.wakers.len(), Ordering::SeqCst);
            first
        };
        if let Some((_, waker)) = first {
            waker.wake();
        }
    }
}

impl Place {
    /// A place behind all others, for somebody who does not wait yet.
    pub(crate) fn new(lane: &Arc<Lane>) -> Place {
        let number = {
            let mut waiting = lock(&lane.queue.waiting);
            waiting.next += 1;
            waiting.next
        };
        Place { lane: lane.clone(), number, is_served: false }
    }

    /// The lane whose slots are waited for.
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Has this waker woken when it is its turn. Whoever calls this looks for a free slot after it.
    pub(crate) fn wait(&self, waker: &Waker) {
        let queue = &self.lane.queue;
        // Dropped when the lock is free: with a waker may go a future, which has a place.
        let _old = {
            let mut waiting = lock(&queue.waiting);
            let old = waiting.wakers.insert(self.number, waker.clone());
            queue.len.store(waiting.wakers.len(), Ordering::SeqCst);
            old
        };
        // Before the look; see `is_empty`.
        fence(Ordering::SeqCst);
    }

    /// Leaves: a slot was found.
    pub(crate) fn served(mut self) {
        self.is_served = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // In a forked child the lock may be held for good by a thread that is not there.
        if !self.lane.is_ours() {
            return;
        }
        let queue = &self.lane.queue;
        let waker = {
            let mut waiting = lock(&queue.waiting);
            let waker = waiting.wakers.remove(&self.number);
            queue.len.store(waiting.wakers.len(), Ordering::SeqCst);
            waker
        };
        let was_woken = waker.is_none();
        if was_woken && !self.is_served {
            queue.wake_one();
        }
    }
}
