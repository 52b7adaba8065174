//! The service's end of a lane: taking messages in order and answering calls.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::half::Half;
use super::{Broken, Lane, Theirs, change, inline_len};
use crate::ServiceName;
use crate::payload::Body;
use crate::peer::Peer;
use crate::shm::layout::{CLOSING, Shape};
use crate::shm::mapping::Span;
use crate::shm::region::Lent;
use crate::shm::ring::Reader;
use crate::sys::{Bell, Fd, Socket, core};
use crate::wire::{Packet, Refusal};

/// How often a service that has drained a stream looks for a call before it looks at the tail again:
/// half a microsecond, or one. The sender's next message then costs no cache line that is on its way
/// to us, and we get several at once.
const LINGER: u32 = 16;

/// Where the service is in a lane's messages. Private to the service's loop.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// The next sequence number.
    next: u64,
    ring: Reader,
    /// The ring's tail when we last looked.
    tail: u64,
    /// Whenever we look there are messages, sent from another core: more are likely to come.
    streams: bool,
    /// Whether the head was moved since the client was last told.
    moved: bool,
}

/// A client that was met: its lane, where we are in it, and the bell that it rings.
pub(crate) type Met = (Arc<Lane>, Inbox, Bell);

/// A message that was taken.
pub(crate) struct Taken {
    pub(crate) id: i32,
    pub(crate) body: Body,
    /// The slot to answer in, for a two-way message.
    pub(crate) call: Option<TakenCall>,
}

/// A call that must be answered exactly once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TakenCall {
    slot: usize,
    seq: u64,
}

/// What a service answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply<'a> {
    Data(&'a [u8]),
    /// As many bytes, in a region that was filled.
    Lent(Lent, usize),
    /// The handler dropped the request.
    Nothing,
    /// The call was given up before the handler ran.
    NotTaken,
}

/// A client's hello, checked, and what it takes to welcome it.
pub(crate) struct Hello {
    theirs: Theirs,
    /// The service's bell.
    bell: Bell,
    /// The first slot's.
    first: Bell,
    mine: Half,
    /// Ours, to be sent.
    memory: Fd,
}

impl Hello {
    /// Checks a hello and what came with it. `maps` says whether large payloads may be mapped.
    pub(crate) fn check(
        shape: Shape,
        fds: Vec<OwnedFd>,
        who: Peer,
        maps: bool,
    ) -> Result<Hello, Broken> {
        let fds: [OwnedFd; 3] = fds
            .try_into()
            .map_err(|_| Broken::Malformed("a hello without its three descriptors"))?;
        let [memory, bell, first] = fds;
        // Before ours is made, so that a bad one costs us nothing.
        let half = Half::of_peer(&memory, shape)?;
        let bell = Bell::to_hear(bell).map_err(Broken::Malformed)?;
        let first = Bell::from_peer(first).map_err(Broken::Malformed)?;
        let (mine, memory) = Half::make(Shape::service(shape.slots))?;
        Ok(Hello { theirs: Theirs { half, who, maps }, bell, first, mine, memory })
    }
}

/// Lets a sender get ahead, unless it calls.
fn linger(client: &Half, next: u64) {
    let words = client.call_words();
    // One that is behind messages in the ring counts too: its caller waits.
    let is_called = || words.iter().any(|word| word.0.load(Ordering::Relaxed) >= next);
    for _ in 0..LINGER {
        if is_called() {
            return;
        }
        std::hint::spin_loop();
    }
}

