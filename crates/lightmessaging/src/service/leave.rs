//! Ends that lose nothing: the name was handed over, or there is nothing to do.
//!
//! Everybody is told that there will be an end, what they had sent is handled, then they are told
//! where the end is: see `begin_to_close` and `close` of a lane. Stopping is another matter; see
//! `stop`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Service;
use super::clients::Member;
use crate::lane::{Lane, lock};
use crate::wait::coarse;

/// How often a service that has left looks whether the requests that were kept are answered.
const LINGER: Duration = Duration::from_millis(10);

/// How far a service is on its way out.
pub(super) enum Leaving {
    Not,
    /// When the loop has acted on its news.
    Soon,
    /// What was sent before the end is handled; so far these lanes have kept requests.
    Draining(Vec<Arc<Lane>>),
    /// It has left, but for the answers to requests that were kept.
    Kept(Vec<Arc<Lane>>),
}

/// How long a service must have had nothing to do before it leaves.
pub(super) struct Rest {
    /// In milliseconds.
    time: u64,
    /// Since when there was nothing, by the coarse clock.
    since: u64,
    /// How many messages had come by then.
    messages: u64,
}

impl Rest {
    /// Takes note of how many messages have come until now.
    pub(super) fn note(&mut self, messages: u64, now: u64) {
        if self.messages != messages {
            self.messages = messages;
            self.since = now;
        }
    }

    /// Takes note that a handler has returned, on one of several threads.
    pub(super) fn worked(&mut self, now: u64) {
        self.since = now;
    }
}

impl Service {
    /// Leaves once there was nothing to do for this long.
    pub(super) fn leave_when_idle(&mut self, time: Duration) {
        let millis = time.as_millis().try_into().unwrap_or(u64::MAX);
        self.rest = Some(Rest { time: millis, since: coarse(), messages: self.stats.messages });
        self.wake_in(time);
    }

    /// The timer has fired: is it time to go?
    pub(super) fn look_whether_to_leave(&mut self) {
        if let Leaving::Kept(lanes) = &mut self.leaving {
            lanes.retain(is_kept);
            return self.linger();
        }
        if !matches!(self.leaving, Leaving::Not) {
            return;
        }
        let Some(rest) = &mut self.rest else { return };
        let now = coarse();
        rest.note(self.stats.messages, now);
        let end = rest.since.saturating_add(rest.time);
        if now >= end && !self.is_wanted() {
            self.leaving = Leaving::Soon;
            return;
        }
        let Some(rest) = &mut self.rest else { return };
        if now >= end {
            rest.since = now;
        }
        let left = rest.since.saturating_add(rest.time) - now;
        self.wake_in(Duration::from_millis(left.max(1)));
    }

    /// Whether somebody wants something that is no message yet, or no longer.
    fn is_wanted(&self) -> bool {
        // Those who wait to be accepted, for want of descriptors, would not be.
        self.paused
            || self.clients.iter().flatten().any(|member| match member {
                Member::Guest(_) | Member::Heir(_) => true,
                Member::Client(entry) => entry.taken || is_kept(&entry.lane),
            })
    }

    /// Takes what was sent, says that there is no more, and stops when all of it is answered.
    pub(super) fn leave(&mut self) {
        // The name first, so that another may have it. One that was handed over has gone already.
        drop(lock(&self.shared.claim).take());
        self.unlock(false);
        if let Some(listener) = self.listener.take() {
            let _ = self.poll.remove(&listener);
            // A socket that others listen on as well keeps those who wait, for them.
            if self.inherited.is_none() && !self.handed_over {
                listener.refuse();
                while let Ok(socket) = listener.accept() {
                    self.meet(socket);
                }
            }
        }
        self.say_farewell_to_guests();
        self.entries().for_each(|entry| entry.lane.begin_to_close());
        self.drain();
    }

    /// Everything was handled, but for the requests of these lanes, which were kept.
    pub(super) fn wait_for_kept(&mut self, kept: Vec<Arc<Lane>>) {
        self.forget_clients();
        self.leaving = Leaving::Kept(kept);
        self.linger();
    }

    /// Guests who have said hello become clients. Whoever has not is told when it does, and looks the
    /// name up again.
    fn say_farewell_to_guests(&mut self) {
        for index in 0..self.clients.len() {
            // After the second look nothing more can have come.
            for hush in [false, true] {
                match self.clients[index].take() {
                    Some(Member::Guest(guest)) => {
                        if hush {
                            guest.hush();
                        }
                        self.greet(index, guest, false);
                    }
                    other => self.clients[index] = other,
                }
            }
            if let Some(Member::Guest(_)) = self.clients[index] {
                self.vacate(index);
            }
        }
    }

    /// Stops once no request is kept.
    fn linger(&mut self) {
        match &self.leaving {
            Leaving::Kept(lanes) if lanes.is_empty() => {
                self.shared.stop.store(true, Ordering::Relaxed);
            }
            _ => self.wake_in(LINGER),
        }
    }
}

/// Whether somebody holds a request of this lane, or what came with one, besides the service.
pub(super) fn is_kept(lane: &Arc<Lane>) -> bool {
    Arc::strong_count(lane) > 1
}
