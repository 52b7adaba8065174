//! The client's front door: a name that messages are sent to.
//!
//! Threads that wait are here; what futures do instead of waiting is in the files below.

mod connecting;
#[cfg(feature = "tokio")]
mod driver;
mod events;
mod future;
mod luck;
mod reactor;
mod sending;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::data::{Source, check_len};
use crate::lane::caller::{Bed, Bytes, Outbox, Outcome, Posted, Sent};
use crate::lane::{Broken, Lane, Place, lock};
use crate::rocket::{self, Answered, News};
use crate::shm::layout::{SLOTS, SLOTS_MAX};
use crate::sys::{Socket, fork};
use crate::wait::{Clock, Gate, unparker};
use crate::watch::Watch;
use crate::wire::VERSION;
use crate::{
    Data, Deadline, Error, INLINE_MAX, Loan, Peer, Registry, Response, Result, ServiceName, Wait,
    deadlock,
};

pub use events::Events;
pub use future::{Call, Post};
use luck::Luck;
use reactor::Reactor;

/// How often a service is looked up again that goes just before the hello reaches it.
const LOOK_UPS: u32 = 8;

/// A connection to the service of a name, shared by any number of threads.
///
/// Making one does no I/O; the service is looked up on the first send, and again when it has gone.
/// All messages of one connection (and of its clones) reach the service in the order in which they
/// were sent; between connections nothing is promised.
///
/// ```no_run
/// use lightmessaging::Connection;
/// let clock = Connection::new("com.example.clock")?;
/// let time = clock.send_two_way(1, "what time is it?")?;
/// println!("{}", String::from_utf8_lossy(time.data()));
/// # Ok::<(), lightmessaging::Error>(())
/// ```
#[derive(Clone)]
pub struct Connection {
    here: Arc<Here>,
}

/// Chooses how a [`Connection`] behaves.
#[derive(Debug)]
pub struct ConnectionBuilder {
    name: Result<ServiceName>,
    options: Options,
}

#[derive(Clone, Debug)]
struct Options {
    registry: Option<Registry>,
    deadline: Deadline,
    wait_for_service: Duration,
    wait: Wait,
    calls_in_flight: usize,
}

/// The connection in one process. A forked child starts afresh and leaves its parent's alone.
#[derive(Debug)]
struct Here {
    name: ServiceName,
    registry: OnceLock<Registry>,
    options: Options,
    state: Mutex<State>,
    /// Lets one thread connect while the others wait.
    connecting: Gate,
    /// Lets one thread wait for room while the others wait behind it.
    room: Gate,
    /// What futures sleep in, made when one first does.
    reactor: OnceLock<Arc<Reactor>>,
    /// Whether it pays for futures to look for their answers before they sleep.
    luck: Luck,
    epoch: u64,
    child: OnceLock<Arc<Here>>,
}

#[derive(Debug, Default)]
struct State {
    active: Option<Active>,
    /// One-way messages that a service which went never took: the next one gets them first.
    unsent: VecDeque<(i32, Vec<u8>)>,
}

#[derive(Debug)]
struct Active {
    lane: Arc<Lane>,
    out: Outbox,
    /// What the thread that waits for room sleeps on.
    room: Arc<Mutex<Option<Bed>>>,
}

/// Why a service is not to be found in the registry.
#[derive(Debug)]
struct Missed {
    error: Error,
    /// There is a registry, which this process may see.
    has_folder: bool,
}

/// What became of an attempt to publish.
enum Attempt {
    Posted(Arc<Lane>, Option<Posted>),
    /// There is no lane, or the one there was is of no more use.
    NoLane,
    /// Published as the service was about to close the lane: taken, if the service gets as far as
    /// this position in the ring.
    InDoubt(Arc<Lane>, u64),
    /// The ring is full, or the service is about to close the lane.
    NoRoom,
    /// All call slots are in use.
    NoSlot,
}

impl ConnectionBuilder {
    /// Looks the service up in this registry instead of the environment's.
    pub fn registry(mut self, registry: Registry) -> ConnectionBuilder {
        self.options.registry = Some(registry);
        self
    }

    /// How long a call may take that says nothing else; 30 s unless set here.
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> ConnectionBuilder {
        self.options.deadline = deadline.into();
        self
    }

    /// How long a call waits, within its deadline, for a service that is not there to start. Zero,
    /// the default, means not at all.
    pub fn wait_for_service(mut self, time: Duration) -> ConnectionBuilder {
        self.options.wait_for_service = time;
        self
    }

