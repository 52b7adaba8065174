//! The client's end of a lane: publishing messages and waiting for answers.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Broken, Lane, Theirs, change, lock, make_memory};
use crate::payload::Body;
use crate::shm::layout::{Answer, Control, Shape};
use crate::shm::region::Lent;
use crate::shm::ring::{BadPosition, Record, Writer};
use crate::sys::{Bell, Event, Poll, Socket, core};
use crate::wait::{Clock, Patience, coarse};
use crate::wire::Packet;
use crate::{ServiceName, Wait};

/// How often a caller looks before it asks the clock: a microsecond or two.
const LOOKS: u32 = 100;
const BELL: u64 = 0;
const SOCKET: u64 = 1;

/// What a blocked caller sleeps on.
#[derive(Debug, Default)]
pub(super) struct Sleeper {
    on: Option<(Poll, Bell)>,
    patience: Option<Patience>,
    events: Vec<Event>,
}

/// The publishing state of a lane, under its connection's lock: every message gets the next
/// sequence number, whichever thread sends it.
#[derive(Debug)]
pub(crate) struct Outbox {
    seq: u64,
    ring: Writer,
    /// The call each slot was last used for.
    used: Vec<u64>,
    /// The core of the last message, as published.
    core: u32,
    /// When we last made sure that the service lives, in milliseconds of the coarse clock.
    looked: u64,
}

