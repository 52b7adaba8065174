//! What the futures of one connection sleep in: an epoll with the bells that their services ring, the
//! lanes' sockets and a timer for the nearest deadline, and the wakers of those who sleep.
//!
//! There is no thread behind it. Somebody waits for the epoll's descriptor and then has it
//! [acted upon](Reactor::dispatch): the program, or a task in its tokio runtime. Every sleeper says first
//! that it sleeps and looks once more after that, so whoever moves something either is seen to have
//! moved it or rings. Knows lanes and when to look at them, but nothing of messages.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

#[cfg(feature = "tokio")]
use super::driver::Drivers;
use crate::ServiceName;
use crate::lane::{Broken, Lane, lock};
use crate::sys::{Bell, Event, Poll, Timer, fork};

/// What the epoll calls the drivers' bell, the timer, what a look-up waits for, and all bells of
/// services. Sockets of lanes have the numbers of their berths, which are higher.
#[cfg(feature = "tokio")]
const DRIVERS: u64 = 0;
const TIMER: u64 = 1;
const NEWS: u64 = 2;
const BELLS: u64 = 3;
const BERTHS: u64 = 4;

/// What the futures of one connection sleep in.
#[derive(Debug)]
pub(super) struct Reactor {
    service: ServiceName,
    poll: Poll,
    timer: Timer,
    state: Mutex<State>,
    /// How many stand in line.
    line: AtomicUsize,
    epoch: u64,
    #[cfg(feature = "tokio")]
    drivers: Drivers,
}

#[derive(Debug, Default)]
struct State {
    /// The last number that was given to anybody.
    number: u64,
    /// Those whose messages are still to be sent, in their order. The first is busy with that.
    line: BTreeMap<u64, Sleeper>,
    /// Everybody else who sleeps, and the first.
    sleepers: BTreeMap<u64, Sleeper>,
    /// When the timer fires, if it is set.
    alarm: Option<Instant>,
    berths: Vec<Berth>,
}

#[derive(Debug)]
struct Sleeper {
    waker: Waker,
    end: Option<Instant>,
    on: On,
}

/// What somebody sleeps for, besides its deadline.
#[derive(Debug)]
pub(super) enum On {
    /// Nothing else, or what others wake it for.
    Time,
    /// The answer to the call in this slot that has this number.
    Answer(Arc<Lane>, usize, u64),
    /// A slot that rests, or the lane's end. Of other slots the lane's queue tells.
    Slot(Arc<Lane>),
    /// Room in a lane, or its end.
    Room,
    /// What was added to the epoll for a look-up.
    News,
}

/// A lane that is listened to.
#[derive(Debug)]
struct Berth {
    number: u64,
    lane: Weak<Lane>,
    /// What the service is given to ring for slots that have no bell yet.
    common: Arc<Bell>,
    /// What is in the epoll.
    bells: Vec<Arc<Bell>>,
}

/// A future's place in the reactor, given up when it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    reactor: Arc<Reactor>,
    number: u64,
}

impl Reactor {
    pub(super) fn new(service: ServiceName) -> io::Result<Arc<Reactor>> {
        let (poll, timer) = (Poll::new()?, Timer::new()?);
        poll.add_timer(&timer, TIMER)?;
        #[cfg(feature = "tokio")]
        let drivers = Drivers::new(&poll, DRIVERS)?;
        Ok(Arc::new(Reactor {
            service,
            poll,
            timer,
            state: Mutex::default(),
            line: AtomicUsize::new(0),
            epoch: fork::epoch(),
            #[cfg(feature = "tokio")]
            drivers,
        }))
    }

    pub(super) fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Whether this process made it: a forked child did not.
    pub(super) fn is_ours(&self) -> bool {
        self.epoch == fork::epoch()
    }

    /// Whether nobody's message is still to be sent.
    #[inline]
    pub(super) fn is_line_empty(&self) -> bool {
        self.line.load(Ordering::Relaxed) == 0
    }

    /// Nobody will sleep here any more.
    pub(super) fn close(&self) {
        #[cfg(feature = "tokio")]
        if self.is_ours() {
            self.drivers.dismiss();
        }
    }