    /// How a caller waits for its reply. A future looks for it for a few microseconds before it sleeps,
    /// with [`Wait::Spin`] too, and not at all with [`Wait::Block`].
    pub fn wait(mut self, wait: Wait) -> ConnectionBuilder {
        self.options.wait = wait;
        self
    }

    /// How many calls may be on their way at once, 1 to 64 (what is beyond is taken for the nearest);
    /// 8 unless set here. More wait for their turn.
    ///
    /// Each takes 8 KiB of memory, shared by both sides, for as long as the connection is used.
    pub fn calls_in_flight(mut self, calls: usize) -> ConnectionBuilder {
        self.options.calls_in_flight = calls.clamp(1, SLOTS_MAX);
        self
    }

    /// Makes the connection, without any I/O.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], and nothing else.
    pub fn build(self) -> Result<Connection> {
        Ok(Connection { here: Arc::new(Here::new(self.name?, self.options)) })
    }
}

impl Connection {
    /// A connection to the service of this name, without any I/O.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], and nothing else.
    pub fn new(name: impl AsRef<[u8]>) -> Result<Connection> {
        Connection::builder(name).build()
    }

    /// A connection with choices.
    pub fn builder(name: impl AsRef<[u8]>) -> ConnectionBuilder {
        let options = Options {
            registry: None,
            deadline: Deadline::DEFAULT,
            wait_for_service: Duration::ZERO,
            wait: Wait::default(),
            calls_in_flight: SLOTS,
        };
        ConnectionBuilder { name: ServiceName::new(name), options }
    }

    /// The service's name.
    pub fn name(&self) -> &ServiceName {
        &self.here.name
    }

    /// Sends a message and forgets it: it is in the service's queue when this returns. An empty
    /// one is a message too. Returns at once unless the queue is full or the service has to be
    /// looked up; the connection's deadline ends every wait.
    ///
    /// If the service goes before it takes the message, the next send on this connection sends it
    /// again, to the service that is there then, before its own. If there is none, it is lost.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Denied`], [`Error::QueueFull`], [`Error::TimedOut`],
    /// [`Error::TooLarge`], [`Error::Malformed`], [`Error::Version`], [`Error::Os`]. After any of
    /// them the message is not in the queue.
    pub fn send_one_way(&self, id: i32, data: impl Data) -> Result<()> {
        self.send_one_way_within(id, data, self.here.options.deadline)
    }