impl Lane {
    /// Welcomes a client whose hello has come, and was found good.
    pub(crate) fn welcome(
        service: &ServiceName,
        socket: Socket,
        hello: Hello,
    ) -> Result<Met, Broken> {
        let Hello { theirs, bell, first, mine, memory } = hello;
        let (shape, welcome) = (theirs.half.shape, Packet::Welcome(mine.shape).encode());
        let lane = Lane::new(service.clone(), socket, mine, shape.slots + 1);
        let _ = lane.theirs.set(theirs);
        let _ = lane.bells[0].set(first);
        // Awake until its loop says otherwise.
        lane.set_awake(1);
        match lane.socket.send(welcome.as_slice(), &[memory.as_fd()]).map_err(Broken::from) {
            // A client that has sent and exited is served to its end all the same.
            Ok(()) | Err(Broken::Gone) => {}
            Err(broken) => return Err(broken),
        }
        let ring = Reader::new(shape.ring, shape.ring_len);
        let inbox = Inbox { next: 1, ring, tail: 0, streams: false, moved: false };
        Ok((Arc::new(lane), inbox, bell))
    }

    /// Says where the service is awake: its core plus one, 0 for asleep. One who sleeps must look
    /// at the lane once more after this.
    pub(crate) fn set_awake(&self, core: u32) {
        // Pairs with the client's load after it has published.
        self.mine.control().awake.swap(core, Ordering::SeqCst);
    }

    /// The loop may have moved to another core.
    pub(crate) fn update_awake(&self, core: u32) {
        if self.mine.control().awake.load(Ordering::Relaxed) != core {
            self.set_awake(core);
        }
    }

    /// Whether there is a message to take.
    pub(crate) fn has_news(&self, inbox: &Inbox) -> bool {
        let Some(client) = self.peers_half() else { return false };
        // Pairs with the client's swaps when it publishes.
        client.call_words().iter().any(|word| word.0.load(Ordering::SeqCst) == inbox.next)
            || inbox.ring.has_next(client.control().position.load(Ordering::SeqCst))
    }

    /// Takes the next message; `None` if there is none yet. `alone` says that no other lane waits for
    /// its turn, so that this may linger for the next ones of a stream.
    #[inline]
    pub(crate) fn take(
        self: &Arc<Lane>,
        inbox: &mut Inbox,
        alone: bool,
    ) -> Result<Option<Taken>, Broken> {
        loop {
            let Some(client) = self.peers_half() else { return Ok(None) };
            // In a stream of one-way messages the next one is there already, most of the time.
            if inbox.ring.has_next(inbox.tail)
                && let Some(taken) = self.take_one_way(inbox, alone)?
            {
                return Ok(Some(taken));
            }
            // Pairs with the client's swap when it publishes a call.
            let next = inbox.next;
            let calls = client.call_words();
            let find = || calls.iter().position(|word| word.0.load(Ordering::Acquire) == next);
            let slot = match find() {
                Some(slot) => slot,
                None => match self.take_one_way(inbox, alone)? {
                    Some(taken) => return Ok(Some(taken)),
                    None if !inbox.ring.has_next(inbox.tail) => return Ok(None),
                    // A later message is there, so the call before it was published by now.
                    None => find().ok_or(Broken::Malformed("a message out of its order"))?,
                },
            };
            if let Some(taken) = self.take_call(inbox, slot)? {
                return Ok(Some(taken));
            }
        }
    }

    /// The next message, if it is the one that the ring has next.
    fn take_one_way(
        self: &Arc<Lane>,
        inbox: &mut Inbox,
        alone: bool,
    ) -> Result<Option<Taken>, Broken> {
        let Some(client) = self.peers_half() else { return Ok(None) };
        if !inbox.ring.has_next(inbox.tail) {
            if inbox.streams && alone {
                linger(client, inbox.next);
            }
            // Pairs with the client's swap after it has written the records.
            inbox.tail = client.control().position.load(Ordering::Acquire);
            // One message after a while is no stream, two in a row are.
            inbox.streams = inbox.ring.has_next(inbox.tail)
                && (inbox.streams || inbox.moved)
                && self.client_core() != core();
        }
        if !inbox.ring.has_next(inbox.tail) {
            return Ok(None);
        }
        let annex = self.annex_of(client)?;
        let peeked = inbox.ring.peek(annex, inbox.tail).map_err(Broken::Malformed)?;
        let Some((record, span)) = peeked else { return Ok(None) };
        if record.seq != inbox.next as u32 {
            // A call comes before it.
            return Ok(None);
        }
        let loan = if record.region == 0 {
            0
        } else {
            let mut bytes = [0; 8];
            span.copy_out(&mut bytes);
            u64::from_ne_bytes(bytes)
        };
        let body = self.body(|| Ok(span), record.len, record.region, loan)?;
        inbox.next += 1;
        inbox.ring.advance(record);
        inbox.moved = true;
        // Before the handler runs: what lies behind the head may have run, what lies before it
        // has not, should we die.
        self.mine.control().position.store(inbox.ring.head(), Ordering::Release);
        Ok(Some(Taken { id: record.id, body, call: None }))
    }