    #[cfg(feature = "tokio")]
    pub(super) fn drivers(&self) -> &Drivers {
        &self.drivers
    }

    /// Wakes the futures that may move on, without waiting.
    pub(super) fn dispatch(&self) -> io::Result<()> {
        let mut events = Vec::new();
        loop {
            // What is left in the epoll would be no news to whoever waits for its edges.
            let is_all = self.poll.wait(&mut events, Some(Duration::ZERO))?.len() < 64;
            self.act(&events);
            if is_all {
                return Ok(());
            }
        }
    }

    /// Acts on news.
    fn act(&self, events: &[Event]) {
        let (mut is_rung, mut is_late, mut is_news) = (false, false, false);
        for event in events {
            match event.token {
                #[cfg(feature = "tokio")]
                DRIVERS => {}
                TIMER => is_late = true,
                NEWS => is_news = true,
                BELLS => is_rung = true,
                number => {
                    is_rung = true;
                    self.hear_socket(number);
                }
            }
        }
        // Woken when the lock is free: a waker is a stranger's code.
        let mut woken = Vec::new();
        {
            let mut state = lock(&self.state);
            let now = is_late.then(Instant::now);
            let is_due = |sleeper: &Sleeper| {
                now.is_some_and(|now| sleeper.end.is_some_and(|end| end <= now))
            };
            woken.extend(
                state
                    .sleepers
                    .values()
                    .filter(|sleeper| {
                        let has_news = match &sleeper.on {
                            On::Time => false,
                            On::Answer(lane, slot, seq) => lane.has_moved(*slot, *seq),
                            On::Slot(lane) => lane.has_slot_news(),
                            On::Room => is_rung,
                            On::News => is_news,
                        };
                        has_news || is_due(sleeper)
                    })
                    .map(|sleeper| sleeper.waker.clone()),
            );
            if let Some(now) = now {
                let late = state.line.values().filter(|sleeper| is_due(sleeper));
                woken.extend(late.map(|sleeper| sleeper.waker.clone()));
                let ends = state.line.values().chain(state.sleepers.values());
                let next = ends.filter_map(|sleeper| sleeper.end).filter(|end| *end > now).min();
                state.alarm = None;
                self.set_alarm(&mut state, next);
            }
        }
        woken.into_iter().for_each(Waker::wake);
    }

    /// Takes what a service has sent through its socket.
    fn hear_socket(&self, number: u64) {
        let lane = {
            let state = lock(&self.state);
            let berth = state.berths.iter().find(|berth| berth.number == number);
            berth.and_then(|berth| berth.lane.upgrade())
        };
        let Some(lane) = lane else { return };
        if let Err(broken) = lane.drain() {
            lane.fail(broken);
        }
        if lane.is_dead() {
            // Its end would be reported for ever.
            let _ = self.poll.remove(lane.socket());
        }
    }

    /// Has the timer fire at a moment, unless it fires before.
    fn set_alarm(&self, state: &mut State, end: Option<Instant>) {
        let Some(end) = end else { return };
        if state.alarm.is_none_or(|alarm| end < alarm) {
            state.alarm = Some(end);
            self.timer.set(end.saturating_duration_since(Instant::now()));
        }
    }

    /// Listens to a lane's socket and to the bell that its service rings under a number. `false` if the
    /// service cannot be given that bell at the moment.
    pub(super) fn listen(&self, lane: &Arc<Lane>, number: usize) -> Result<bool, Broken> {
        let mut state = lock(&self.state);
        let berth = self.berth(&mut state, lane)?;
        let Some(bell) = lane.bell(number, &berth.common)? else { return Ok(false) };
        self.hear_bell(berth, &bell)?;
        Ok(true)
    }

    /// The same for the slots of a lane that rest, while `out` makes sure that none is used anew.
    pub(super) fn listen_to_resting(
        &self,
        lane: &Arc<Lane>,
        out: &crate::lane::caller::Outbox,
    ) -> Result<bool, Broken> {
        let mut state = lock(&self.state);
        let berth = self.berth(&mut state, lane)?;
        let common = berth.common.clone();
        lane.listen_to_resting(out, &common, |bell| Ok(self.hear_bell(berth, bell)?))
    }