    /// [`send_one_way`](Connection::send_one_way) with a deadline of its own.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_one_way_within(
        &self,
        id: i32,
        data: impl Data,
        deadline: impl Into<Deadline>,
    ) -> Result<()> {
        let clock = Clock::new(deadline.into());
        data.with(|data| self.here().send(id, data, &clock))
    }

    /// Sends a message and waits for the reply, until the connection's deadline or the service's
    /// death.
    ///
    /// If the service goes before it takes the message, this looks it up again and sends again,
    /// within the same deadline; never after.
    ///
    /// # Errors
    ///
    /// Those of [`send_one_way`](Connection::send_one_way), and [`Error::NotDelivered`],
    /// [`Error::PeerDied`], [`Error::NoReply`], [`Error::WouldDeadlock`].
    pub fn send_two_way(&self, id: i32, data: impl Data) -> Result<Response> {
        self.send_two_way_within(id, data, self.here.options.deadline)
    }

    /// [`send_two_way`](Connection::send_two_way) with a deadline of its own.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_two_way_within(
        &self,
        id: i32,
        data: impl Data,
        deadline: impl Into<Deadline>,
    ) -> Result<Response> {
        let clock = Clock::new(deadline.into());
        data.with(|data| self.here().call(id, data, &clock))
    }

    /// Lends memory for a message of `len` bytes, 0 to [`PAYLOAD_MAX`](crate::PAYLOAD_MAX), to be filled
    /// in place and sent without a copy; see [`Loan`]. Looks the service up if that was not done yet. Waits while 32 large
    /// payloads are out, loans among them, until the connection's deadline.
    ///
    /// It takes system calls, and time for each page, only if no region that has served before is large
    /// enough.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::QueueFull`], [`Error::NotFound`], [`Error::Denied`],
    /// [`Error::TimedOut`], [`Error::WouldDeadlock`], [`Error::Malformed`], [`Error::Version`], and
    /// [`Error::Os`] if there is no memory or no descriptor left.
    pub fn alloc(&self, len: usize) -> Result<Loan> {
        self.alloc_within(len, self.here.options.deadline)
    }

    /// [`alloc`](Connection::alloc) with a deadline of its own.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn alloc_within(&self, len: usize, deadline: impl Into<Deadline>) -> Result<Loan> {
        let clock = Clock::new(deadline.into());
        let here = self.here();
        let service = || here.name.clone();
        check_len(len, &here.name)?;
        let (mut attempts, mut full) = (0, 0);
        loop {
            let lane = match here.lane_at_hand() {
                Some(lane) => lane,
                None => self.lane(&clock)?,
            };
            match lane.blank(len) {
                Ok(Some(blank)) => return Ok(Loan::new(&lane, blank, len)),
                Ok(None) => {
                    // Others may have been quicker, or the socket's own queue is full.
                    if full > 0 && clock.over() {
                        return Err(Error::QueueFull { service: service() });
                    }
                    clock.pause(full / 4);
                    full += 1;
                    if !here.wait_for_room(len.max(INLINE_MAX + 1), Some(&lane), &clock)? {
                        return Err(Error::QueueFull { service: service() });
                    }
                }
                Err(Broken::Gone) => {
                    here.give_up(&lane);
                    if attempts > 0 && clock.over() {
                        return Err(Error::TimedOut { service: service(), delivered: false });
                    }
                    clock.pause(attempts);
                    attempts += 1;
                }
                Err(broken) => return Err(here.error(broken)),
            }
        }
    }

    /// Watches the service come and go.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] if there is no descriptor left.
    pub fn watch(&self) -> Result<Watch> {
        Watch::new(self.clone())
    }

    /// Who runs the service, in the kernel's word: looks it up if need be, and waits until it has
    /// met this client, or until the deadline. A service that is stopped (`SIGSTOP`) or that does
    /// not get round to it lets the deadline pass.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Denied`], [`Error::NotDelivered`] if it has just gone,
    /// [`Error::TimedOut`], [`Error::Malformed`], [`Error::Version`], [`Error::Os`].
    pub fn peer(&self, deadline: impl Into<Deadline>) -> Result<Peer> {
        let clock = Clock::new(deadline.into());
        let lane = self.lane(&clock)?;
        let here = self.here();
        lane.wait_for_peer(&clock)
            .map_err(|broken| here.break_off(&lane, broken))?
            .ok_or_else(|| Error::TimedOut { service: here.name.clone(), delivered: false })
    }

    /// Looks the service up and connects to it, if that was not done yet, and sends it nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Denied`], [`Error::TimedOut`], [`Error::Os`].
    pub fn look_up(&self, deadline: impl Into<Deadline>) -> Result<()> {
        self.lane(&Clock::new(deadline.into())).map(drop)
    }

    /// Whether a living process runs the service now: [looks it up](Connection::look_up), for a second
    /// at most. One that is stopped (`SIGSTOP`) or busy lives too; a call with a deadline tells whether
    /// it answers.
    pub fn is_alive(&self) -> bool {
        self.look_up(Duration::from_secs(1)).is_ok()
    }

    /// The connection as it is in this process.
    fn here(&self) -> &Here {
        let mut here = &*self.here;
        let epoch = fork::epoch();
        while here.epoch != epoch {
            let fresh = || Arc::new(Here::new(here.name.clone(), here.options.clone()));
            here = here.child.get_or_init(fresh);
        }
        here
    }

    pub(crate) fn registry(&self) -> &Registry {
        self.here().registry()
    }

    /// The lane to a living service, made if need be.
    pub(crate) fn lane(&self, clock: &Clock) -> Result<Arc<Lane>> {
        let here = self.here();
        loop {
            let mut is_open = true;
            {
                let mut state = lock(&here.state);
                if let Some(active) = &state.active {
                    match active.lane.check() {
                        _ if active.lane.socket().hung_up() => here.retire(&mut state),
                        Ok(true) => return Ok(active.lane.clone()),
                        Ok(false) => is_open = false,
                        Err(_) => here.retire(&mut state),
                    }
                }
            }
            if !is_open && !here.wait_for_room(0, None, clock)? {
                return Err(Error::TimedOut { service: here.name.clone(), delivered: false });
            }
            here.connect(clock)?;
        }
    }
}

impl Here {
    fn new(name: ServiceName, options: Options) -> Here {
        let registry = OnceLock::new();
        if let Some(chosen) = &options.registry {
            let _ = registry.set(chosen.clone());
        }
        Here {
            name,
            registry,
            options,
            state: Mutex::default(),
            connecting: Gate::default(),
            room: Gate::default(),
            reactor: OnceLock::new(),
            luck: Luck::default(),
            epoch: fork::epoch(),
            child: OnceLock::new(),
        }
    }

