//! Lanes that come to an end: their clients have gone or broke the protocol, or the service leaves.
//!
//! What may still be taken of them is, in turn with others; then they are forgotten.

use super::Service;
use super::clients::Member;
use super::leave::{Leaving, is_kept};
use crate::lane::Broken;

/// How a lane ends.
pub(super) struct Ending {
    /// How many messages may be taken of it yet.
    pub(super) left: usize,
    /// It is the service that leaves, so the client is told where the end is.
    pub(super) leaves: bool,
}

impl Service {
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
}