    #[inline(always)]
    fn take_call(
        self: &Arc<Lane>,
        inbox: &mut Inbox,
        slot: usize,
    ) -> Result<Option<Taken>, Broken> {
        let Some(client) = self.peers_half() else { return Ok(None) };
        let call = TakenCall { slot, seq: inbox.next };
        // Only the loop, which is here, sets it.
        let busy = &self.slots[slot].busy;
        if busy.load(Ordering::Acquire) {
            return Err(Broken::Malformed("a call in a slot that is in use"));
        }
        // All of it is read at once, so that its cache lines come together; a call that turns out
        // to be cancelled is dropped.
        let line = client.call(slot);
        let id = line.id.load(Ordering::Relaxed) as i32;
        let len = line.len.load(Ordering::Relaxed);
        let region = line.region.load(Ordering::Relaxed);
        let loan = line.loan.load(Ordering::Relaxed);
        let body = self.body(|| self.room_of(client, slot), len, region, loan)?;
        let answered = self.mine.answer(slot);
        self.mine.prepare(slot, inline_len(&answered.len, &answered.region));
        busy.store(true, Ordering::Relaxed);
        inbox.next += 1;
        // Pairs with the client's swap of `cancelled` and its load of `taken`: at least one of the
        // two sides sees the other's word.
        self.mine.taken_word(slot).swap(call.seq, Ordering::SeqCst);
        if line.cancelled.load(Ordering::SeqCst) == call.seq || self.is_dead() {
            self.answer(call, Reply::NotTaken)?;
            return Ok(None);
        }
        Ok(Some(Taken { id, body, call: Some(call) }))
    }

    /// Whether the client has given the call up, or is gone. The loop may be in a handler, so it
    /// is the socket that is asked.
    pub(crate) fn is_cancelled(&self, call: TakenCall) -> bool {
        let Some(client) = self.peers_half() else { return true };
        client.call(call.slot).cancelled.load(Ordering::SeqCst) == call.seq || self.is_gone()
    }

    /// Whether the client is gone.
    pub(crate) fn is_gone(&self) -> bool {
        !self.is_ours() || self.is_dead() || self.socket.hung_up()
    }

    /// Answers a call. Whoever holds the `TakenCall` calls this once.
    pub(crate) fn answer(&self, call: TakenCall, reply: Reply<'_>) -> Result<(), Broken> {
        if !self.is_ours() {
            return Err(Broken::Gone);
        }
        let mut lent = None;
        let mut failed = None;
        let (mut status, mut len) = (0, 0);
        match reply {
            Reply::Data(data) if data.len() <= crate::INLINE_MAX => {
                match self.own_room(call.slot) {
                    Ok(room) => {
                        room.copy_in(data);
                        len = data.len();
                    }
                    Err(broken) => {
                        status = 1;
                        failed = Some(broken);
                    }
                }
            }
            Reply::Data(data) => match self.lend(data) {
                Ok(Some(region)) => {
                    len = data.len();
                    lent = Some(region);
                }
                // The caller is told that there is no reply, and the handler why.
                Ok(None) => {
                    status = 1;
                    failed = Some(Broken::Busy);
                }
                Err(broken) => {
                    status = 1;
                    failed = Some(broken);
                }
            },
            Reply::Lent(region, filled) => {
                len = filled;
                lent = Some(region);
            }
            Reply::Nothing => status = 1,
            Reply::NotTaken => status = 2,
        }
        let line = self.mine.answer(call.slot);
        change(&line.status, status);
        change(&line.len, len as u32);
        change(&line.region, lent.as_ref().map_or(0, |lent| lent.number as u32 + 1));
        if let Some(lent) = &lent {
            line.loan.store(lent.loan, Ordering::Relaxed);
        }
        // Before the answer: the client may use the slot again at once.
        self.slots[call.slot].busy.store(false, Ordering::Release);
        // Pairs with the client's Acquire load of the answer, and before its store of `awake`.
        self.mine.answer_word(call.slot).swap(call.seq, Ordering::SeqCst);
        if self.caller_awake(call.slot) == 0 {
            self.ring(call.slot);
        }
        match failed {
            Some(broken) => Err(broken),
            None if self.is_dead() => Err(Broken::Gone),
            None => Ok(()),
        }
    }