    fn registry(&self) -> &Registry {
        self.registry.get_or_init(Registry::from_env)
    }

    /// The lane in use, as far as is known without a system call.
    fn lane_at_hand(&self) -> Option<Arc<Lane>> {
        let state = lock(&self.state);
        let Active { lane, .. } = state.active.as_ref()?;
        (!lane.is_dead() && lane.is_open()).then(|| lane.clone())
    }

    fn call(&self, id: i32, data: Source<'_>, clock: &Clock) -> Result<Response> {
        if deadlock::is_run_here(self.registry(), &self.name) {
            return Err(Error::WouldDeadlock { service: self.name.clone() });
        }
        let mut attempts = 0;
        loop {
            let (lane, posted) = match self.post_now(id, data) {
                Some(posted) => posted,
                None => self.post_call(id, data, clock, attempts)?,
            };
            let outcome = lane.wait(&posted, clock, self.options.wait);
            if let Some(result) = self.conclude(&lane, outcome, clock) {
                return result;
            }
            clock.pause(attempts);
            attempts += 1;
        }
    }

    fn send(&self, id: i32, data: Source<'_>, clock: &Clock) -> Result<()> {
        if data.inline().is_some_and(|bytes| self.send_now(id, bytes, clock)) {
            return Ok(());
        }
        self.post(id, data, false, clock).map(drop)
    }

    /// Publishes a one-way message if all it takes is at hand, as it nearly always is; `false` if it
    /// is still to be sent. Takes no share in the lane, which would cost a third of the whole.
    #[inline(always)]
    fn send_now(&self, id: i32, data: &[u8], clock: &Clock) -> bool {
        let (lane, end) = {
            let mut state = lock(&self.state);
            let State { active: Some(Active { lane, out, .. }), unsent } = &mut *state else {
                return false;
            };
            if !unsent.is_empty() {
                return false;
            }
            lane.look(out);
            if lane.is_dead() || !lane.is_open() {
                return false;
            }
            match lane.post_one_way(out, id, Bytes::Inline(data)) {
                Ok(Sent::Yes) => return true,
                Ok(Sent::NoRoom) => return false,
                Ok(Sent::InDoubt(end)) => {
                    lane.doubt(out);
                    (lane.clone(), end)
                }
                Err(broken) => {
                    // For `post`, which looks for it.
                    lane.fail(broken);
                    return false;
                }
            }
        };
        self.is_taken(&lane, end, clock)
    }

    /// What a call has come to; `None` if it surely did not run and there is time to send it again.
    #[inline(always)]
    fn conclude(
        &self,
        lane: &Arc<Lane>,
        outcome: Outcome,
        clock: &Clock,
    ) -> Option<Result<Response>> {
        let service = || self.name.clone();
        Some(match outcome {
            Outcome::Reply(body) => Ok(Response::new(body)),
            Outcome::NoReply => Err(Error::NoReply { service: service() }),
            Outcome::PeerDied => {
                self.give_up(lane);
                Err(Error::PeerDied { service: service() })
            }
            Outcome::TimedOut { delivered } => {
                Err(Error::TimedOut { service: service(), delivered })
            }
            Outcome::Broken(broken) => Err(self.break_off(lane, broken)),
            Outcome::NotDelivered => {
                self.give_up(lane);
                if !clock.over() {
                    return None;
                }
                Err(Error::NotDelivered { service: service() })
            }
        })
    }

    /// Publishes a call if all it takes is at hand, as it nearly always is.
    #[inline(always)]
    fn post_now(&self, id: i32, data: Source<'_>) -> Option<(Arc<Lane>, Posted)> {
        let bytes = data.inline()?;
        let mut state = lock(&self.state);
        let State { active: Some(Active { lane, out, .. }), unsent } = &mut *state else {
            return None;
        };
        if !unsent.is_empty() || lane.is_dead() || !lane.is_open() {
            return None;
        }
        let posted = lane.post_call(out, id, Bytes::Inline(bytes))?;
        Some((lane.clone(), posted))
    }

