//! A lane: one client's socket and shared memory, as either side sees it.
//!
//! Each side makes the memory it writes and maps the other's for reading. What both sides do is
//! here: telling the other about regions and bells, ringing, handing loans back. What a client
//! does is in [`caller`], what a service does in [`server`].

pub(crate) mod caller;
mod half;
mod listen;
mod queue;
pub(crate) mod server;

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::buffer::Buffer;
use crate::payload::{Body, Borrowed, OutOfLine};
use crate::peer::Peer;
use crate::shm::mapping::{Mapping, Span};
use crate::shm::region::{Blank, Known, Lent, Pool, incarnation};
use crate::sys::{Bell, Socket, fork, is_momentary};
use crate::wire::{Misread, PACKET_MAX, Packet, Refusal};
use crate::{ServiceName, wait};
use half::Half;
use queue::Queue;

pub(crate) use listen::Wish;
pub(crate) use queue::Place;

/// Packets that are received at once, more than a socket's queue holds (`net.unix.max_dgram_qlen`).
const PACKETS: usize = 1024;
/// Of so many rings, one is timed.
const TIMED: u32 = 8;

/// Why a lane is of no more use.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The peer has closed its end or died.
    Gone,
    /// The peer broke the protocol.
    Malformed(&'static str),
    /// The peer speaks another version.
    Version(u16),
    /// The peer has no descriptors or memory left.
    Busy,
    /// The peer was to be started, and could not be.
    NotStarted,
    /// The peer does not let us in.
    Denied,
    /// The system refused us something.
    Os(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Broken::Gone,
            _ => Broken::Os(error),
        }
    }
}

impl From<Misread> for Broken {
    fn from(misread: Misread) -> Broken {
        match misread {
            Misread::Version(theirs) => Broken::Version(theirs),
            Misread::Malformed(what) => Broken::Malformed(what),
        }
    }
}

/// The peer's half, once it is known.
#[derive(Debug)]
struct Theirs {
    half: Half,
    who: Peer,
    /// Whether its large payloads are mapped, and not only read.
    maps: bool,
}

/// One end of a lane.
#[derive(Debug)]
pub(crate) struct Lane {
    service: ServiceName,
    socket: Socket,
    mine: Half,
    theirs: OnceLock<Theirs>,
    /// The bells that wake the peer. Client: the service's. Service: one for each slot, and one
    /// for room in the ring.
    bells: Vec<OnceLock<Bell>>,
    pool: Mutex<Pool>,
    known: Mutex<Known>,
    /// What each slot is used for on this side; see `caller` and `server`.
    slots: Vec<Slot>,
    /// Client: who waits for one of the slots.
    queue: Queue,
    /// Client: the bells that the service was sent, under the numbers of its own.
    given: Vec<Mutex<Option<Arc<Bell>>>>,
    /// Client: how many wait for room, and want the last of these bells.
    wishes: Mutex<usize>,
    /// The other side is gone, or nothing it says counts any more.
    dead: AtomicBool,
    /// It was this side that ended it.
    abandoned: AtomicBool,
    /// The other side would not have it, and never took anything from it.
    refused: AtomicBool,
    /// Why it is dead, for the next who asks; nothing means that the other side is gone.
    fault: Mutex<Option<Broken>>,
    /// How often the peer's bells were rung.
    rings: AtomicU32,
    /// The fork epoch it was made in: a forked child must not touch it.
    epoch: u64,
}

