//! The client's end of a lane: publishing messages and waiting for answers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::half::Half;
use super::{Broken, Lane, change, inline_len, lock};
use crate::payload::Body;
use crate::peer::Peer;
use crate::shm::layout::{CLOSING, Shape};
use crate::shm::region::Lent;
use crate::shm::ring::{BadPosition, Record, Writer};
use crate::sys::{Bell, Event, Poll, Socket, core, is_exhausted, is_momentary};
use crate::wait::{self, Clock, Patience, SPELL, coarse};
use crate::wire::Packet;
use crate::{ServiceName, Wait};

/// How often a caller looks before it asks the clock: a microsecond or two.
const LOOKS: u32 = 100;
/// How long a first call is waited for before something to sleep in is made.
const MOMENT: Duration = Duration::from_millis(2);
/// How often a caller looks that has no descriptors left to sleep on.
const NAP: Duration = Duration::from_millis(1);
const BELL: u64 = 0;
const SOCKET: u64 = 1;

/// What a blocked thread sleeps on: a bell, and the lane's socket.
#[derive(Debug)]
pub(crate) struct Bed {
    poll: Poll,
    events: Vec<Event>,
}

/// What a slot's caller sleeps on, and what it has learnt.
#[derive(Debug, Default)]
pub(super) struct Sleeper {
    bed: Option<Bed>,
    patience: Option<Patience>,
}

/// The publishing state of a lane, under its connection's lock: every message gets the next
/// sequence number, whichever thread sends it.
#[derive(Debug)]
pub(crate) struct Outbox {
    seq: u64,
    ring: Writer,
    /// The call each slot was last used for.
    used: Vec<u64>,
    /// The last message, if its sender waits to learn whether it is before the cut, and sends it
    /// again by itself if it is not.
    doubtful: Option<u64>,
    /// When we last made sure that the service lives, in milliseconds of the coarse clock.
    looked: u64,
}

/// A message's payload, where it will travel.
pub(crate) enum Bytes<'a> {
    Inline(&'a [u8]),
    OutOfLine(Lent, usize),
}

/// What became of a one-way message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It was published in time: the service takes it, if it lives.
    Yes,
    /// It was published, and the service may have looked for the last time before that. The ring
    /// ends at this position behind it.
    InDoubt(u64),
    /// There is no room in the ring.
    NoRoom,
}

/// A call that was published.
#[derive(Debug)]
pub(crate) struct Posted {
    pub(super) slot: usize,
    pub(super) seq: u64,
    /// Whether the service was seen awake on another core.
    pub(crate) awake: bool,
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
    /// Opens a lane: everything the service needs goes into one packet, and no answer is waited for.
    pub(crate) fn open(
        service: &ServiceName,
        socket: Socket,
        slots: usize,
        clock: &Clock,
    ) -> Result<(Arc<Lane>, Outbox), Broken> {
        let shape = Shape::client(slots);
        let (mine, memory) = Half::make(shape)?;
        let service_bell = Bell::new()?;
        socket.ask_for_credentials(true)?;
        let lane = Lane::new(service.clone(), socket, mine, 1);
        for slot in 0..shape.slots {
            // Until a caller has a bell and something to sleep in, it does not.
            lane.mine.call(slot).awake.store(1, Ordering::Relaxed);
        }
        let bell = Arc::new(Bell::new()?);
        let fds = [memory.as_fd(), service_bell.as_fd(), bell.as_fd()];
        if let Err(error) = lane.pass(Packet::Hello(shape), &fds, clock) {
            // Whoever would not have this client may have said so and gone, before it said hello.
            return match lane.drain() {
                Err(broken @ (Broken::Denied | Broken::NotStarted)) => Err(broken),
                _ => Err(error.into()),
            };
        }
        let _ = lane.bells[0].set(service_bell);
        *lock(&lane.given[0]) = Some(bell);
        let outbox = Outbox {
            seq: 0,
            ring: Writer::new(shape.ring, shape.ring_len),
            used: vec![0; shape.slots],
            doubtful: None,
            looked: coarse(),
        };
        Ok((Arc::new(lane), outbox))
    }