    /// Publishes a call, whatever that takes within the deadline.
    #[cold]
    fn post_call(
        &self,
        id: i32,
        data: Source<'_>,
        clock: &Clock,
        attempts: u32,
    ) -> Result<(Arc<Lane>, Posted)> {
        let not_delivered = || Error::NotDelivered { service: self.name.clone() };
        match self.post(id, data, true, clock) {
            Ok((lane, Some(posted))) => Ok((lane, posted)),
            Ok((_, None)) => Err(not_delivered()),
            // It was there a moment ago, and the message surely did not run.
            Err(Error::NotFound { .. }) if attempts > 0 => Err(not_delivered()),
            Err(error) => Err(error),
        }
    }

    /// Publishes a message, whatever that takes within the deadline.
    fn post(
        &self,
        id: i32,
        data: Source<'_>,
        two_way: bool,
        clock: &Clock,
    ) -> Result<(Arc<Lane>, Option<Posted>)> {
        check_len(data.len(), &self.name)?;
        let (mut attempts, mut full) = (0, 0);
        loop {
            match self.try_to_post(id, data, two_way)? {
                Attempt::Posted(lane, posted) => return Ok((lane, posted)),
                Attempt::InDoubt(lane, end) => {
                    if self.is_taken(&lane, end, clock) {
                        return Ok((lane, None));
                    }
                }
                Attempt::NoLane => {
                    if attempts > 0 && clock.over() {
                        return Err(Error::TimedOut {
                            service: self.name.clone(),
                            delivered: false,
                        });
                    }
                    clock.pause(attempts);
                    attempts += 1;
                    self.connect(clock)?;
                }
                Attempt::NoRoom => {
                    // Others may have been quicker, or the socket's own queue is full.
                    if full > 0 && clock.over() {
                        return Err(Error::QueueFull { service: self.name.clone() });
                    }
                    if data.inline().is_none() || !self.is_whole() {
                        clock.pause(full / 4);
                    }
                    full += 1;
                    if !self.wait_for_room(self.room_for(data), None, clock)? {
                        return Err(Error::QueueFull { service: self.name.clone() });
                    }
                }
                Attempt::NoSlot => self.wait_for_slot(clock)?,
            }
        }
    }

    /// Publishes a message if that needs nothing else.
    fn try_to_post(&self, id: i32, data: Source<'_>, two_way: bool) -> Result<Attempt> {
        let attempt = match data.inline() {
            Some(bytes) => self.attempt(id, Bytes::Inline(bytes), two_way, None),
            None => self.attempt_large(id, data, two_way),
        };
        attempt.map_err(|broken| self.error(broken))
    }

    /// Publishes on the lane there is, which must be `only` if one is named.
    fn attempt(
        &self,
        id: i32,
        bytes: Bytes<'_>,
        two_way: bool,
        only: Option<&Arc<Lane>>,
    ) -> Result<Attempt, Broken> {
        let mut state = lock(&self.state);
        let State { active, unsent } = &mut *state;
        let Some(Active { lane, out, .. }) = active else { return Ok(Attempt::NoLane) };
        if only.is_some_and(|only| !Arc::ptr_eq(only, lane)) {
            return Ok(Attempt::NoLane);
        }
        let published = (|| {
            if !two_way {
                lane.look(out);
            }
            if !lane.check()? || !lane.make_room(out, two_way)? {
                return Ok(Attempt::NoRoom);
            }
            if !unsent.is_empty() && !send_unsent(lane, out, unsent)? {
                return Ok(Attempt::NoRoom);
            }
            if two_way {
                return Ok(match lane.post_call(out, id, bytes) {
                    Some(posted) => Attempt::Posted(lane.clone(), Some(posted)),
                    None => Attempt::NoSlot,
                });
            }
            Ok(match lane.post_one_way(out, id, bytes)? {
                Sent::Yes => Attempt::Posted(lane.clone(), None),
                Sent::InDoubt(end) => {
                    lane.doubt(out);
                    Attempt::InDoubt(lane.clone(), end)
                }
                Sent::NoRoom => Attempt::NoRoom,
            })
        })();
        match published {
            Err(Broken::Gone | Broken::Busy) => {
                self.retire(&mut state);
                Ok(Attempt::NoLane)
            }
            Err(broken) => {
                self.retire(&mut state);
                Err(broken)
            }
            published => published,
        }
    }

    /// Whether the lane in use needs no more memory.
    fn is_whole(&self) -> bool {
        lock(&self.state).active.as_ref().is_none_or(|active| active.lane.is_whole())
    }

