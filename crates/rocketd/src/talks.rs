//! The connections to rocketd itself: who is in the middle of what, and how many may be.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lightmessaging::ServiceName;
use lightmessaging::rocketd::Socket;

use crate::asker::Asker;

/// How long somebody may say nothing after having connected.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);
/// How many of one user may be silent at once: who comes after that takes the place of the first.
const SILENT_OF_A_USER: usize = 128;

/// A connection to rocketd.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) socket: Socket,
    /// Who connected.
    pub(crate) uid: u32,
    pub(crate) about: About,
}

/// What it is about.
#[derive(Debug)]
pub(crate) enum About {
    /// Nothing yet.
    Silent,
    /// A service, which is unlocked for as long as this lasts.
    Service(ServiceName),
    /// A look-up that waits for a service to come.
    Waiting(Box<Waiting>),
    /// Nothing more will be said: it is for the other side to hang up.
    Over,
}

/// A look-up that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) name: ServiceName,
    pub(crate) who: Asker,
    pub(crate) asker: Option<std::os::fd::OwnedFd>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Talks {
    all: Vec<Option<Talk>>,
    vacant: Vec<usize>,
    /// Those that have said nothing, or nothing more, the first first.
    silent: VecDeque<(usize, Instant)>,
    most: usize,
}

impl Talks {
    /// No more than `most` at once.
    pub(crate) fn new(most: usize) -> Talks {
        Talks { all: Vec::new(), vacant: Vec::new(), silent: VecDeque::new(), most }
    }

    /// Takes somebody in. Returns where, and who had to leave for that.
    pub(crate) fn add(&mut self, talk: Talk) -> (usize, Vec<usize>) {
        let mut leave = Vec::new();
        let of_the_user = self.silent.iter().filter(|(at, _)| self.is_of(*at, talk.uid)).count();
        let first =
            |its: &dyn Fn(usize) -> bool| self.silent.iter().map(|(at, _)| *at).find(|at| its(*at));
        if of_the_user >= SILENT_OF_A_USER {
            leave.extend(first(&|at| self.is_of(at, talk.uid)));
        } else if self.len() >= self.most {
            // The user with the most connections makes room.
            let crowd = self.crowd();
            leave.extend(first(&|at| self.is_of(at, crowd)).or_else(|| first(&|_| true)));
        }
        let at = self.vacant.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() - 1
        });
        self.all[at] = Some(talk);
        self.silent.push_back((at, Instant::now()));
        (at, leave)
    }

    fn is_of(&self, at: usize, uid: u32) -> bool {
        self.get(at).is_some_and(|talk| talk.uid == uid)
    }

    /// The user who has the most silent connections.
    fn crowd(&self) -> u32 {
        let mut counts = std::collections::HashMap::new();
        for (at, _) in &self.silent {
            if let Some(talk) = self.get(*at) {
                *counts.entry(talk.uid).or_insert(0usize) += 1;
            }
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map_or(0, |(uid, _)| uid)
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len() - self.vacant.len()
    }

    /// There is one too many, and nobody could be made to leave for it.
    pub(crate) fn is_overfull(&self) -> bool {
        self.len() > self.most
    }

    /// A user has more than a quarter of all that there may be.
    pub(crate) fn is_greedy(&self, uid: u32) -> bool {
        self.all.iter().flatten().filter(|talk| talk.uid == uid).count() > self.most / 4
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Talk> {
        self.all.get(at).and_then(Option::as_ref)
    }

    pub(crate) fn set(&mut self, at: usize, about: About) {
        self.silent.retain(|(silent, _)| *silent != at);
        if let Some(Some(talk)) = self.all.get_mut(at) {
            if let About::Over = about {
                self.silent.push_back((at, Instant::now()));
            }
            talk.about = about;
        }
    }

    pub(crate) fn remove(&mut self, at: usize) -> Option<Talk> {
        let talk = self.all.get_mut(at).and_then(Option::take)?;
        self.silent.retain(|(silent, _)| *silent != at);
        self.vacant.push(at);
        Some(talk)
    }

    /// Who has been silent for too long.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<usize> {
        let is_overdue = |since: &Instant| now.saturating_duration_since(*since) >= SILENCE;
        self.silent.iter().take_while(|(_, since)| is_overdue(since)).map(|(at, _)| *at).collect()
    }

    /// When the next one will have been.
    pub(crate) fn next_overdue(&self) -> Option<Instant> {
        self.silent.front().map(|(_, since)| *since + SILENCE)
    }

    /// Those who wait for a service of this name, or for any.
    pub(crate) fn waiting_for(&self, name: Option<&ServiceName>) -> Vec<usize> {
        let waits = |(at, talk): (usize, &Option<Talk>)| match talk {
            Some(Talk { about: About::Waiting(waiting), .. })
                if name.is_none_or(|name| waiting.name == *name) =>
            {
                Some(at)
            }
            _ => None,
        };
        self.all.iter().enumerate().filter_map(waits).collect()
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn talk(uid: u32) -> Talk {
        let flags = SocketFlags::CLOEXEC;
        let (one, _) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        Talk { socket: Socket::from_peer(one).unwrap(), uid, about: About::Silent }
    }

    fn service(name: &str) -> About {
        About::Service(ServiceName::new(name).unwrap())
    }

    #[test]
    fn the_user_with_the_most_silent_ones_makes_room_for_a_newcomer() {
        let mut talks = Talks::new(4);
        let (lonely, _) = talks.add(talk(1));
        let first = talks.add(talk(2)).0;
        for _ in 0..2 {
            assert!(talks.add(talk(2)).1.is_empty());
        }
        let (newcomer, leave) = talks.add(talk(3));
        assert_eq!(leave, [first]);
        talks.remove(first);
        assert!(!talks.is_overfull());
        assert!(talks.get(lonely).is_some() && talks.get(newcomer).is_some());
    }

    #[test]
    fn those_who_are_not_silent_stay_and_a_newcomer_is_one_too_many() {
        let mut talks = Talks::new(2);
        for name in ["a", "b"] {
            let (at, _) = talks.add(talk(1));
            talks.set(at, service(name));
        }
        assert!(!talks.is_overfull());
        let (newcomer, leave) = talks.add(talk(2));
        assert!(leave.is_empty() && talks.is_overfull());
        talks.remove(newcomer);
        assert!(!talks.is_overfull());
    }

    #[test]
    fn one_user_has_only_so_many_silent_ones() {
        let mut talks = Talks::new(10 * SILENT_OF_A_USER);
        let first = talks.add(talk(1)).0;
        for _ in 1..SILENT_OF_A_USER {
            assert!(talks.add(talk(1)).1.is_empty());
        }
        assert!(talks.add(talk(2)).1.is_empty());
        assert_eq!(talks.add(talk(1)).1, [first]);
    }
}
