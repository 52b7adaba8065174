//! What a service over several threads does differently: a message is taken of a lane that nobody
//! has, and a lane that comes to an end gets there one message after the other.
//!
//! While a message of a lane is in a handler, the lane is *taken*: it is in no list, so nobody else
//! takes of it, puts it to sleep or lets it go. It counts as active, so that a ring does not bring it
//! back early, and the bookkeeping in `clients` and `leave` leaves its end to whoever gives it back.
//! Everything here happens under the lock of `threads`, or on the only thread there is.

use super::Service;
use super::clients::Member;
use super::leave::{Leaving, is_kept};
use super::turns::TURN;
use crate::lane::Broken;
use crate::wait::coarse;
use crate::{ClientId, Request, deadlock};

/// A message that is about to be handled.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) of: Taken,
}

/// Whose message it is.
pub(super) struct Taken {
    index: usize,
    /// The service may have been stopped meanwhile, and the place be empty.
    client: ClientId,
}

/// How a lane ends.
pub(super) struct Ending {
    /// How many messages may be taken of it yet.
    pub(super) left: usize,
    /// It is the service that leaves, so the client is told where the end is.
    leaves: bool,
}

impl Service {
    /// Takes the next message of a lane that nobody has, in turn.
    #[inline]
    pub(super) fn pick(&mut self) -> Option<Job> {
        let mut looks = self.active.len();
        while looks > 0 {
            let Some(&index) = self.active.get(self.cursor) else {
                self.cursor = 0;
                looks = looks.min(self.active.len());
                continue;
            };
            let Some(Some(Member::Client(entry))) = self.clients.get_mut(index) else {
                self.active.swap_remove(self.cursor);
                continue;
            };
            let taken = match entry.ending {
                Some(Ending { left: 0, .. }) => Ok(None),
                _ => entry.lane.take(&mut entry.inbox, false),
            };
            match taken {
                Ok(Some(taken)) => {
                    entry.taken = true;
                    entry.idle_turns = 0;
                    entry.untold += 1;
                    if let Some(ending) = &mut entry.ending {
                        ending.left -= 1;
                    }
                    let request = Request::new(taken, entry.lane.clone(), entry.id);
                    let of = Taken { index, client: entry.id };
                    self.stats.messages += 1;
                    self.active.swap_remove(self.cursor);
                    // What is there now was last in the list, and has its turn in the next round.
                    self.cursor += 1;
                    return Some(Job { request, of });
                }
                Ok(None) => {
                    entry.untold = 0;
                    entry.lane.finish_turn(&mut entry.inbox);
                    if entry.ending.is_some() {
                        self.finish(index);
                    } else if self.rest_if_idle(self.cursor) {
                        // In its place is another now, which may have been looked at or not.
                        continue;
                    } else {
                        self.cursor += 1;
                    }
                    looks -= 1;
                }
                Err(broken) => self.spoil(index, broken),
            }
        }
        None
    }

    /// The handler has returned: others may take of the lane again.
    #[inline]
    pub(super) fn give_back(&mut self, of: &Taken) {
        if let Some(rest) = &mut self.rest {
            rest.worked(coarse());
        }
        let Some(entry) = self.entry(of.index).filter(|entry| entry.id == of.client) else {
            return;
        };
        entry.taken = false;
        if let Some(Ending { leaves: false, .. }) = entry.ending {
            entry.lane.die();
        }
        if entry.untold >= TURN as u32 {
            entry.untold = 0;
            entry.lane.finish_turn(&mut entry.inbox);
        }
        self.active.push(of.index);
    }

    /// A lane's client broke the protocol, or is gone.
    #[cold]
    pub(super) fn spoil(&mut self, index: usize, broken: Broken) {
        match self.entry(index).and_then(|entry| entry.ending.as_mut()) {
            None => self.expel(index, broken),
            // It is on its way out already: no further.
            Some(ending) => {
                *ending = Ending { left: 0, leaves: false };
                self.blame(&broken);
                if let Some(entry) = self.entry(index)
                    && !matches!(broken, Broken::Gone)
                {
                    entry.lane.expel();
                }
            }
        }
    }