    /// How many bytes of room a message waits for: more than are inline if it needs a region.
    fn room_for(&self, data: Source<'_>) -> usize {
        let has_region = || {
            let state = lock(&self.state);
            state.active.as_ref().is_some_and(|active| data.region(&active.lane).is_some())
        };
        match data.inline() {
            Some(bytes) => bytes.len(),
            None if has_region() => size_of::<u64>(),
            None => data.len().max(INLINE_MAX + 1),
        }
    }

    /// Publishes a payload that goes out of line: it is copied into a region without the lock, unless
    /// it is in one.
    fn attempt_large(&self, id: i32, data: Source<'_>, two_way: bool) -> Result<Attempt, Broken> {
        let lane = match &lock(&self.state).active {
            Some(active) => active.lane.clone(),
            None => return Ok(Attempt::NoLane),
        };
        let own = data.region(&lane);
        let lent = match own.map_or_else(|| lane.lend(data.bytes()), |own| Ok(Some(own))) {
            Ok(Some(lent)) => lent,
            Ok(None) => return Ok(Attempt::NoRoom),
            Err(Broken::Gone) => {
                self.give_up(&lane);
                return Ok(Attempt::NoLane);
            }
            Err(broken) => return Err(broken),
        };
        let attempt = self.attempt(id, Bytes::OutOfLine(lent, data.len()), two_way, Some(&lane));
        let named = matches!(attempt, Ok(Attempt::Posted(..) | Attempt::InDoubt(..)));
        match own {
            Some(_) if named => data.hand_over(),
            None if !named => lane.unlend(lent),
            _ => {}
        }
        attempt
    }

    /// Whether a message that was published in doubt is one of those that the service takes; waits
    /// until that is known. If it is not, nobody else sends it again.
    fn is_taken(&self, lane: &Arc<Lane>, end: u64, clock: &Clock) -> bool {
        let mut attempts = 0;
        while !lane.is_settled() && !lane.is_dead() && !clock.over() {
            // One pass is enough, unless the service cannot be told what to ring.
            clock.pause(attempts);
            attempts += 1;
            if self.wait_for_room(0, Some(lane), clock).is_err() {
                break;
            }
        }
        self.clear_doubt(lane, end)
    }

    /// The end of [`is_taken`](Here::is_taken), whether it is known by now or not.
    fn clear_doubt(&self, lane: &Arc<Lane>, end: u64) -> bool {
        let mut state = lock(&self.state);
        let active = state.active.as_mut().filter(|active| Arc::ptr_eq(&active.lane, lane));
        if lane.is_settled() {
            if active.is_some() {
                self.retire(&mut state);
            }
            return lane.has_taken(end);
        }
        // It is in the queue of a service that empties it: what else there is to know is for
        // whoever sends next.
        if let Some(active) = active {
            lane.doubt_no_more(&mut active.out);
        }
        true
    }

    /// Stops using a lane, if it is still the one in use.
    fn give_up(&self, lane: &Arc<Lane>) {
        let mut state = lock(&self.state);
        if state.active.as_ref().is_some_and(|active| Arc::ptr_eq(&active.lane, lane)) {
            self.retire(&mut state);
        }
    }

    /// Ends a lane whose service has broken the protocol, and says so.
    fn break_off(&self, lane: &Arc<Lane>, broken: Broken) -> Error {
        // Trouble of our own, such as no descriptor left, is no fault of the lane.
        if !matches!(broken, Broken::Os(_)) {
            lane.abandon();
            self.give_up(lane);
        }
        self.error(broken)
    }

    /// Stops using the lane there is and keeps what its service never took.
    fn retire(&self, state: &mut State) {
        let Some(Active { lane, out, .. }) = state.active.take() else { return };
        let mut untaken = VecDeque::new();
        // A service that lives takes what is in the lane, to its end.
        if lane.is_settled() {
            lane.untaken(&out, |id, bytes| untaken.push_back((id, bytes)));
        }
        // They are older than what had not even been published on that lane.
        untaken.append(&mut state.unsent);
        state.unsent = untaken;
    }

