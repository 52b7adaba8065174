//! The loop: taking turns, spinning, sleeping, and looking around.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::clients::{Entry, Member};
use super::leave::Leaving;
use super::{CLIENTS, LISTENER, ROCKETS, STOP, Service, TEAM, TIMER};
use crate::lane::Broken;
use crate::sys::{Event, core};
use crate::wait::spin_for;
use crate::{Error, Request, Result, deadlock};

/// Messages that one lane may have handled before the others have their turn.
pub(super) const TURN: usize = 64;
/// Messages that a round of all lanes may take: where there are many of them, each has a shorter turn.
const ROUND: usize = 512;
/// Messages after which the loop looks at its sockets and bells, however quickly it handles them:
/// whoever has rung waits no longer for that than for a few turns.
const LOOK_AFTER: u64 = 256;
/// How long the loop may go on without looking at its sockets, in nanoseconds.
pub(super) const LOOK_UP: u64 = 50_000;

/// The time that a service sleeps between two messages.
pub(super) struct Gap {
    since: Instant,
    /// How many wake-ups, ours and the client's, lie in it.
    wake_ups: u32,
}

impl Service {
    /// Gives each active lane its turn, one after the other from where the last round has ended, and
    /// returns how many messages were handled.
    pub(super) fn turn(&mut self) -> usize {
        if self.team.is_some() {
            return self.turn_alone();
        }
        let part = self.part();
        let mut handled = 0;
        for _ in 0..self.active.len() {
            if self.cursor >= self.active.len() {
                self.cursor = 0;
            }
            let Some(&index) = self.active.get(self.cursor) else { break };
            let (count, end) = self.serve(index, part);
            handled += count;
            if let Err(broken) = end {
                self.spoil(index, broken);
                continue;
            }
            let Some(entry) = self.entry(index) else {
                self.active.swap_remove(self.cursor);
                continue;
            };
            if let Some(ending) = &entry.ending
                && (count == 0 || ending.left == 0)
            {
                self.finish(index);
                continue;
            }
            if count > 0 {
                entry.idle_turns = 0;
            } else if self.rest_if_idle(self.cursor) {
                continue;
            }
            self.cursor += 1;
            if self.is_stopped() || self.steps + handled as u64 >= self.look_after {
                // Those who have rung meanwhile come before a long round has ended.
                break;
            }
        }
        handled
    }

    /// How many messages of one lane a turn may handle. Long turns save time, as every change to another
    /// lane may put a client to sleep and wake one; but nobody shall wait long for all the others, where
    /// those are many or their messages take long.
    fn part(&self) -> usize {
        let share = match self.active.len() {
            few if few * TURN <= ROUND => TURN,
            many => ROUND / many,
        };
        share.min(4 * self.look_after as usize).max(1)
    }

    /// Handles up to `most` messages of one lane.
    pub(super) fn serve(&mut self, index: usize, most: usize) -> (usize, Result<(), Broken>) {
        let alone = self.active.len() <= 1;
        let Some(Some(Member::Client(entry))) = self.clients.get_mut(index) else {
            return (0, Ok(()));
        };
        let most = entry.ending.as_ref().map_or(most, |ending| most.min(ending.left));
        let mut count = 0;
        let end = loop {
            if count == most || self.shared.stop.load(Ordering::Relaxed) {
                break Ok(());
            }
            match entry.lane.take(&mut entry.inbox, alone) {
                Ok(Some(taken)) => {
                    count += 1;
                    self.stats.messages += 1;
                    let request = Request::new(taken, entry.lane.clone(), entry.id);
                    deadlock::handle(|| (self.handler)(request));
                }
                Ok(None) => break Ok(()),
                Err(broken) => break Err(broken),
            }
        };
        entry.lane.finish_turn(&mut entry.inbox);
        if let Some(ending) = &mut entry.ending {
            ending.left -= count;
        }
        (count, end)
    }

    /// How long it is likely to pay to spin for the next message; `None`: not at all.
    pub(super) fn patience(&self) -> Option<Duration> {
        // One that never sleeps spins for whoever comes.
        let for_anybody = self.never_sleeps() && self.active.is_empty();
        if !for_anybody && !self.is_any_elsewhere() {
            return None;
        }
        let first = self.active_entries().next();
        self.patience.spin(first.is_some_and(|entry| entry.lane.caller_sleeps()))
    }

    /// Whether it was told to spin for as long as it runs.
    #[inline]
    pub(super) fn never_sleeps(&self) -> bool {
        self.patience.never_sleeps()
    }

    /// Spins for the next message, or until somebody calls, if that is likely to pay. Returns
    /// whether there is one.
    #[inline]
    pub(super) fn spin(&mut self, is_called: impl Fn() -> bool) -> bool {
        let Some(limit) = self.patience() else { return false };
        let came = spin_for(limit, || self.has_news() || is_called());
        self.spun(limit, came);
        came
    }

    /// Learns from having spun.
    pub(super) fn spun(&mut self, limit: Duration, came: bool) {
        if came { self.patience.hit() } else { self.patience.missed(limit) }
    }