    /// Has a lane end once so many messages were taken of it, or there is none left.
    pub(super) fn end(&mut self, index: usize, left: usize, leaves: bool) {
        let Some(Some(Member::Client(entry))) = self.clients.get_mut(index) else { return };
        if let Some(ending) = &mut entry.ending {
            ending.left = ending.left.min(left);
            return;
        }
        entry.ending = Some(Ending { left, leaves });
        // It would be reported until the lane is gone.
        let _ = self.poll.remove(entry.lane.socket());
        self.activate(index);
    }

    /// A lane has come to its end.
    #[cold]
    pub(super) fn finish(&mut self, index: usize) {
        let leaves = |ending: &Ending| ending.leaves;
        let Some(entry) = self.entry(index) else { return };
        if entry.ending.as_ref().is_some_and(leaves) {
            entry.lane.close(&entry.inbox);
            let lane = is_kept(&entry.lane).then(|| entry.lane.clone());
            if let Leaving::Draining(kept) = &mut self.leaving {
                kept.extend(lane);
            }
            self.clients[index] = None;
            self.strike(index);
            self.stats.clients -= 1;
        } else {
            self.remove(index);
        }
        self.finish_leaving();
    }

    /// The service leaves: every lane ends with what was sent.
    pub(super) fn drain(&mut self) {
        self.leaving = Leaving::Draining(Vec::new());
        for index in 0..self.clients.len() {
            let Some(entry) = self.entry(index) else { continue };
            let most = entry.lane.leftovers();
            self.end(index, most, true);
        }
        self.finish_leaving();
    }

    /// The last lane was the last thing to wait for, but for requests that were kept.
    fn finish_leaving(&mut self) {
        if let Leaving::Draining(kept) = &mut self.leaving
            && self.stats.clients == 0
        {
            let kept = std::mem::take(kept);
            self.wait_for_kept(kept);
        }
    }

    /// Whether a lane that nobody has comes to an end.
    pub(super) fn is_any_ending(&self) -> bool {
        self.active_entries().any(|entry| entry.ending.is_some())
    }

    /// A turn in a run loop or a loop of somebody else's: on the calling thread alone.
    pub(super) fn turn_alone(&mut self) -> usize {
        let most = TURN * self.active.len();
        let mut handled = 0;
        // Lanes on their way out are not left halfway: nothing would come back to them.
        while !self.is_stopped() && (handled < most || self.is_any_ending()) {
            let Some(Job { request, of }) = self.pick() else { break };
            // First, as the handler may panic. Nobody else is here to take of it meanwhile.
            self.give_back(&of);
            handled += 1;
            deadlock::handle(|| (self.handler)(request));
        }
        handled
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{Connection, Registry, Service};

    /// A service on two threads that has handled a message of each of so many clients, all still polled.
    fn busy(clients: usize) -> (Service, Vec<Connection>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let registry = || Registry::at(folder.path());
        let builder = Service::builder("x").registry(registry()).threads(2);
        let mut service = builder.start(drop).unwrap();
        let connect = |_| {
            let connection = Connection::builder("x").registry(registry()).build().unwrap();
            connection.send_one_way(1, []).unwrap();
            connection
        };
        let connections = (0..clients).map(connect).collect();
        while service.stats.messages < clients as u64 {
            service.gather(Some(Duration::ZERO)).unwrap();
            service.turn_alone();
        }
        assert_eq!(service.active.len(), clients);
        (service, connections, folder)
    }

    #[test]
    fn every_lane_is_looked_at_although_another_goes_to_rest_meanwhile() {
        for cursor in 0..4 {
            for (resting, ending) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
                let (mut service, _connections, _folder) = busy(3);
                let index = |service: &Service, at| service.active[at];
                let (resting, ending) = (index(&service, resting), index(&service, ending));
                service.entry(resting).unwrap().idle_turns = u32::MAX;
                service.end(ending, 0, false);
                service.cursor = cursor;
                assert!(service.pick().is_none());
                assert_eq!(service.stats.clients, 2, "from {cursor}: {resting} {ending}");
            }
        }
    }

    #[test]
    fn a_lane_that_comes_to_its_end_is_not_put_to_sleep_before() {
        let (mut service, _connections, _folder) = busy(2);
        let ending = service.active[0];
        service.end(ending, 0, false);
        assert!(service.fall_asleep(), "there is something to do");
        assert!(service.pick().is_none());
        assert!(!service.fall_asleep());
        assert_eq!(service.stats.clients, 1);
    }
}