    /// Waits until there may be room for a message in the lane in use (as long as that is `only`, if
    /// one is named), or another lane has to be used. `false` once the deadline has passed.
    fn wait_for_room(&self, len: usize, only: Option<&Arc<Lane>>, clock: &Clock) -> Result<bool> {
        if deadlock::is_run_here(self.registry(), &self.name) {
            return Err(Error::WouldDeadlock { service: self.name.clone() });
        }
        let Some(_pass) = self.room.enter(clock) else { return Ok(false) };
        let (lane, room) = match &lock(&self.state).active {
            Some(active) if only.is_none_or(|only| Arc::ptr_eq(only, &active.lane)) => {
                (active.lane.clone(), active.room.clone())
            }
            _ => return Ok(true),
        };
        let large = len > INLINE_MAX;
        let ready = || {
            let state = lock(&self.state);
            match &state.active {
                Some(active) if Arc::ptr_eq(&active.lane, &lane) => {
                    // What goes before it may be as long as anything in the ring.
                    let behind = if state.unsent.is_empty() && !large { len } else { INLINE_MAX };
                    lane.has_room(&active.out, behind) && (!large || lane.can_lend(len))
                }
                _ => true,
            }
        };
        match lane.wait_for_room(&mut lock(&room), clock, ready) {
            Ok(is_ready) => Ok(is_ready),
            Err(Broken::Gone | Broken::Busy) => {
                self.give_up(&lane);
                Ok(true)
            }
            Err(broken) => Err(self.break_off(&lane, broken)),
        }
    }

    /// Waits until another thread's call has ended, or one that was given up was closed.
    fn wait_for_slot(&self, clock: &Clock) -> Result<()> {
        let full = || Error::QueueFull { service: self.name.clone() };
        let _pass = self.room.enter(clock).ok_or_else(full)?;
        let Some(lane) = self.lane_in_use() else { return Ok(()) };
        let (place, waker) = (Place::new(&lane), unparker());
        loop {
            place.wait(&waker);
            {
                let mut state = lock(&self.state);
                let Some(active) = &mut state.active else { return Ok(()) };
                if !Arc::ptr_eq(&active.lane, &lane) {
                    return Ok(());
                }
                if active.lane.any_free(&active.out) {
                    drop(state);
                    place.served();
                    return Ok(());
                }
                active.lane.look(&mut active.out);
                if active.lane.check().is_err() {
                    self.retire(&mut state);
                    return Ok(());
                }
            }
            if clock.over() {
                return Err(full());
            }
            // Nobody wakes us for a call that was given up and is closed, nor for the lane's end.
            let pause = Duration::from_millis(2);
            std::thread::park_timeout(clock.left().map_or(pause, |left| left.min(pause)));
        }
    }

    /// The lane in use, if there is one.
    fn lane_in_use(&self) -> Option<Arc<Lane>> {
        lock(&self.state).active.as_ref().map(|active| active.lane.clone())
    }

    /// Looks the service up and opens a lane to it.
    fn connect(&self, clock: &Clock) -> Result<()> {
        let timed_out = || Error::TimedOut { service: self.name.clone(), delivered: false };
        let _pass = self.connecting.enter(clock).ok_or_else(timed_out)?;
        if lock(&self.state).active.is_some() {
            return Ok(());
        }
        let mut attempts = 0;
        loop {
            let socket = self.look_up(clock)?;
            match Lane::open(&self.name, socket, self.options.calls_in_flight, clock) {
                Ok((lane, out)) => {
                    self.install(lane, out);
                    return Ok(());
                }
                // It went between the look-up and the hello; another may have the name now.
                Err(Broken::Gone) if attempts < LOOK_UPS && !clock.over() => {
                    clock.pause(attempts);
                    attempts += 1;
                }
                Err(Broken::Gone) => return Err(self.goes()),
                Err(broken) => return Err(self.error(broken)),
            }
        }
    }

    /// Somebody always listens, and is never there.
    fn goes(&self) -> Error {
        let reason = "it goes whenever somebody connects".to_owned();
        Error::NotFound { service: self.name.clone(), reason }
    }

    /// Uses a lane, unless somebody else was quicker to open one.
    fn install(&self, lane: Arc<Lane>, mut out: Outbox) {
        let mut state = lock(&self.state);
        if state.active.is_none() {
            // What does not fit now goes before the next message.
            let _ = send_unsent(&lane, &mut out, &mut state.unsent);
            state.active = Some(Active { lane, out, room: Arc::default() });
        }
    }

    fn look_up(&self, clock: &Clock) -> Result<Socket> {
        let patience = self.options.wait_for_service;
        let first = self.look_up_now(clock);
        if patience.is_zero() || !matches!(first, Err(Error::NotFound { .. })) {
            return first;
        }
        let waiting = Clock::new(Deadline::After(patience));
        let mut news = self.watch_for_service()?;
        loop {
            // Looked at again after the watch began, so that nothing falls between.
            match self.look_up_now(clock) {
                Err(Error::NotFound { .. }) if !waiting.over() && !clock.over() => {}
                other => return other,
            }
            let left = [waiting.left(), clock.left()].into_iter().flatten().min();
            news.wait(left).map_err(|source| self.cannot_watch(source))?;
            news.refresh();
        }
    }

