//! What a service over several threads does differently: a message is taken of a lane that nobody has.
//!
//! While a message of a lane is in a handler, the lane is *taken*: it is in no list, so nobody else
//! takes of it, puts it to sleep or lets it go. It counts as active, so that a ring does not bring it
//! back early, and the bookkeeping in `clients` and `ending` leaves its end to whoever gives it back.
//! Everything here happens under the lock of `threads`, or on the only thread there is.

use super::Service;
use super::clients::Member;
use super::ending::Ending;
use super::turns::TURN;
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

    /// A turn in a run loop or a loop of somebody else's: on the calling thread alone.
    pub(super) fn turn_alone(&mut self) -> usize {
        let most = TURN * self.active.len();
        let mut handled = 0;
        while !self.is_stopped() && handled < most {
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