/// A message's payload, where it will travel.
pub(crate) enum Bytes<'a> {
    Inline(&'a [u8]),
    OutOfLine(&'a Lent, usize),
}

/// A call that was published.
pub(crate) struct Posted {
    slot: usize,
    seq: u64,
    /// Whether the service was seen awake on another core.
    awake: bool,
}

/// How a call ended.
pub(crate) enum Outcome {
    Reply(Body),
    NoReply,
    NotDelivered,
    PeerDied,
    TimedOut { delivered: bool },
    Broken(Broken),
}

impl Lane {
    /// Opens a lane: everything the service needs goes into one packet, and nothing is waited for.
    pub(crate) fn open(
        service: &ServiceName,
        socket: Socket,
    ) -> Result<(Arc<Lane>, Outbox), Broken> {
        let shape = Shape::CLIENT;
        let (mine, memory) = make_memory(&shape)?;
        let service_bell = Bell::new()?;
        let (poll, bell) = (Poll::new()?, Bell::new()?);
        socket.ask_for_credentials(true)?;
        let lane = Lane::new(service.clone(), socket, mine, shape, 1);
        let fds = [memory.as_fd(), service_bell.as_fd(), bell.as_fd()];
        for (slot, state) in lane.slots.iter().enumerate() {
            // Until a caller has made its bell, it does not sleep.
            let awake = u32::from(slot != 0);
            Lane::call(&lane.mine, &shape, slot).awake.store(awake, Ordering::Relaxed);
            state.awake.store(awake, Ordering::Relaxed);
        }
        lane.socket.send(Packet::Hello(shape).encode().as_slice(), &fds)?;
        let _ = lane.bells[0].set(service_bell);
        lock(&lane.slots[0].sleeper).on = Some(lane.sleep_on(poll, bell)?);
        let outbox = Outbox {
            seq: 0,
            ring: Writer::new(shape.ring, shape.ring_len),
            used: vec![0; shape.slots],
            core: 0,
            looked: coarse(),
        };
        Ok((Arc::new(lane), outbox))
    }

    fn sleep_on(&self, poll: Poll, bell: Bell) -> Result<(Poll, Bell), Broken> {
        poll.add_bell(&bell, BELL)?;
        poll.add(&self.socket, SOCKET)?;
        Ok((poll, bell))
    }

    /// Publishes a call; `None` if no slot is free.
    #[inline(always)]
    pub(crate) fn post_call(&self, out: &mut Outbox, id: i32, bytes: Bytes<'_>) -> Option<Posted> {
        let slot = (0..self.slots.len()).find(|slot| self.is_free(*slot, out))?;
        let state = &self.slots[slot];
        let line = Lane::call(&self.mine, &self.shape, slot);
        let (len, region, loan) = match bytes {
            Bytes::Inline(bytes) => {
                Lane::slot_room(&self.mine, &self.shape, slot).copy_in(bytes);
                (bytes.len(), 0, 0)
            }
            Bytes::OutOfLine(lent, len) => (len, lent.number as u32 + 1, lent.loan),
        };
        state.busy.store(true, Ordering::Relaxed);
        let here = self.say_core(out);
        if state.awake.load(Ordering::Relaxed) != here && state.awake.load(Ordering::Relaxed) != 0 {
            state.awake.store(here, Ordering::Relaxed);
            line.awake.store(here, Ordering::Relaxed);
        }
        out.seq += 1;
        out.used[slot] = out.seq;
        change(&line.id, id as u32);
        change(&line.len, len as u32);
        change(&line.region, region);
        if region != 0 {
            line.loan.store(loan, Ordering::Relaxed);
        }
        // Pairs with the service's Acquire load in `take`, and before its store of `awake`.
        Lane::call_words(&self.mine, &self.shape)[slot].0.swap(out.seq, Ordering::SeqCst);
        let awake = self.wake_service();
        Some(Posted { slot, seq: out.seq, awake: awake != 0 && awake != here })
    }

    /// Publishes a one-way message; `false` if there is no room in the ring.
    pub(crate) fn post_one_way(
        &self,
        out: &mut Outbox,
        id: i32,
        bytes: Bytes<'_>,
    ) -> Result<bool, Broken> {
        let loan;
        let (len, region, payload) = match bytes {
            Bytes::Inline(bytes) => (bytes.len(), 0, bytes),
            Bytes::OutOfLine(lent, len) => {
                loan = lent.loan.to_ne_bytes();
                (len, lent.number as u32 + 1, &loan[..])
            }
        };
        let record = Record { seq: out.seq.wrapping_add(1) as u32, id, len: len as u32, region };
        let head = || self.service_head();
        match out.ring.put(&self.mine, record, payload, head) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(BadPosition) => return Err(Broken::Malformed("a ring position out of range")),
        }
        out.seq += 1;
        self.say_core(out);
        // Pairs with the service's Acquire load in `take`, and before its store of `awake`.
        self.control().position.swap(out.ring.tail(), Ordering::SeqCst);
        self.wake_service();
        Ok(true)
    }

    /// Lets the service know the core we run on, so that it does not spin against us there.
    #[inline]
    fn say_core(&self, out: &mut Outbox) -> u32 {
        let here = core();
        if out.core != here {
            out.core = here;
            self.control().core.store(here, Ordering::Relaxed);
        }
        here
    }

    /// Whether the lane may still be sent on, as far as this side has heard.
    #[inline(always)]
    pub(crate) fn check(&self) -> Result<(), Broken> {
        if self.is_dead() {
            return Err(self.fault());
        }
        if self.is_cut() { Err(Broken::Gone) } else { Ok(()) }
    }

    /// Looks at the socket every few milliseconds: nobody waits for the answer to a one-way
    /// message, so nobody would see that the service has died.
    #[inline]
    pub(crate) fn look(&self, out: &mut Outbox) {
        let now = coarse();
        if now != out.looked {
            out.looked = now;
            if self.socket.hung_up() {
                self.die();
            }
        }
    }

    /// The messages in the ring that the service surely never took, in order.
    pub(crate) fn untaken(&self, out: &Outbox, mut each: impl FnMut(i32, Vec<u8>)) {
        let head = self.service_head();
        let _ = out.ring.untaken(&self.mine, head, |record, bytes| {
            if record.region == 0 {
                return each(record.id, bytes);
            }
            let pool = lock(&self.pool);
            if let Some(bytes) = pool.contents(record.region as usize - 1, record.len as usize) {
                each(record.id, bytes);
            }
        });
    }

    fn service_head(&self) -> u64 {
        match self.theirs.get() {
            Some(theirs) => {
                theirs.memory.words::<Control>(theirs.shape.control).position.load(Ordering::SeqCst)
            }
            None => 0,
        }
    }

    /// The first sequence number that the service will never take, if it has said so.
    fn cut(&self) -> Option<u64> {
        let theirs = self.theirs.get()?;
        let cut = theirs.memory.words::<Control>(theirs.shape.control).cut.load(Ordering::SeqCst);
        (cut != 0).then_some(cut)
    }

    /// Whether the service has said that it takes no more.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut().is_some()
    }

    /// After publishing: rings if the service sleeps. Returns the core it is awake on, plus one.
    #[inline(always)]
    fn wake_service(&self) -> u32 {
        let Some(theirs) = self.theirs.get() else { return self.wake_new_service() };
        let control: &Control = theirs.memory.words(theirs.shape.control);
        let awake = control.awake.load(Ordering::SeqCst);
        if awake == 0 {
            self.ring(0);
        }
        awake
    }

    #[cold]
    fn wake_new_service(&self) -> u32 {
        // The service looks at the lane after it has sent its welcome: if that has not come, there
        // is nobody to wake. The message is out, so whatever is wrong is for later.
        if let Err(broken) = self.drain() {
            self.fail(broken);
        }
        if self.theirs.get().is_some() { self.wake_service() } else { 0 }
    }

    fn is_free(&self, slot: usize, out: &Outbox) -> bool {
        let state = &self.slots[slot];
        if !state.busy.load(Ordering::Acquire) {
            return true;
        }
        if !state.resting.load(Ordering::Acquire) {
            return false;
        }
        // Given up earlier: free once the service has closed that call. A late reply's region
        // goes back unread.
        let Some(theirs) = self.theirs.get() else { return false };
        let answer = Lane::answer_line(&theirs.memory, &theirs.shape, slot);
        let word = Lane::answer_word(&theirs.memory, &theirs.shape, slot);
        if word.load(Ordering::Acquire) != out.used[slot] {
            return false;
        }
        let region = answer.region.load(Ordering::Relaxed) as usize;
        if (1..=crate::shm::layout::REGIONS).contains(&region) {
            self.give_back(region - 1, answer.loan.load(Ordering::Relaxed));
        }
        state.resting.store(false, Ordering::Relaxed);
        true
    }

    /// Whether a slot that was given up may come free by itself.
    pub(crate) fn any_free(&self, out: &Outbox) -> bool {
        (0..self.slots.len()).any(|slot| self.is_free(slot, out))
    }

    /// Waits for the answer to a call.
    #[inline(always)]
    pub(crate) fn wait(self: &Arc<Lane>, posted: &Posted, clock: &Clock, wait: Wait) -> Outcome {
        if posted.awake && wait == Wait::Adaptive {
            for _ in 0..LOOKS {
                if let Some(outcome) = self.answered(posted) {
                    return outcome;
                }
                std::hint::spin_loop();
            }
        }
        self.wait_long(posted, clock, wait)
    }

    #[cold]
    fn wait_long(self: &Arc<Lane>, posted: &Posted, clock: &Clock, wait: Wait) -> Outcome {
        // Only one thread has this slot, so nobody else holds this lock.
        let mut sleeper = lock(&self.slots[posted.slot].sleeper);
        let Sleeper { on, patience, events } = &mut *sleeper;
        let patience = patience.get_or_insert_with(|| Patience::new(wait));
        let started = Instant::now();
        if posted.awake
            && let Some(limit) = patience.spin(false)
        {
            while started.elapsed() < limit.min(clock.left().unwrap_or(limit)) {
                for _ in 0..16 {
                    if let Some(outcome) = self.answered(posted) {
                        patience.hit();
                        return outcome;
                    }
                    std::hint::spin_loop();
                }
            }
            patience.missed(limit);
        }
        let outcome = match self.block(posted, clock, started, on, events) {
            Ok(outcome) => outcome,
            Err(broken) => self.lost(posted, broken),
        };
        // Its wake-up and ours lie in the time, unless it was awake.
        patience.slept(started.elapsed(), if posted.awake { 1 } else { 2 });
        if !matches!(outcome, Outcome::Reply(_)) {
            return outcome;
        }
        if let Some(since) = self.rung_since() {
            patience.woken_after(since);
        }
        outcome
    }

    fn block(
        self: &Arc<Lane>,
        posted: &Posted,
        clock: &Clock,
        started: Instant,
        on: &mut Option<(Poll, Bell)>,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Broken> {
        let state = &self.slots[posted.slot];
        let line = Lane::call(&self.mine, &self.shape, posted.slot);
        let (poll, _) = match on {
            Some(on) => on,
            None => {
                let made = self.sleep_on(Poll::new()?, Bell::new()?)?;
                self.send_patiently(Packet::Bell(posted.slot as u32), &made.1, clock)?;
                on.insert(made)
            }
        };
        // Pairs with the service's load of `awake` after it has published its answer or its cut.
        line.awake.swap(0, Ordering::SeqCst);
        state.awake.store(0, Ordering::Relaxed);
        let mut left = clock.left_at(started);
        let outcome = loop {
            if let Some(outcome) = self.answered(posted) {
                break outcome;
            }
            if self.is_dead() {
                return Err(self.fault());
            }
            if self.cut().is_some_and(|cut| posted.seq >= cut) {
                break Outcome::NotDelivered;
            }
            if left.is_some_and(|left| left.is_zero()) {
                break self.give_up(posted);
            }
            let news = poll.wait(events, left)?;
            if news.iter().any(|event| event.token == SOCKET) {
                self.drain()?;
            }
            if let Some(outcome) = self.answered(posted) {
                break outcome;
            }
            left = clock.left();
        };
        let here = core();
        line.awake.store(here, Ordering::Relaxed);
        state.awake.store(here, Ordering::Relaxed);
        Ok(outcome)
    }

    fn send_patiently(&self, packet: Packet, bell: &Bell, clock: &Clock) -> Result<(), Broken> {
        loop {
            match self.socket.send(packet.encode().as_slice(), &[bell.as_fd()]) {
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ETOOMANYREFS))
                        && !clock.over() =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return Ok(other?),
            }
        }
    }

    /// The answer, if it is there. Frees the slot.
    #[inline(always)]
    fn answered(self: &Arc<Lane>, posted: &Posted) -> Option<Outcome> {
        let theirs = self.theirs.get()?;
        let word = Lane::answer_word(&theirs.memory, &theirs.shape, posted.slot);
        // Pairs with the service's swap in `answer`.
        if word.load(Ordering::Acquire) != posted.seq {
            return None;
        }
        let answer = Lane::answer_line(&theirs.memory, &theirs.shape, posted.slot);
        let outcome = self.read_answer(theirs, answer, posted.slot);
        self.prepare(posted.slot);
        self.slots[posted.slot].busy.store(false, Ordering::Release);
        Some(outcome)
    }

    #[inline(always)]
    fn read_answer(self: &Arc<Lane>, theirs: &Theirs, answer: &Answer, slot: usize) -> Outcome {
        match answer.status.load(Ordering::Relaxed) {
            0 => {}
            1 => return Outcome::NoReply,
            2 => return Outcome::NotDelivered,
            _ => return Outcome::Broken(Broken::Malformed("an answer of unknown kind")),
        }
        let len = answer.len.load(Ordering::Relaxed);
        let region = answer.region.load(Ordering::Relaxed);
        let loan = answer.loan.load(Ordering::Relaxed);
        let room = Lane::slot_room(&theirs.memory, &theirs.shape, slot);
        match self.body(room, len, region, loan) {
            Ok(body) => Outcome::Reply(body),
            Err(broken) => Outcome::Broken(broken),
        }
    }

    /// The deadline has passed: the service will not run the call if it has not taken it yet.
    fn give_up(self: &Arc<Lane>, posted: &Posted) -> Outcome {
        let line = Lane::call(&self.mine, &self.shape, posted.slot);
        // Pairs with the service's swap of `taken` and its load of `cancelled`: at least one of
        // the two sides sees the other's word.
        line.cancelled.swap(posted.seq, Ordering::SeqCst);
        let delivered = self.is_taken(posted);
        if let Some(outcome) = self.answered(posted) {
            return match outcome {
                Outcome::NotDelivered => Outcome::TimedOut { delivered: false },
                other => other,
            };
        }
        // The slot rests until the service has closed the call.
        self.slots[posted.slot].resting.store(true, Ordering::Release);
        Outcome::TimedOut { delivered }
    }

    fn is_taken(&self, posted: &Posted) -> bool {
        let Some(theirs) = self.theirs.get() else { return false };
        let taken = Lane::taken_word(&theirs.memory, &theirs.shape, posted.slot);
        taken.load(Ordering::SeqCst) == posted.seq
    }

    /// The lane is of no more use: what became of the call?
    fn lost(self: &Arc<Lane>, posted: &Posted, broken: Broken) -> Outcome {
        // The service may have welcomed us and answered before it went.
        if let Some(outcome) = self.answered(posted) {
            return outcome;
        }
        if let Broken::Os(_) = broken {
            // Our own trouble, such as no descriptor left: the lane serves others.
            return match self.give_up(posted) {
                Outcome::TimedOut { .. } => Outcome::Broken(broken),
                outcome => outcome,
            };
        }
        // The service may live, and may yet come upon the call: it must not run what is reported
        // as not delivered. As in `give_up`, at least one side sees the other's word.
        let line = Lane::call(&self.mine, &self.shape, posted.slot);
        line.cancelled.swap(posted.seq, Ordering::SeqCst);
        // Others may wait on the lane too; they see the end of a service for themselves.
        if let Broken::Gone | Broken::Busy = broken {
            self.die();
        } else {
            self.abandon();
        }
        match broken {
            Broken::Gone if self.is_taken(posted) => Outcome::PeerDied,
            Broken::Gone | Broken::Busy => Outcome::NotDelivered,
            broken => Outcome::Broken(broken),
        }
    }

    /// Waits until `ready`, which room in the ring or a region that came back may bring about.
    /// `false` once the deadline has passed. One thread at a time.
    pub(crate) fn wait_for_room(
        &self,
        room: &mut Option<Room>,
        clock: &Clock,
        mut ready: impl FnMut() -> bool,
    ) -> Result<bool, Broken> {
        if room.is_none() {
            let (poll, bell) = self.sleep_on(Poll::new()?, Bell::new()?)?;
            self.send_patiently(Packet::Bell(self.slots.len() as u32), &bell, clock)?;
            *room = Some(Room { poll, _bell: bell, events: Vec::new() });
        }
        let Some(room) = room else { return Ok(false) };
        let control = self.control();
        // Pairs with the service's load of `awake` after it has moved its head or handed back.
        control.awake.swap(1, Ordering::SeqCst);
        let outcome = loop {
            if ready() {
                break Ok(true);
            }
            if self.is_dead() || self.cut().is_some() {
                break Err(Broken::Gone);
            }
            if clock.over() {
                break Ok(false);
            }
            if let Err(error) = room.poll.wait(&mut room.events, clock.left()) {
                break Err(error.into());
            }
            if room.events.iter().any(|event| event.token == SOCKET)
                && let Err(broken) = self.drain()
            {
                break Err(broken);
            }
        };
        control.awake.store(0, Ordering::Relaxed);
        outcome
    }

    /// Whether a message of so many bytes would find room in the ring now.
    pub(crate) fn has_room(&self, out: &Outbox, len: usize) -> bool {
        out.ring.has_room(len, self.service_head())
    }
}

/// What the thread that waits for room sleeps on.
#[derive(Debug)]
pub(crate) struct Room {
    poll: Poll,
    _bell: Bell,
    events: Vec<Event>,
}
