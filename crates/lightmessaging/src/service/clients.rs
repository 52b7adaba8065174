//! Clients as they come, speak up and go.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::ending::Ending;
use super::guests::Guest;
use super::handover::Heir;
use super::{CLIENTS, LISTENER, Service};
use crate::lane::server::{Inbox, Met};
use crate::lane::{Broken, Lane, lock};
use crate::sys::{Bell, Fd, Socket, is_exhausted};
use crate::{ClientId, Peer};

/// How long accepting is left alone when there are no descriptors for it.
const PAUSE: Duration = Duration::from_millis(100);

/// A client of a service.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Client {
    /// Tells it from every other client of this service, past ones included.
    pub id: ClientId,
    /// Its process.
    pub peer: Peer,
}

/// A client has come or gone.
#[derive(Clone, Debug)]
pub enum ClientEvent {
    /// It has connected.
    Came(Client),
    /// It has disconnected or died, and all that it had sent was handled.
    Gone(Client),
}

/// One connection, in the state it is in.
pub(super) enum Member {
    /// Connected, and yet to say hello.
    Guest(Guest),
    /// The name was offered to it.
    Heir(Heir),
    Client(Box<Entry>),
}

pub(super) struct Entry {
    pub(super) lane: Arc<Lane>,
    pub(super) inbox: Inbox,
    pub(super) _bell: Bell,
    /// Tells rocketd of the end, where it sent the client.
    pub(super) _ticket: Option<Fd>,
    pub(super) id: ClientId,
    pub(super) peer: Peer,
    pub(super) active: bool,
    pub(super) idle_turns: u32,
    /// A message of it is in a handler, so nobody takes another; with several threads only.
    pub(super) taken: bool,
    /// Messages that were taken since its client was last told of the room; with several threads.
    pub(super) untold: u32,
    /// It comes to an end.
    pub(super) ending: Option<Ending>,
    /// In `used`, and when it was active last, in milliseconds of the coarse clock.
    pub(super) used: bool,
    pub(super) last: u64,
}