    /// Whether any of the lately active clients runs on another core.
    pub(super) fn is_any_elsewhere(&self) -> bool {
        let here = core();
        let elsewhere = |entry: &Entry| ![0, here].contains(&entry.lane.client_core());
        self.active_entries().any(elsewhere)
    }

    #[inline]
    pub(super) fn has_news(&self) -> bool {
        // One that comes to an end has its last turn although there is nothing left.
        let has_news = |entry: &Entry| entry.ending.is_some() || entry.lane.has_news(&entry.inbox);
        self.active_entries().any(has_news) || self.is_stopped()
    }

    /// Sleeps until there is something to do, or no time is left (`None`: never).
    pub(super) fn sleep(&mut self, left: Option<Duration>) -> Result<()> {
        if self.never_sleeps() {
            return self.look_on();
        }
        let gap = self.gap();
        if self.fall_asleep() {
            return Ok(());
        }
        self.gather(left)?;
        self.learn(gap);
        Ok(())
    }

    /// Instead of sleeping: hears what there is to hear, and lets a client on this core run.
    pub(super) fn look_on(&mut self) -> Result<()> {
        self.gather(Some(Duration::ZERO))?;
        if !self.is_any_elsewhere() {
            std::thread::yield_now();
        }
        self.say_core();
        Ok(())
    }

    /// A gap that begins now. Against clients on this core there is no spinning, so there is
    /// nothing to learn.
    pub(super) fn gap(&self) -> Option<Gap> {
        let first = self.active_entries().next().filter(|_| self.is_any_elsewhere())?;
        let wake_ups = if first.lane.caller_sleeps() { 2 } else { 1 };
        Some(Gap { since: Instant::now(), wake_ups })
    }

    /// Learns from a gap that has ended with a message, if it has.
    pub(super) fn learn(&mut self, gap: Option<Gap>) {
        let first = self.active_entries().next();
        if let (Some(gap), Some(entry)) = (gap, first) {
            if let Some(rang) = entry.lane.rung_since() {
                self.patience.woken_after(rang);
            }
            self.patience.slept(gap.since.elapsed(), gap.wake_ups);
        }
    }

    /// Lets every active lane ring from now on. Returns `true`, and is awake again, if one of them
    /// has a message, or is at its end: nobody would ring for that.
    pub(super) fn fall_asleep(&mut self) -> bool {
        self.active_entries().for_each(|entry| entry.lane.set_awake(0));
        if self.has_news() {
            let here = core();
            self.active_entries().for_each(|entry| entry.lane.set_awake(here));
            return true;
        }
        while !self.active.is_empty() {
            self.deactivate(0);
        }
        false
    }

    /// Whatever the lanes say, the sockets have their turn too; so many messages were handled now.
    #[inline]
    pub(super) fn look_around_in_time(&mut self, handled: usize) -> Result<()> {
        self.steps += handled.max(1) as u64;
        if self.steps >= self.look_after { self.look_around() } else { Ok(()) }
    }

    /// Looks at the sockets although there is work, and adapts how often that is done.
    fn look_around(&mut self) -> Result<()> {
        if let Some(looked) = self.looked {
            let elapsed = (looked.elapsed().as_nanos() as u64).max(1);
            // A moment in which another process ran here is no sign that messages take long.
            let least = (self.look_after / 4).max(1);
            self.look_after = (self.steps * LOOK_UP / elapsed).clamp(least, LOOK_AFTER);
        }
        self.gather(Some(Duration::ZERO))?;
        self.looked = Some(Instant::now());
        self.say_core();
        Ok(())
    }

    /// The loop may have moved to another core.
    pub(super) fn say_core(&self) {
        let here = core();
        self.active_entries().for_each(|entry| entry.lane.update_awake(here));
    }

    /// Waits for news from the sockets and bells, and acts on it.
    pub(super) fn gather(&mut self, timeout: Option<Duration>) -> Result<()> {
        let mut events = std::mem::take(&mut self.events);
        let waited = self.poll.wait(&mut events, timeout).map(|_| ());
        self.act(&events);
        self.events = events;
        waited.map_err(|source| self.cannot_wait(source))
    }

    pub(super) fn cannot_wait(&self, source: std::io::Error) -> Error {
        Error::Os { service: self.name.clone(), doing: "wait for messages", source }
    }

    /// Acts on news.
    pub(super) fn act(&mut self, events: &[Event]) {
        self.steps = 0;
        self.looked = None;
        if self.paused {
            self.pause(false);
        }
        for event in events {
            match event.token {
                LISTENER => {
                    self.accept();
                    self.watch_on(LISTENER);
                }
                STOP => {}
                TEAM => self.relief.came(),
                TIMER => {
                    self.alarm = None;
                    self.trim();
                    self.announce_again();
                    self.look_after_heir();
                    self.look_whether_to_leave();
                }
                ROCKETS..CLIENTS => self.hear_rockets(),
                token => {
                    let index = ((token - CLIENTS) / 2) as usize;
                    if (token - CLIENTS).is_multiple_of(2) {
                        self.activate(index)
                    } else {
                        self.hear(index, event.hung_up);
                        self.watch_on(token);
                    }
                }
            }
        }
        if matches!(self.leaving, Leaving::Soon) {
            self.leave();
        }
    }
}