/// This side's private state of a call slot.
#[derive(Debug, Default)]
struct Slot {
    /// Client: a call is in flight. Service: a request has not been answered yet.
    busy: AtomicBool,
    /// Client: given up, and not closed by the service yet.
    resting: AtomicBool,
    /// Client: what this slot's caller sleeps on, made on first use, and what it has learnt.
    sleeper: Mutex<caller::Sleeper>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic elsewhere leaves these consistent: no lock is held across a caller's code.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    fn new(service: ServiceName, socket: Socket, mine: Half, bells: usize) -> Lane {
        // A service has one bell for all its lanes.
        let given = if bells == 1 { mine.shape.slots + 1 } else { 0 };
        Lane {
            service,
            socket,
            theirs: OnceLock::new(),
            bells: (0..bells).map(|_| OnceLock::new()).collect(),
            pool: Mutex::default(),
            known: Mutex::default(),
            slots: (0..mine.shape.slots).map(|_| Slot::default()).collect(),
            queue: Queue::default(),
            given: (0..given).map(|_| Mutex::default()).collect(),
            wishes: Mutex::default(),
            mine,
            dead: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            fault: Mutex::default(),
            rings: AtomicU32::new(0),
            epoch: fork::epoch(),
        }
    }

    /// Whether this process made the lane: a forked child did not.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.epoch == fork::epoch()
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Ends the lane, whoever waits on it.
    fn end(&self, broken: &Broken) {
        match broken {
            // The others see the end of their peer for themselves.
            Broken::Gone | Broken::Busy | Broken::NotStarted | Broken::Denied => self.die(),
            _ => self.abandon(),
        }
    }

    /// Ends the lane and keeps the reason for the next who asks.
    #[cold]
    pub(crate) fn fail(&self, broken: Broken) {
        self.end(&broken);
        *lock(&self.fault) = Some(broken);
    }

    /// Ends a lane whose other side lives, and may yet take what is in it.
    #[cold]
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
        self.die();
        self.socket.shutdown();
    }

    /// Whether the other side is gone for good, and takes nothing more from this lane.
    pub(crate) fn has_ended(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
            || !self.abandoned.load(Ordering::Relaxed) && self.socket.hung_up()
    }

    /// Why the lane is dead.
    #[cold]
    fn fault(&self) -> Broken {
        lock(&self.fault).take().unwrap_or(Broken::Gone)
    }

    pub(crate) fn die(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// The name of the service that it leads to.
    pub(crate) fn service(&self) -> &ServiceName {
        &self.service
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.theirs.get().map(|theirs| &theirs.who)
    }

    /// The peer's half, once it is known.
    #[inline(always)]
    fn peers_half(&self) -> Option<&Half> {
        self.theirs.get().map(|theirs| &theirs.half)
    }

    /// Rings one of the peer's bells; a client that has not sent the bell yet is asked for it.
    fn ring(&self, bell: usize) {
        if self.bells[bell].get().is_none() {
            // It was sent before the peer went to sleep, so it is in the socket by now.
            let _ = self.drain();
        }
        if let Some(bell) = self.bells[bell].get() {
            // The time of every ring is more than anybody needs to learn what a wake-up costs.
            let rings = self.rings.fetch_add(1, Ordering::Relaxed);
            let at = if rings.is_multiple_of(TIMED) { wait::now() } else { 0 };
            self.mine.control().rang_at.store(at, Ordering::Relaxed);
            bell.ring();
        }
    }

    /// How long ago the peer says that it rang, in nanoseconds.
    pub(crate) fn rung_since(&self) -> Option<u64> {
        match self.peers_half()?.control().rang_at.load(Ordering::Relaxed) {
            0 => None,
            claimed => wait::now().checked_sub(claimed),
        }
    }

    /// Hands a region back to the peer.
    pub(crate) fn give_back(&self, number: usize, loan: u64) {
        if !self.is_ours() {
            return;
        }
        // Pairs with the peer's store of `awake` before it looks at `returned` once more.
        self.mine.control().returned[number].swap(loan, Ordering::SeqCst);
        self.ring_for_room();
    }

    /// Service: wakes a client that waits for room in the ring or for a region.
    fn ring_for_room(&self) {
        if self.bells.len() > 1
            && let Some(client) = self.peers_half()
            && client.control().awake.load(Ordering::SeqCst) == 1
        {
            self.ring(self.slots.len());
        }
    }

    /// Lends a region for a payload and tells the peer of it; `None` while all are out.
    pub(crate) fn blank(&self, len: usize) -> Result<Option<Blank>, Broken> {
        let returned = |number| self.peers_half().map_or(0, |half| half.returned(number));
        let mut pool = lock(&self.pool);
        let Some(mut blank) = pool.lend(len, returned)? else { return Ok(None) };
        self.tell_of_gone(blank.gone.drain(..));
        if let Some(fd) = blank.new.take() {
            let Lent { number, loan } = blank.lent;
            let packet = Packet::Region(number as u32, incarnation(loan)).encode();
            if let Err(error) = self.socket.send(packet.as_slice(), &[fd.as_fd()]) {
                pool.take_back(blank.lent, true);
                let is_full = is_momentary(&error) || error.raw_os_error() == Some(libc::ENOBUFS);
                if !is_full {
                    return Err(error.into());
                }
                let mut again = pool.lend_again(len);
                again.iter_mut().for_each(|blank| self.tell_of_gone(blank.gone.drain(..)));
                return Ok(again);
            }
        }
        Ok(Some(blank))
    }

    fn tell_of_gone(&self, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            // A full socket: the peer forgets it when its number is used again.
            let _ = self.socket.send(Packet::RegionGone(number as u32).encode().as_slice(), &[]);
        }
    }

    /// Lends a region for a payload and fills it; `None` while all are out.
    pub(crate) fn lend(&self, data: &[u8]) -> Result<Option<Lent>, Broken> {
        let Some(mut blank) = self.blank(data.len())? else { return Ok(None) };
        blank.memory.bytes_mut(data.len()).copy_from_slice(data);
        // Nobody here needs to read it: let go before the peer can hand it back.
        drop(blank.memory.finish());
        Ok(Some(blank.lent))
    }

    /// Whether a region for so many bytes could be lent now.
    pub(crate) fn can_lend(&self, len: usize) -> bool {
        let Some(half) = self.peers_half() else { return false };
        lock(&self.pool).can_lend(len, |number| half.returned(number))
    }

    /// Takes back a region that was lent and then not named in any message.
    pub(crate) fn unlend(&self, lent: Lent) {
        if !self.is_ours() {
            return;
        }
        lock(&self.pool).take_back(lent, false);
        self.wake_own();
    }

    /// Client: wakes the thread of this process that waits for room, after a region has become free
    /// that the peer knows nothing of.
    pub(crate) fn wake_own(&self) {
        // Pairs with that thread's swap of `awake` before it looks at the pool once more.
        fence(Ordering::SeqCst);
        if self.is_ours()
            && self.mine.control().awake.load(Ordering::SeqCst) == 1
            && let Some(given) = self.given.get(self.room_bell())
            && let Some(bell) = &*lock(given)
        {
            bell.ring();
        }
    }

    /// Lets go of the regions that nobody uses.
    pub(crate) fn trim(&self) {
        let Some(half) = self.peers_half() else { return };
        self.tell_of_gone(lock(&self.pool).trim(|number| half.returned(number)));
        half.forget_pages();
        self.mine.forget_pages();
        lock(&self.known).forget_pages();
    }

    /// Makes the annex of this side's memory, unless there is one, and tells the peer.
    #[cold]
    pub(crate) fn extend(&self) -> Result<(), Broken> {
        // Several may answer at once.
        let _one = lock(&self.pool);
        if self.mine.annex().is_some() {
            return Ok(());
        }
        let packet = Packet::Annex.encode();
        self.mine.extend(|fd| Ok(self.socket.send(packet.as_slice(), &[fd.as_fd()])?))
    }

    /// The room of one of the peer's slots, in which there is something.
    #[inline(always)]
    fn room_of<'a>(&self, half: &'a Half, slot: usize) -> Result<Span<'a>, Broken> {
        match half.room(slot) {
            Some(room) => Ok(room),
            None => {
                self.annex_of(half)?;
                half.room(slot).ok_or(Broken::Malformed("a room that was never sent"))
            }
        }
    }

    /// The annex of the peer's memory, which was sent before it was used.
    #[inline(always)]
    fn annex_of<'a>(&self, half: &'a Half) -> Result<&'a Mapping, Broken> {
        match half.annex() {
            Some(annex) => Ok(annex),
            None => self.look_for_annex(half),
        }
    }

    #[cold]
    fn look_for_annex<'a>(&self, half: &'a Half) -> Result<&'a Mapping, Broken> {
        match self.drain() {
            // The peer may have gone since.
            Err(Broken::Gone) if half.annex().is_some() => {}
            drained => drained?,
        }
        half.annex().ok_or(Broken::Malformed("memory that was never sent"))
    }

    /// The body of a message whose header was read: checked, and out of the peer's reach where it
    /// is inline.
    #[inline(always)]
    fn body<'a>(
        self: &Arc<Lane>,
        inline: impl FnOnce() -> Result<Span<'a>, Broken>,
        claimed_len: u32,
        claimed_region: u32,
        claimed_loan: u64,
    ) -> Result<Body, Broken> {
        let len = claimed_len as usize;
        if claimed_region == 0 {
            let inline = inline()?;
            if len > inline.len() {
                return Err(Broken::Malformed("an inline payload that is too long"));
            }
            let mut bytes = Buffer::take(len);
            inline.part(0, len).append_to(&mut bytes);
            return Ok(Body::Inline(bytes));
        }
        self.region(claimed_region as usize - 1, claimed_loan, len)
    }

    #[cold]
    fn region(
        self: &Arc<Lane>,
        number: usize,
        claimed_loan: u64,
        len: usize,
    ) -> Result<Body, Broken> {
        let is_known = || lock(&self.known).has(number, claimed_loan);
        let mut known = lock(&self.known);
        if !known.has(number, claimed_loan) {
            drop(known);
            // Its descriptor was sent before it was named; the peer may have gone since.
            match self.drain() {
                Err(Broken::Gone) if is_known() => {}
                drained => drained?,
            }
            known = lock(&self.known);
        }
        let region = known.borrow(number, claimed_loan, len).map_err(Broken::Malformed)?;
        drop(known);
        self.mine.prepare_to_return(number);
        let loan = Borrowed { lane: self.clone(), region, number, loan: claimed_loan, len };
        Ok(Body::Region(Box::new(OutOfLine { loan, copy: OnceLock::new() })))
    }

    /// Takes everything that the peer has sent through the socket.
    pub(crate) fn drain(&self) -> Result<(), Broken> {
        let end = self.hear();
        if matches!(end, Err(Broken::Gone)) {
            self.die();
        }
        end
    }

    /// The same, but that the peer is gone is for the caller to note.
    pub(crate) fn hear(&self) -> Result<(), Broken> {
        let mut known = lock(&self.known);
        let mut buffer = [0; PACKET_MAX];
        // A peer that never stops sending must not keep us here: the rest is reported again.
        for _ in 0..PACKETS {
            let packet = match self.socket.receive(&mut buffer) {
                Ok(packet) => packet,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if packet.len == 0 {
                return Err(Broken::Gone);
            }
            if packet.truncated {
                // What was lost would be missed later.
                self.abandon();
                return Err(Broken::Os(io::Error::other(
                    "a descriptor could not be received: too many are open",
                )));
            }
            let mut fds = packet.fds.into_iter();
            let is_client = self.bells.len() == 1;
            // Only the first had to say who sends it; a lane that has no second is spared the calls.
            if packet.credentials.is_some() && self.theirs.get().is_some() {
                let _ = self.socket.ask_for_credentials(false);
            }
            match (Packet::decode(&buffer[..packet.len])?, fds.next()) {
                (Packet::Region(number, incarnation), Some(fd)) => {
                    let map = self.theirs.get().is_some_and(|theirs| theirs.maps);
                    known.add(number as usize, incarnation, fd, map).map_err(Broken::Malformed)?;
                }
                (Packet::RegionGone(number), None) => known.remove(number as usize),
                (Packet::Annex, Some(fd)) => {
                    let half = self.peers_half();
                    half.ok_or(Broken::Malformed("an annex to nothing"))?.extend_peers(fd)?;
                }
                (Packet::Bell(slot), Some(fd)) if !is_client => {
                    let bell = Bell::from_peer(fd).map_err(Broken::Malformed)?;
                    let place = self.bells.get(slot as usize);
                    let place =
                        place.ok_or(Broken::Malformed("a bell of a slot that is not there"))?;
                    // A second bell for a slot would have to replace one that is being rung.
                    place.set(bell).map_err(|_| Broken::Malformed("a second bell for a slot"))?;
                }
                (Packet::Welcome(shape), Some(fd)) if is_client && self.theirs.get().is_none() => {
                    let who = packet.credentials.map(Peer::new);
                    let mut who = who.ok_or(Broken::Malformed("a welcome from nobody"))?;
                    who.put_away();
                    if shape.slots != self.slots.len() {
                        return Err(Broken::Malformed("a welcome with other slots"));
                    }
                    let (half, maps) = (Half::of_peer(fd, shape)?, who.is_same_user());
                    let _ = self.theirs.set(Theirs { half, who, maps });
                }
                (Packet::Refuse(refusal), None) if is_client => {
                    self.refused.store(self.theirs.get().is_none(), Ordering::Relaxed);
                    return Err(match refusal {
                        Refusal::Version => Broken::Version(0),
                        Refusal::Malformed => {
                            Broken::Malformed("it did not accept what this program sent")
                        }
                        Refusal::Busy => Broken::Busy,
                        Refusal::NotStarted => Broken::NotStarted,
                        Refusal::Denied => Broken::Denied,
                    });
                }
                _ => return Err(Broken::Malformed("a packet where none was due")),
            }
            if fds.next().is_some() {
                return Err(Broken::Malformed("descriptors that nobody asked for"));
            }
        }
        Ok(())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // A forked child's copy is not the connection's end.
        if self.is_ours() {
            self.socket.clear();
        }
    }
}

/// Stores a word of this side's own memory, which nobody else can write, only if that changes it:
/// a store takes the cache line from the peer, which has it from the last message.
#[inline(always)]
fn change(word: &AtomicU32, value: u32) {
    if word.load(Ordering::Relaxed) != value {
        word.store(value, Ordering::Relaxed);
    }
}

/// How many bytes of a room the payload took whose words these are: words of this side's own.
#[inline(always)]
fn inline_len(len: &AtomicU32, region: &AtomicU32) -> u32 {
    if region.load(Ordering::Relaxed) == 0 { len.load(Ordering::Relaxed) } else { 0 }
}
