//! What futures need of a lane instead of a thread that sleeps: to be rung for, and to be told what
//! may have changed. Nothing here waits.

use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};

use super::caller::{Outbox, Outcome, Posted};
use super::{Broken, Lane};
use crate::sys::{Bell, is_momentary};
use crate::wait::Clock;

/// Has the room bell rung until it is dropped.
#[derive(Debug)]
pub(crate) struct Wish(Arc<Lane>);

impl Wish {
    /// Whoever wishes looks once more after this.
    pub(crate) fn on(lane: &Arc<Lane>) -> Wish {
        lane.wish_for_room();
        Wish(lane.clone())
    }

    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.0
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        // What a forked child writes, its parent's service reads.
        if self.0.is_ours() {
            self.0.wish_no_more();
        }
    }
}

impl Lane {
    /// The bell that the service rings for a slot, or, for the number of slots, the room bell: one that
    /// it has, else `common`, which is sent to it. `None` if that cannot be done at the moment, which
    /// nothing tells when it can.
    pub(crate) fn bell(
        &self,
        number: usize,
        common: &Arc<Bell>,
    ) -> Result<Option<Arc<Bell>>, Broken> {
        // A thread that has it is sending a bell under this number just now, and waits until it can.
        let mut given = match self.given[number].try_lock() {
            Ok(given) => given,
            Err(TryLockError::Poisoned(given)) => given.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        if given.is_none() {
            match self.give_bell(number, common, &Clock::over_now()) {
                Ok(()) => *given = Some(common.clone()),
                Err(broken) if broken.is_momentary() => return Ok(None),
                Err(broken) => return Err(broken),
            }
        }
        Ok(given.clone())
    }

    /// The number of the room bell.
    pub(crate) fn room_bell(&self) -> usize {
        self.slots.len()
    }

    /// What became of a call, if that is known; the lane's end included.
    pub(crate) fn settle(self: &Arc<Lane>, posted: &Posted) -> Option<Outcome> {
        match self.outcome(posted) {
            Ok(outcome) => outcome,
            Err(broken) => Some(self.lost(posted, broken)),
        }
    }

    /// Has the bell of a call's slot rung from now on, which the service must have. Whoever sleeps
    /// looks once more after this.
    pub(crate) fn fall_asleep(&self, posted: &Posted) {
        // Pairs with the service's load of `awake` after it has published its answer or its cut.
        self.mine.call(posted.slot).awake.swap(0, Ordering::SeqCst);
    }

    /// Whether it pays to look what became of a call.
    pub(crate) fn has_moved(&self, slot: usize, seq: u64) -> bool {
        let Some(service) = self.peers_half() else { return self.is_dead() };
        service.answer_word(slot).load(Ordering::Acquire) == seq || self.is_dead() || self.is_cut()
    }

    /// Whether there may be a slot now, or will never be one: a call that was given up has been closed,
    /// or the lane has ended.
    pub(crate) fn has_slot_news(&self) -> bool {
        let Some(service) = self.peers_half() else { return self.is_dead() };
        let is_closed = |slot: usize| {
            let word = self.mine.call_words()[slot].0.load(Ordering::Relaxed);
            self.slots[slot].resting.load(Ordering::Acquire)
                && service.answer_word(slot).load(Ordering::Acquire) == word
        };
        self.is_dead() || !self.is_open() || (0..self.slots.len()).any(is_closed)
    }

    /// Has the service ring for the slots of calls that were given up, once it has closed them; `each`
    /// is told the slot and its bell. Under the connection's lock, so that none of them is used anew.
    /// `false` if not all could be done at the moment.
    pub(crate) fn listen_to_resting(
        &self,
        _: &Outbox,
        common: &Arc<Bell>,
        mut each: impl FnMut(&Arc<Bell>) -> Result<(), Broken>,
    ) -> Result<bool, Broken> {
        let mut all = true;
        for slot in 0..self.slots.len() {
            if !self.slots[slot].resting.load(Ordering::Acquire) {
                continue;
            }
            match self.bell(slot, common)? {
                Some(bell) => {
                    each(&bell)?;
                    // Pairs with the service's load of `awake` after it has closed the call.
                    self.mine.call(slot).awake.swap(0, Ordering::SeqCst);
                }
                None => all = false,
            }
        }
        Ok(all)
    }
}

impl Posted {
    /// The slot it is in and its number, by which [`has_moved`](Lane::has_moved) knows it.
    pub(crate) fn place(&self) -> (usize, u64) {
        (self.slot, self.seq)
    }
}

impl Broken {
    /// Whether trying again in a moment may do.
    pub(crate) fn is_momentary(&self) -> bool {
        matches!(self, Broken::Os(error) if is_momentary(error))
    }
}