    fn hear_bell(&self, berth: &mut Berth, bell: &Arc<Bell>) -> io::Result<()> {
        if berth.bells.iter().all(|known| !Arc::ptr_eq(known, bell)) {
            self.poll.add_bell(bell, BELLS)?;
            berth.bells.push(bell.clone());
        }
        Ok(())
    }

    /// The berth of a lane, made if need be.
    fn berth<'a>(&self, state: &'a mut State, lane: &Arc<Lane>) -> io::Result<&'a mut Berth> {
        let is_its = |berth: &Berth| std::ptr::eq(berth.lane.as_ptr(), Arc::as_ptr(lane));
        let at = match state.berths.iter().position(is_its) {
            Some(at) => at,
            None => {
                self.prune(state);
                let common = Arc::new(Bell::new()?);
                state.number += 1;
                let number = BERTHS + state.number;
                self.poll.add(lane.socket(), number)?;
                let (lane, bells) = (Arc::downgrade(lane), Vec::new());
                state.berths.push(Berth { number, lane, common, bells });
                state.berths.len() - 1
            }
        };
        Ok(&mut state.berths[at])
    }

    /// Forgets the lanes that are gone. A bell whose other end lives would stay in the epoll.
    fn prune(&self, state: &mut State) {
        state.berths.retain(|berth| {
            let lives = berth.lane.strong_count() > 0;
            if !lives {
                berth.bells.iter().for_each(|bell| drop(self.poll.remove(bell)));
            }
            lives
        });
    }

    /// Has whoever sleeps for [`On::News`] woken when this is readable.
    pub(super) fn add_news(&self, source: impl AsFd) -> io::Result<()> {
        match self.poll.add(source, NEWS) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            added => added,
        }
    }
}

impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.as_fd()
    }
}

impl Ticket {
    pub(super) fn new(reactor: &Arc<Reactor>) -> Ticket {
        let mut state = lock(&reactor.state);
        state.number += 1;
        Ticket { reactor: reactor.clone(), number: state.number }
    }

    pub(super) fn reactor(&self) -> &Arc<Reactor> {
        &self.reactor
    }

    /// Stands in line, behind all who do already; is woken when it is the first, or at `end`. Returns
    /// whether it is.
    pub(super) fn stand_in_line(&self, waker: &Waker, end: Option<Instant>) -> bool {
        let sleeper = Sleeper { waker: waker.clone(), end, on: On::Time };
        // Dropped when the lock is free: with a waker may go a future, which has a ticket.
        let (_old, is_first) = {
            let mut state = lock(&self.reactor.state);
            let old = state.line.insert(self.number, sleeper);
            self.reactor.line.store(state.line.len(), Ordering::Relaxed);
            self.reactor.set_alarm(&mut state, end);
            let first = state.line.first_key_value();
            (old, first.is_some_and(|(first, _)| *first == self.number))
        };
        self.drive();
        is_first
    }

    /// Is woken for that, or at `end`. Whoever calls this looks once more.
    pub(super) fn sleep(&self, waker: &Waker, end: Option<Instant>, on: On) {
        let sleeper = Sleeper { waker: waker.clone(), end, on };
        let _old = {
            let mut state = lock(&self.reactor.state);
            self.reactor.set_alarm(&mut state, end);
            state.sleepers.insert(self.number, sleeper)
        };
        self.drive();
    }

    /// Where there is a tokio runtime, a task of it does what else the program has to.
    fn drive(&self) {
        #[cfg(feature = "tokio")]
        Drivers::ensure(&self.reactor);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // In a forked child the lock may be held for good by a thread that is not there.
        if !self.reactor.is_ours() {
            return;
        }
        let (_old, next) = {
            let mut state = lock(&self.reactor.state);
            let first = state.line.first_key_value();
            let was_first = first.is_some_and(|(first, _)| *first == self.number);
            let old = (state.sleepers.remove(&self.number), state.line.remove(&self.number));
            self.reactor.line.store(state.line.len(), Ordering::Relaxed);
            let next = was_first.then(|| state.line.first_key_value()).flatten();
            (old, next.map(|(_, sleeper)| sleeper.waker.clone()))
        };
        if let Some(waker) = next {
            waker.wake();
        }
    }
}