impl Service {
    pub(super) fn accept(&mut self) {
        // Some at a time, so that those who are served are not kept waiting.
        for _ in 0..16 {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok(socket) => {
                    // Accepting nobody costs more than accepting somebody.
                    let is_last = !listener.has_waiting();
                    self.meet(socket);
                    if is_last {
                        return;
                    }
                }
                Err(error) => {
                    if is_exhausted(&error) {
                        // They wait in the queue, and we do not spin.
                        self.pause(true);
                    }
                    return;
                }
            }
        }
    }

    /// Somebody has connected.
    pub(super) fn meet(&mut self, socket: Socket) {
        if socket.ask_for_credentials(true).is_ok() {
            let index = self.vacant.pop().unwrap_or_else(|| {
                self.clients.push(None);
                self.clients.len() - 1
            });
            self.greet(index, Guest::new(socket), true);
        }
    }

    pub(super) fn pause(&mut self, pause: bool) {
        self.paused = pause;
        if !pause && self.team.is_some() {
            return self.watch_on(LISTENER);
        }
        if let Some(listener) = &self.listener {
            let _ = self.poll.enable(listener, LISTENER, !pause);
        }
        if pause {
            self.wake_in(PAUSE);
        }
    }

    /// Has a socket's news reported. Several threads are told once, which wakes one of them and not all,
    /// until that has [acted](Service::watch_on) on it.
    pub(super) fn watch(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        match self.team {
            Some(_) => self.poll.add_once(socket, token),
            None => self.poll.add(socket, token),
        }
    }

    /// Several threads are told of a socket's next news, or of what is left, once more.
    pub(super) fn watch_on(&self, token: u64) {
        if self.team.is_none() {
            return;
        }
        // One that comes to its end is watched no more, which is no harm.
        let _ = match token.checked_sub(CLIENTS + 1) {
            None => {
                self.listener.as_ref().filter(|_| !self.paused).map(|l| self.poll.resume(l, token))
            }
            Some(at) => match self.clients.get(at as usize / 2).and_then(Option::as_ref) {
                Some(Member::Guest(guest)) => Some(self.poll.resume(guest.socket(), token)),
                Some(Member::Heir(heir)) => Some(self.poll.resume(heir.socket(), token)),
                Some(Member::Client(entry)) => Some(self.poll.resume(entry.lane.socket(), token)),
                None => None,
            },
        };
    }

    /// Takes a client in that was met.
    pub(super) fn admit(&mut self, index: usize, met: Met, ticket: Option<Fd>, new: bool) {
        let token = CLIENTS + 2 * index as u64;
        let (lane, inbox, bell) = met;
        let Some(peer) = lane.peer().cloned() else { return self.vacate(index) };
        let polled = self.poll.add_bell(&bell, token).is_ok()
            && (!new || self.watch(lane.socket(), token + 1).is_ok());
        if !polled {
            self.stats.busy += 1;
            return self.vacate(index);
        }
        self.ids += 1;
        let id = ClientId(self.ids);
        let entry = Entry {
            lane,
            inbox,
            _bell: bell,
            _ticket: ticket,
            id,
            peer: peer.clone(),
            active: false,
            idle_turns: 0,
            taken: false,
            untold: 0,
            ending: None,
            used: false,
            last: 0,
        };
        self.clients[index] = Some(Member::Client(Box::new(entry)));
        self.stats.clients += 1;
        self.count();
        if let Some(notice) = &mut self.on_client {
            notice(ClientEvent::Came(Client { id, peer }));
        }
        // What it sent with the hello is in the lane already.
        self.activate(index);
    }

    pub(super) fn vacate(&mut self, index: usize) {
        self.clients[index] = None;
        self.vacant.push(index);
    }

    pub(super) fn blame(&mut self, broken: &Broken) {
        match broken {
            Broken::Malformed(_) => self.stats.malformed += 1,
            Broken::Version(_) => self.stats.version += 1,
            Broken::Busy | Broken::Os(_) => self.stats.busy += 1,
            // Only clients hear of these.
            Broken::Gone | Broken::NotStarted | Broken::Denied => {}
        }
    }

    /// A panic may have kept an earlier run from acting on its news: looks at everybody once.
    pub(super) fn look_at_all(&mut self) {
        self.watch_on(LISTENER);
        for index in 0..self.clients.len() {
            self.activate(index);
            self.watch_on(CLIENTS + 2 * index as u64 + 1);
        }
    }

    /// A client's socket has news.
    pub(super) fn hear(&mut self, index: usize, hung_up: bool) {
        match self.clients.get_mut(index) {
            Some(member @ Some(Member::Guest(_))) => {
                if let Some(Member::Guest(guest)) = member.take() {
                    self.greet(index, guest, false);
                }
            }
            Some(Some(Member::Heir(_))) => self.hear_heir(index),
            Some(Some(Member::Client(entry))) if entry.ending.is_some() => {}
            Some(Some(Member::Client(entry))) => {
                // The event may be about a client that had this place before.
                let end = entry.lane.hear();
                if matches!(end, Err(Broken::Gone)) || hung_up && entry.lane.socket().hung_up() {
                    return self.bury(index);
                }
                if let Err(broken) = end {
                    self.expel(index, broken);
                }
            }
            _ => {}
        }
    }

    /// A client has gone: what it had sent is handled, then it is forgotten.
    pub(super) fn bury(&mut self, index: usize) {
        let Some(entry) = self.entry(index) else { return };
        // What is being answered may have reached it: then it counts as dead once that is over.
        if !entry.taken {
            entry.lane.die();
        }
        let most = entry.lane.leftovers();
        self.end(index, most, false);
    }

    /// A client broke the protocol: it loses its lane, and nothing else happens.
    pub(super) fn expel(&mut self, index: usize, broken: Broken) {
        if matches!(broken, Broken::Gone) {
            return self.bury(index);
        }
        self.blame(&broken);
        if let Some(entry) = self.entry(index) {
            entry.lane.expel();
        }
        self.end(index, 0, false);
    }

    pub(super) fn remove(&mut self, index: usize) {
        let Some(Some(Member::Client(entry))) = self.clients.get_mut(index).map(Option::take)
        else {
            return;
        };
        let _ = self.poll.remove(entry.lane.socket());
        let gone = Client { id: entry.id, peer: entry.peer.clone() };
        if entry.active {
            self.strike(index);
        }
        // Before anybody is told that it is gone.
        drop(entry);
        self.vacant.push(index);
        self.stats.clients -= 1;
        self.count();
        if let Some(notice) = &mut self.on_client {
            notice(ClientEvent::Gone(gone));
        }
    }

    pub(super) fn count(&self) {
        if let Some(claim) = &*lock(&self.shared.claim) {
            claim.note(self.stats.clients, self.unlocked);
        }
    }

    pub(super) fn entry(&mut self, index: usize) -> Option<&mut Entry> {
        match self.clients.get_mut(index) {
            Some(Some(Member::Client(entry))) => Some(entry),
            _ => None,
        }
    }

    /// All clients.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.clients.iter().flatten().filter_map(|member| match member {
            Member::Client(entry) => Some(&**entry),
            _ => None,
        })
    }

    /// The clients whose lanes are polled.
    #[inline]
    pub(super) fn active_entries(&self) -> impl Iterator<Item = &Entry> {
        self.active.iter().filter_map(|index| match self.clients.get(*index) {
            Some(Some(Member::Client(entry))) => Some(&**entry),
            _ => None,
        })
    }
}