    /// Tells when the service may have come.
    fn watch_for_service(&self) -> Result<News> {
        News::of(self.registry(), &self.name).map_err(|source| self.cannot_watch(source))
    }

    fn cannot_watch(&self, source: std::io::Error) -> Error {
        Error::Os { service: self.name.clone(), doing: "watch the registry folder", source }
    }

    /// Looks in the registry, and asks rocketd where that has no such name or is out of reach.
    fn look_up_now(&self, clock: &Clock) -> Result<Socket> {
        match self.look_up_here(clock)? {
            Ok(socket) => Ok(socket),
            Err(missed) => {
                let answered = rocket::look_up(self.registry(), &self.name, clock)?;
                self.judge(missed, answered)
            }
        }
    }

    /// Looks in the registry. What was missed there may be known to rocketd.
    fn look_up_here(&self, clock: &Clock) -> Result<Result<Socket, Missed>> {
        let (direct, has_folder) = match self.registry().open(&self.name, false) {
            Ok(folder) => (folder.connect(&self.name, clock.left()), true),
            Err(error) => (Err(error), false),
        };
        match direct {
            Err(error @ (Error::NotFound { .. } | Error::Denied { .. })) => {
                Ok(Err(Missed { error, has_folder }))
            }
            other => other.map(Ok),
        }
    }

    /// What it comes to that the registry has no such name, and rocketd says this.
    fn judge(&self, missed: Missed, answered: Answered) -> Result<Socket> {
        let Missed { error, has_folder } = missed;
        let folder = self.registry().path().display();
        let reason = match answered {
            Answered::Found(socket) => return Ok(socket),
            // What this process may not see is for rocketd to say.
            answered
                if matches!(error, Error::Denied { .. })
                    && (has_folder || !matches!(answered, Answered::NotFound(_))) =>
            {
                return Err(error);
            }
            Answered::NotFound(socket) => format!(
                "nobody serves it in {folder}, and rocketd at {} knows of none; start it, or unlock it \
                 there (lm unlock)",
                socket.display()
            ),
            Answered::Silent(socket) => format!(
                "nobody serves it in {folder}, and rocketd at {} does not answer; start it, or rocketd",
                socket.display()
            ),
            Answered::Nobody if has_folder => format!(
                "nobody serves it in {folder}; start it, or check LIGHTMESSAGING_DIR on both sides"
            ),
            Answered::Nobody => format!(
                "there is no folder {folder}, and no rocketd either; start it, check LIGHTMESSAGING_DIR \
                 on both sides, or give a sandbox the folder of rocketd's socket"
            ),
        };
        Err(Error::NotFound { service: self.name.clone(), reason })
    }

    fn error(&self, broken: Broken) -> Error {
        let service = self.name.clone();
        match broken {
            Broken::Gone | Broken::Busy => Error::NotDelivered { service },
            Broken::Malformed(what) => Error::Malformed { service, what },
            Broken::NotStarted => Error::NotStarted { service },
            Broken::Denied => Error::Denied {
                service,
                reason: "it does not let in clients of the rocketd that was asked".to_owned(),
            },
            Broken::Version(theirs) => {
                debug_assert_ne!(theirs, VERSION);
                Error::Version { service, theirs }
            }
            Broken::Os(source) => Error::Os { service, doing: "exchange messages", source },
        }
    }
}

/// Sends what an earlier service never took; `false` if there is no room for all of it yet. Whether
/// it was in time, the message that is sent next tells: it is behind all of these.
fn send_unsent(
    lane: &Arc<Lane>,
    out: &mut Outbox,
    unsent: &mut VecDeque<(i32, Vec<u8>)>,
) -> Result<bool, Broken> {
    while let Some((id, data)) = unsent.front() {
        if !lane.make_room(out, false)? {
            return Ok(false);
        }
        if data.len() <= INLINE_MAX {
            if lane.post_one_way(out, *id, Bytes::Inline(data))? == Sent::NoRoom {
                return Ok(false);
            }
        } else {
            let Some(lent) = lane.lend(data)? else { return Ok(false) };
            if lane.post_one_way(out, *id, Bytes::OutOfLine(lent, data.len()))? == Sent::NoRoom {
                lane.unlend(lent);
                return Ok(false);
            }
        }
        unsent.pop_front();
    }
    Ok(true)
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("name", self.name()).finish_non_exhaustive()
    }
}
