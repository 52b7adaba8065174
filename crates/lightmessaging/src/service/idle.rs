//! Which lanes are polled, and what idle ones give back.

use std::time::Duration;

use super::Service;
use crate::buffer;
use crate::sys::core;
use crate::wait::coarse;

/// How long a lane must be idle before its memory is given back, in milliseconds.
pub(super) const TRIM: u64 = 1_000;

/// Turns without a message after which a lane goes back to ringing its bell.
const IDLE_TURNS: u32 = 64;
/// With more polled lanes than this, one such turn is enough.
const CROWD: usize = 32;

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

    /// A polled lane had no message in its turn. If there have been enough of these it goes back to ringing
    /// its bell, and is in the list no more: returns whether it is so.
    #[inline]
    pub(super) fn rest_if_idle(&mut self, at: usize) -> bool {
        let most = match self.active.len() {
            lanes if lanes > CROWD => 0,
            // One that never sleeps has all the time to look.
            _ if self.never_sleeps() => u32::MAX,
            _ => IDLE_TURNS,
        };
        let index = self.active[at];
        let Some(entry) = self.entry(index) else { return false };
        entry.idle_turns = entry.idle_turns.saturating_add(1);
        if entry.idle_turns <= most {
            return false;
        }
        entry.lane.set_awake(0);
        if entry.lane.has_news(&entry.inbox) {
            entry.lane.set_awake(core());
            entry.idle_turns = 0;
            return false;
        }
        self.deactivate(at);
        true
    }

    /// Takes a lane out of the polled ones; it was set asleep before.
    pub(super) fn deactivate(&mut self, at: usize) {
        let index = self.active.swap_remove(at);
        let Some(entry) = self.entry(index) else { return };
        entry.active = false;
        let now = coarse();
        entry.last = now;
        if !entry.used {
            entry.used = true;
            let id = entry.id;
            self.used.push((index, id));
        }
        if let Some(rest) = &mut self.rest {
            rest.note(self.stats.messages, now);
        }
        self.set_timer(now);
    }

    /// Takes the lane of a client that goes out of the polled ones; the others keep their order.
    pub(super) fn strike(&mut self, index: usize) {
        if let Some(at) = self.active.iter().position(|active| *active == index) {
            self.active.remove(at);
            if at < self.cursor {
                self.cursor -= 1;
            }
        }
    }

    /// Gives back what lanes hold that have been idle for a while.
    pub(super) fn trim(&mut self) {
        if self.used.is_empty() {
            return;
        }
        let now = coarse();
        let mut used = std::mem::take(&mut self.used);
        used.retain(|(index, id)| {
            // Clients that have gone are not looked for here when they go: there may be very many.
            let Some(entry) = self.entry(*index).filter(|entry| entry.id == *id) else {
                return false;
            };
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
        self.set_timer(now);
    }

    /// Has the timer fire when the lanes that were used may have been idle for long enough.
    fn set_timer(&mut self, now: u64) {
        if !self.used.is_empty() && self.alarm.is_none_or(|alarm| now + TRIM < alarm) {
            self.wake_in(Duration::from_millis(TRIM));
        }
    }

    /// Has the timer fire after this time, unless it does so earlier. Whoever wants something of it
    /// looks whether it is time, and says so again if not.
    pub(super) fn wake_in(&mut self, time: Duration) {
        let at = coarse().saturating_add(time.as_millis().try_into().unwrap_or(u64::MAX));
        if self.alarm.is_none_or(|alarm| at < alarm) {
            self.alarm = Some(at);
            self.timer.set(time);
        }
    }
}