    /// Where an answer goes.
    #[inline(always)]
    fn own_room(&self, slot: usize) -> Result<Span<'_>, Broken> {
        if self.mine.room(slot).is_none() {
            self.extend()?;
        }
        Ok(self.mine.room(slot).expect("an annex that was made"))
    }

    /// The core on which a slot's caller is awake, plus one; 0 if it sleeps.
    fn caller_awake(&self, slot: usize) -> u32 {
        self.peers_half().map_or(1, |client| client.call(slot).awake.load(Ordering::SeqCst))
    }

    /// Whether the caller in the first slot sleeps, and so has a wake-up before it.
    pub(crate) fn caller_sleeps(&self) -> bool {
        self.caller_awake(0) == 0
    }

    /// The core that the client last sent from, plus one.
    pub(crate) fn client_core(&self) -> u32 {
        self.peers_half().map_or(0, |client| client.control().core.load(Ordering::Relaxed))
    }

    /// After some messages were taken: tells a client that waits for room.
    pub(crate) fn finish_turn(&self, inbox: &mut Inbox) {
        if std::mem::take(&mut inbox.moved) {
            // The head was stored before this, the client's wish is looked at after it.
            fence(Ordering::SeqCst);
            self.ring_for_room();
        }
    }

    /// Has everybody wait before they send more, until what is there was taken and
    /// [`close`](Lane::close) says where the end is.
    pub(crate) fn begin_to_close(&self) {
        // Pairs with a one-way sender's load of `cut` after it has swapped its tail: if that is
        // before this, the service sees its message when it looks after this, and takes it;
        // otherwise the sender waits for the cut.
        self.mine.control().cut.swap(CLOSING, Ordering::SeqCst);
        // The looks at the tail and the words that follow are no `SeqCst` loads of their own.
        fence(Ordering::SeqCst);
    }

    /// Takes nothing more: says so to every caller, and to the next sender.
    pub(crate) fn close(&self, inbox: &Inbox) {
        let cut: &AtomicU64 = &self.mine.control().cut;
        // Pairs with the load of `cut` that a caller, or one who waits for room, makes after it has
        // stored that it sleeps.
        cut.swap(inbox.next, Ordering::SeqCst);
        for slot in 0..self.slots.len() {
            if !self.slots[slot].busy.load(Ordering::Relaxed) && self.caller_awake(slot) == 0 {
                self.ring(slot);
            }
        }
        self.ring_for_room();
    }

    /// How many messages can be in the lane at once, at most.
    pub(crate) fn leftovers(&self) -> usize {
        self.peers_half().map_or(0, |client| client.shape.ring_len / 16 + client.shape.slots)
    }

    /// Tells a client that broke the protocol, and ends the lane.
    pub(crate) fn expel(&self) {
        let _ = self.socket.send(Packet::Refuse(Refusal::Malformed).encode().as_slice(), &[]);
        self.die();
        self.socket.shutdown();
    }
}
