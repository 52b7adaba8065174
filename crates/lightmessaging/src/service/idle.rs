//! Which lanes are polled, and what idle ones give back.

use std::time::Duration;

use super::Service;
use crate::buffer;
use crate::sys::core;
use crate::wait::coarse;

/// How long a lane must be idle before its memory is given back, in milliseconds.
const TRIM: u64 = 1_000;

impl Service {
    pub(super) fn activate(&mut self, index: usize) {
        let Some(entry) = self.entry(index) else { return };
        if entry.active {
            return;
        }
        entry.active = true;
        entry.idle_turns = 0;
        entry.lane.set_awake(core());
        self.active.push(index);
    }

    /// Takes a lane out of the polled ones; it was set asleep before.
    pub(super) fn deactivate(&mut self, at: usize) {
        let index = self.active.swap_remove(at);
        let Some(entry) = self.entry(index) else { return };
        entry.active = false;
        entry.last = coarse();
        if !entry.used {
            entry.used = true;
            self.used.push(index);
        }
        self.set_timer();
    }

    /// Gives back what lanes hold that have been idle for a while.
    pub(super) fn trim(&mut self) {
        if self.used.is_empty() {
            return;
        }
        let now = coarse();
        let mut used = std::mem::take(&mut self.used);
        used.retain(|index| {
            let Some(entry) = self.entry(*index) else { return false };
            if entry.active || now < entry.last + TRIM - 10 {
                return true;
            }
            entry.used = false;
            entry.lane.trim();
            false
        });
        self.used = used;
        if self.used.is_empty() && self.active.is_empty() {
            buffer::trim();
        }
        self.set_timer();
    }

    /// Has the timer fire when the lanes that were used may have been idle for long enough.
    pub(super) fn set_timer(&mut self) {
        if !self.timer_is_set && !self.used.is_empty() {
            self.timer_is_set = true;
            self.timer.set(Duration::from_millis(TRIM));
        }
    }
}