    fn bed(&self, bell: &Bell) -> Result<Bed, Broken> {
        let poll = Poll::new()?;
        poll.add_bell(bell, BELL)?;
        poll.add(&self.socket, SOCKET)?;
        Ok(Bed { poll, events: Vec::new() })
    }

    /// The same for the bell that the service rings under a number.
    fn bed_of(&self, number: usize, clock: &Clock) -> Result<Bed, Broken> {
        let mut given = lock(&self.given[number]);
        let bell = match &mut *given {
            Some(bell) => bell,
            None => {
                let bell = Arc::new(Bell::new()?);
                self.give_bell(number, &bell, clock)?;
                given.insert(bell)
            }
        };
        self.bed(bell)
    }

    /// Sends the service the bell that it rings under a number.
    pub(super) fn give_bell(
        &self,
        number: usize,
        bell: &Bell,
        clock: &Clock,
    ) -> Result<(), Broken> {
        Ok(self.pass(Packet::Bell(number as u32), &[bell.as_fd()], clock)?)
    }

    /// Sends a packet with descriptors. A user may have only so many on their way (`unix(7)`), as when
    /// many clients wait for a service that is being started.
    fn pass(&self, packet: Packet, fds: &[BorrowedFd<'_>], clock: &Clock) -> io::Result<()> {
        let packet = packet.encode();
        loop {
            match self.socket.send(packet.as_slice(), fds) {
                Err(error) if is_momentary(&error) && !clock.over() => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                sent => return sent,
            }
        }
    }

    /// Before each look that a sleep may follow, once the service was told to ring: takes the welcome
    /// if it has come.
    ///
    /// Nothing that the service says is seen without it, and it wakes a sleeper through the socket
    /// unless another thread takes it in between; the bell may have been heard already. So the look
    /// must not come before the welcome: whoever takes it, it is there when this returns, or it comes
    /// later, and so does all that the service rings for.
    pub(crate) fn take_welcome(&self) -> Result<(), Broken> {
        match self.peers_half() {
            Some(_) => Ok(()),
            None => self.drain().map_err(|broken| match broken {
                // It may have said why before it went, to whoever looked then.
                Broken::Gone => self.fault(),
                broken => broken,
            }),
        }
    }

    /// Sleeps until the bell rings, the socket has news, which is acted on, or no time is left.
    fn sleep(&self, bed: &mut Bed, left: Option<Duration>) -> Result<(), Broken> {
        let news = bed.poll.wait(&mut bed.events, left)?;
        if news.iter().any(|event| event.token == SOCKET) { self.drain() } else { Ok(()) }
    }

    /// Sleeps for a moment, where there is nothing to sleep in.
    fn nap(&self, left: Option<Duration>) -> Result<(), Broken> {
        self.socket.wait(left.map_or(NAP, |left| left.min(NAP)));
        self.drain()
    }

    /// Publishes a call; `None` if no slot is free, or only one whose room [has yet to be
    /// made](Lane::make_room).
    #[inline(always)]
    pub(crate) fn post_call(&self, out: &mut Outbox, id: i32, bytes: Bytes<'_>) -> Option<Posted> {
        let slot = (0..self.slots.len()).find(|slot| self.is_free(*slot, out))?;
        let room = self.mine.room(slot)?;
        let state = &self.slots[slot];
        let line = self.mine.call(slot);
        let (len, region, loan) = match bytes {
            Bytes::Inline(bytes) => {
                room.copy_in(bytes);
                (bytes.len(), 0, 0)
            }
            Bytes::OutOfLine(lent, len) => (len, lent.number as u32 + 1, lent.loan),
        };
        state.busy.store(true, Ordering::Relaxed);
        let here = self.say_core();
        if line.awake.load(Ordering::Relaxed) != 0 {
            change(&line.awake, here);
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
        self.mine.call_words()[slot].0.swap(out.seq, Ordering::SeqCst);
        let awake = self.wake_service();
        Some(Posted { slot, seq: out.seq, awake: awake != 0 && awake != here })
    }

    /// Makes the memory that the next message goes to, where the lane has done without so far. Returns
    /// `false` if that cannot be done just now.
    pub(crate) fn make_room(&self, out: &Outbox, two_way: bool) -> Result<bool, Broken> {
        if self.is_whole() || two_way && self.is_free(0, out) {
            return Ok(true);
        }
        match self.extend() {
            Err(broken) if broken.is_momentary() => Ok(false),
            made => made.map(|()| true),
        }
    }

    /// Whether all memory that this side may need has been made.
    pub(crate) fn is_whole(&self) -> bool {
        self.mine.annex().is_some()
    }

    /// Publishes a one-way message. There is no room before it was [made](Lane::make_room).
    pub(crate) fn post_one_way(
        &self,
        out: &mut Outbox,
        id: i32,
        bytes: Bytes<'_>,
    ) -> Result<Sent, Broken> {
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
        let Some(annex) = self.mine.annex() else { return Ok(Sent::NoRoom) };
        match out.ring.put(annex, record, payload, head) {
            Ok(true) => {}
            Ok(false) => return Ok(Sent::NoRoom),
            Err(BadPosition) => return Err(Broken::Malformed("a ring position out of range")),
        }
        out.seq += 1;
        self.say_core();
        // Pairs with the service's Acquire load in `take`, and before its store of `awake`.
        self.mine.control().position.swap(out.ring.tail(), Ordering::SeqCst);
        self.wake_service();
        // Pairs with the service's swap of `cut` in `begin_to_close`: if there is none yet, the
        // message was published before the service looks for the last time. A caller needs no such
        // look, as it learns of the cut while it waits for its answer.
        Ok(if self.is_open() { Sent::Yes } else { Sent::InDoubt(out.ring.tail()) })
    }

    /// Lets the service know the core we run on, so that it does not spin against us there.
    #[inline]
    fn say_core(&self) -> u32 {
        let here = core();
        change(&self.mine.control().core, here);
        here
    }

    /// Who runs the service, once it has met us; `None` if that takes longer than there is time.
    pub(crate) fn wait_for_peer(&self, clock: &Clock) -> Result<Option<Peer>, Broken> {
        let poll = Poll::new()?;
        poll.add(&self.socket, SOCKET)?;
        loop {
            self.drain()?;
            if let Some(peer) = self.peer() {
                return Ok(Some(peer.clone()));
            }
            if clock.over() {
                return Ok(None);
            }
            // Another thread may take the welcome from the socket, which nothing tells this one.
            let moment = Duration::from_millis(10);
            poll.wait(&mut Vec::new(), Some(clock.left().map_or(moment, |l| l.min(moment))))?;
        }
    }

    /// Whether the lane may still be sent on, as far as this side has heard. `false` while that has
    /// to wait, as the service will close it.
    #[inline(always)]
    pub(crate) fn check(&self) -> Result<bool, Broken> {
        if self.is_dead() {
            return Err(self.fault());
        }
        match self.claimed_cut() {
            0 => Ok(true),
            CLOSING => Ok(false),
            _ => Err(Broken::Gone),
        }
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

    /// Leaves the last message to its sender; see [`untaken`](Lane::untaken).
    pub(crate) fn doubt(&self, out: &mut Outbox) {
        out.doubtful = Some(out.seq);
    }

    /// Leaves it to whoever sends next, as all others.
    pub(crate) fn doubt_no_more(&self, out: &mut Outbox) {
        out.doubtful = None;
    }

    /// Whether the service has taken everything in the ring up to this position.
    pub(crate) fn has_taken(&self, end: u64) -> bool {
        self.service_head() >= end
    }

    /// The messages in the ring that the service surely never took, in order, without one that its
    /// sender sends again by itself.
    pub(crate) fn untaken(&self, out: &Outbox, mut each: impl FnMut(i32, Vec<u8>)) {
        let Some(annex) = self.mine.annex() else { return };
        let head = self.service_head();
        let _ = out.ring.untaken(annex, head, |record, bytes| {
            if out.doubtful.is_some_and(|seq| seq as u32 == record.seq) {
                return;
            }
            if record.region == 0 {
                return each(record.id, bytes);
            }
            let Some(loan) = bytes.first_chunk() else { return };
            let lent = Lent { number: record.region as usize - 1, loan: u64::from_ne_bytes(*loan) };
            if let Some(bytes) = lock(&self.pool).contents(lent, record.len as usize) {
                each(record.id, bytes);
            }
        });
    }

    fn service_head(&self) -> u64 {
        self.peers_half().map_or(0, |half| half.control().position.load(Ordering::SeqCst))
    }

    /// What the service says of the lane's end.
    #[inline(always)]
    fn claimed_cut(&self) -> u64 {
        self.peers_half().map_or(0, |half| half.control().cut.load(Ordering::SeqCst))
    }

    /// The first sequence number that the service will never take, if it has said so.
    pub(super) fn cut(&self) -> Option<u64> {
        Some(self.claimed_cut()).filter(|cut| ![0, CLOSING].contains(cut))
    }

    /// Whether the service has said that it takes no more, and where that begins.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut().is_some()
    }

    /// Whether the service has said nothing of an end.
    #[inline(always)]
    pub(crate) fn is_open(&self) -> bool {
        self.claimed_cut() == 0
    }

    /// Whether it is known what the service has taken and what it never will.
    pub(crate) fn is_settled(&self) -> bool {
        let has_ended = self.has_ended();
        // It may have welcomed us and taken something before it went, and nobody has looked since.
        if self.peers_half().is_none() {
            let _ = self.drain();
        }
        has_ended || self.is_cut()
    }

    /// After publishing: rings if the service sleeps. Returns the core it is awake on, plus one.
    #[inline(always)]
    fn wake_service(&self) -> u32 {
        let Some(service) = self.peers_half() else { return self.wake_new_service() };
        let awake = service.control().awake.load(Ordering::SeqCst);
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
        if self.peers_half().is_some() { self.wake_service() } else { 0 }
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
        let Some(service) = self.peers_half() else { return false };
        if service.answer_word(slot).load(Ordering::Acquire) != out.used[slot] {
            return false;
        }
        let answer = service.answer(slot);
        let region = answer.region.load(Ordering::Relaxed) as usize;
        if (1..=crate::shm::layout::REGIONS).contains(&region) {
            self.give_back(region - 1, answer.loan.load(Ordering::Relaxed));
        }
        state.resting.store(false, Ordering::Relaxed);
        // Whoever asks next finds it free too.
        state.busy.store(false, Ordering::Relaxed);
        // Whoever waited for this may have wanted the bell.
        change(&self.mine.call(slot).awake, 1);
        true
    }

    /// Whether a slot that was given up may come free by itself.
    pub(crate) fn any_free(&self, out: &Outbox) -> bool {
        (0..self.slots.len()).any(|slot| self.is_free(slot, out))
    }

    /// Waits for the answer to a call.
    #[inline(always)]
    pub(crate) fn wait(self: &Arc<Lane>, posted: &Posted, clock: &Clock, wait: Wait) -> Outcome {
        if posted.awake && wait != Wait::Block {
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
        let Sleeper { bed, patience } = &mut *sleeper;
        let patience = patience.get_or_insert_with(|| Patience::new(wait));
        if patience.never_sleeps() {
            let outcome = self.look_on(posted, clock, Instant::now(), |_| self.spin(posted));
            return outcome.unwrap_or_else(|broken| self.lost(posted, broken));
        }
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
        let outcome = match self.block(posted, clock, started, bed) {
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
        bed: &mut Option<Bed>,
    ) -> Result<Outcome, Broken> {
        let line = self.mine.call(posted.slot);
        let bed = match bed {
            Some(bed) => bed,
            None => {
                if let Some(outcome) = self.wait_without_bed(posted, clock)? {
                    return Ok(outcome);
                }
                match self.bed_of(posted.slot, clock) {
                    Ok(made) => bed.insert(made),
                    // What is connected works although there are no descriptors left.
                    Err(Broken::Os(error)) if is_exhausted(&error) => {
                        return self.look_on(posted, clock, started, |left| self.nap(left));
                    }
                    Err(broken) => return Err(broken),
                }
            }
        };
        // Pairs with the service's load of `awake` after it has published its answer or its cut.
        line.awake.swap(0, Ordering::SeqCst);
        self.look_on(posted, clock, started, |left| self.sleep(bed, left))
    }

    /// Looks for the answer once more, and for a moment waits for the welcome, which it is often right
    /// behind: a connection's first call, which may be its only one, then takes nothing to sleep in.
    #[cold]
    fn wait_without_bed(
        self: &Arc<Lane>,
        posted: &Posted,
        clock: &Clock,
    ) -> Result<Option<Outcome>, Broken> {
        let outcome = self.outcome(posted)?;
        if outcome.is_some() || self.peers_half().is_some() {
            return Ok(outcome);
        }
        // Another thread may take the welcome from the socket, which nothing tells this one.
        self.socket.wait(clock.left().map_or(MOMENT, |left| left.min(MOMENT)));
        self.take_welcome()?;
        // The service on this core has not come to the call yet.
        if self
            .peers_half()
            .is_some_and(|service| service.control().awake.load(Ordering::Relaxed) == core())
        {
            std::thread::yield_now();
        }
        self.outcome(posted)
    }

    /// Looks for the answer, and whatever else may end the call, again and again, and rests in
    /// between.
    fn look_on(
        self: &Arc<Lane>,
        posted: &Posted,
        clock: &Clock,
        started: Instant,
        mut rest: impl FnMut(Option<Duration>) -> Result<(), Broken>,
    ) -> Result<Outcome, Broken> {
        let mut first = Some(started);
        loop {
            if let Some(outcome) = self.outcome(posted)? {
                return Ok(outcome);
            }
            // The clock is read only if it has to be waited again.
            let left = first.take().map_or_else(|| clock.left(), |now| clock.left_at(now));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(self.give_up(posted));
            }
            rest(left)?;
        }
    }

    /// Spins for a spell, then hears what the socket has to say. A service on this core has to be let
    /// run instead.
    fn spin(&self, posted: &Posted) -> Result<(), Broken> {
        match self.peers_half() {
            Some(service) if service.control().awake.load(Ordering::Relaxed) != core() => {
                let word = service.answer_word(posted.slot);
                wait::spin_for(SPELL, || word.load(Ordering::Acquire) == posted.seq);
            }
            _ => std::thread::yield_now(),
        }
        self.drain()
    }

    /// What became of a call, if that is known.
    pub(super) fn outcome(self: &Arc<Lane>, posted: &Posted) -> Result<Option<Outcome>, Broken> {
        self.take_welcome()?;
        if let Some(outcome) = self.answered_asleep(posted) {
            return Ok(Some(outcome));
        }
        if self.is_dead() {
            return Err(self.fault());
        }
        let is_cut = self.cut().is_some_and(|cut| posted.seq >= cut);
        Ok(is_cut.then_some(Outcome::NotDelivered))
    }

    /// The answer, if it is there. Frees the slot.
    #[inline(always)]
    pub(crate) fn answered(self: &Arc<Lane>, posted: &Posted) -> Option<Outcome> {
        let service = self.peers_half()?;
        // Pairs with the service's swap in `answer`.
        if service.answer_word(posted.slot).load(Ordering::Acquire) != posted.seq {
            return None;
        }
        let outcome = self.read_answer(service, posted.slot);
        let sent = self.mine.call(posted.slot);
        self.mine.prepare(posted.slot, inline_len(&sent.len, &sent.region));
        self.slots[posted.slot].busy.swap(false, Ordering::SeqCst);
        if !self.queue.is_empty() {
            self.queue.wake_one();
        }
        Some(outcome)
    }

    /// The same for a caller who may have said that it sleeps: it is awake before others may have the
    /// slot.
    fn answered_asleep(self: &Arc<Lane>, posted: &Posted) -> Option<Outcome> {
        let word = self.peers_half()?.answer_word(posted.slot);
        if word.load(Ordering::Acquire) != posted.seq {
            return None;
        }
        self.mine.call(posted.slot).awake.store(core(), Ordering::Relaxed);
        self.answered(posted)
    }

    #[inline(always)]
    fn read_answer(self: &Arc<Lane>, service: &Half, slot: usize) -> Outcome {
        let answer = service.answer(slot);
        match answer.status.load(Ordering::Relaxed) {
            0 => {}
            1 => return Outcome::NoReply,
            2 => return Outcome::NotDelivered,
            _ => return Outcome::Broken(Broken::Malformed("an answer of unknown kind")),
        }
        let len = answer.len.load(Ordering::Relaxed);
        let region = answer.region.load(Ordering::Relaxed);
        let loan = answer.loan.load(Ordering::Relaxed);
        match self.body(|| self.room_of(service, slot), len, region, loan) {
            Ok(body) => Outcome::Reply(body),
            Err(broken) => Outcome::Broken(broken),
        }
    }

    /// Cancels a call, which the service will not run if it has not taken it yet. Returns whether
    /// it has.
    fn cancel(&self, posted: &Posted) -> bool {
        // Pairs with the service's swap of `taken` and its load of `cancelled`: at least one of
        // the two sides sees the other's word.
        self.mine.call(posted.slot).cancelled.swap(posted.seq, Ordering::SeqCst);
        self.peers_half().is_some_and(|service| {
            service.taken_word(posted.slot).load(Ordering::SeqCst) == posted.seq
        })
    }

    /// The deadline has passed.
    pub(crate) fn give_up(self: &Arc<Lane>, posted: &Posted) -> Outcome {
        let delivered = self.cancel(posted);
        if let Some(outcome) = self.answered_asleep(posted) {
            return match outcome {
                Outcome::NotDelivered => Outcome::TimedOut { delivered: false },
                other => other,
            };
        }
        // The slot rests until the service has closed the call.
        self.slots[posted.slot].resting.swap(true, Ordering::SeqCst);
        if !self.queue.is_empty() {
            // Whoever waits for a slot listens for the end of this rest too.
            self.queue.wake_one();
        }
        Outcome::TimedOut { delivered }
    }

    /// The lane is of no more use: what became of the call?
    pub(crate) fn lost(self: &Arc<Lane>, posted: &Posted, broken: Broken) -> Outcome {
        // The service may have welcomed us and answered before it went.
        if let Some(outcome) = self.answered_asleep(posted) {
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
        // as not delivered.
        let delivered = self.cancel(posted);
        self.end(&broken);
        match broken {
            Broken::Gone if delivered => Outcome::PeerDied,
            Broken::Gone | Broken::Busy => Outcome::NotDelivered,
            broken => Outcome::Broken(broken),
        }
    }

    /// Waits until `ready`, which room in the ring or a region that came back may bring about; if the
    /// service closes the lane, until it has said where the end is. `false` once the deadline has
    /// passed. One thread at a time.
    pub(crate) fn wait_for_room(
        &self,
        bed: &mut Option<Bed>,
        clock: &Clock,
        mut ready: impl FnMut() -> bool,
    ) -> Result<bool, Broken> {
        let bed = match bed {
            Some(bed) => bed,
            None => bed.insert(self.bed_of(self.slots.len(), clock)?),
        };
        self.wish_for_room();
        let mut wait = || loop {
            self.take_welcome()?;
            if self.is_open() && ready() {
                return Ok(true);
            }
            if self.is_dead() || self.is_cut() {
                return Err(Broken::Gone);
            }
            if clock.over() {
                return Ok(false);
            }
            self.sleep(bed, clock.left())?;
        };
        let outcome = wait();
        self.wish_no_more();
        outcome
    }

    /// Has the room bell rung from now on. Whoever wishes looks once more after this.
    pub(super) fn wish_for_room(&self) {
        let mut wishes = lock(&self.wishes);
        *wishes += 1;
        // Pairs with the service's load of `awake` after it has moved its head, handed back or cut.
        self.mine.control().awake.swap(1, Ordering::SeqCst);
    }

    /// Takes one wish back.
    pub(super) fn wish_no_more(&self) {
        let mut wishes = lock(&self.wishes);
        *wishes -= 1;
        if *wishes == 0 {
            self.mine.control().awake.store(0, Ordering::Relaxed);
        }
    }

    /// Whether a message of so many bytes would find room in the ring now.
    pub(crate) fn has_room(&self, out: &Outbox, len: usize) -> bool {
        out.ring.has_room(len, self.service_head())
    }
}
