//! The client's front door: a name that messages are sent to.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::lane::caller::{Bed, Bytes, Outbox, Outcome, Posted};
use crate::lane::{Broken, Lane, lock};
use crate::registry::Changes;
use crate::sys::fork;
use crate::wait::{Clock, Gate};
use crate::watch::Watch;
use crate::wire::VERSION;
use crate::{
    Deadline, Error, INLINE_MAX, PAYLOAD_MAX, Peer, Registry, Response, Result, ServiceName, Wait,
    deadlock,
};

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

/// What became of an attempt to publish.
enum Attempt {
    Posted(Arc<Lane>, Option<Posted>),
    /// There is no lane, or the one there was is of no more use.
    NoLane,
    /// The ring is full.
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

    /// How a caller waits for its reply.
    pub fn wait(mut self, wait: Wait) -> ConnectionBuilder {
        self.options.wait = wait;
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
    pub fn send_one_way(&self, id: i32, data: impl AsRef<[u8]>) -> Result<()> {
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
        data: impl AsRef<[u8]>,
        deadline: impl Into<Deadline>,
    ) -> Result<()> {
        let clock = Clock::new(deadline.into());
        self.here().post(id, data.as_ref(), false, &clock).map(|_| ())
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
    pub fn send_two_way(&self, id: i32, data: impl AsRef<[u8]>) -> Result<Response> {
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
        data: impl AsRef<[u8]>,
        deadline: impl Into<Deadline>,
    ) -> Result<Response> {
        let clock = Clock::new(deadline.into());
        self.here().call(id, data.as_ref(), &clock)
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
            {
                let mut state = lock(&here.state);
                if let Some(active) = &state.active {
                    if active.lane.check().is_ok() && !active.lane.socket().hung_up() {
                        return Ok(active.lane.clone());
                    }
                    here.retire(&mut state);
                }
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
            epoch: fork::epoch(),
            child: OnceLock::new(),
        }
    }

    fn registry(&self) -> &Registry {
        self.registry.get_or_init(Registry::from_env)
    }

    fn call(&self, id: i32, data: &[u8], clock: &Clock) -> Result<Response> {
        if deadlock::is_run_here(self.registry(), &self.name) {
            return Err(Error::WouldDeadlock { service: self.name.clone() });
        }
        let service = || self.name.clone();
        let mut attempts = 0;
        loop {
            let (lane, posted) = match self.post_now(id, data) {
                Some(posted) => posted,
                None => self.post_call(id, data, clock, attempts)?,
            };
            match lane.wait(&posted, clock, self.options.wait) {
                Outcome::Reply(body) => return Ok(Response::new(body)),
                Outcome::NoReply => return Err(Error::NoReply { service: service() }),
                Outcome::PeerDied => {
                    self.give_up(&lane);
                    return Err(Error::PeerDied { service: service() });
                }
                Outcome::TimedOut { delivered } => {
                    return Err(Error::TimedOut { service: service(), delivered });
                }
                Outcome::Broken(broken) => return Err(self.break_off(&lane, broken)),
                Outcome::NotDelivered => {
                    self.give_up(&lane);
                    if clock.over() {
                        return Err(Error::NotDelivered { service: service() });
                    }
                    self.back_off(attempts, clock);
                    attempts += 1;
                }
            }
        }
    }

    /// Publishes a call if all it takes is at hand, as it nearly always is.
    #[inline(always)]
    fn post_now(&self, id: i32, data: &[u8]) -> Option<(Arc<Lane>, Posted)> {
        let mut state = lock(&self.state);
        let State { active: Some(Active { lane, out, .. }), unsent } = &mut *state else {
            return None;
        };
        if data.len() > INLINE_MAX || !unsent.is_empty() || lane.is_dead() || lane.is_cut() {
            return None;
        }
        let posted = lane.post_call(out, id, Bytes::Inline(data))?;
        Some((lane.clone(), posted))
    }

    /// Publishes a call, whatever that takes within the deadline.
    #[cold]
    fn post_call(
        &self,
        id: i32,
        data: &[u8],
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

    /// Waits a little before trying again, the longer the oftener it failed: not at all at first,
    /// then 1 ms to 64 ms.
    fn back_off(&self, attempts: u32, clock: &Clock) {
        if attempts > 0 {
            let pause = Duration::from_millis(1 << attempts.min(6));
            std::thread::sleep(clock.left().map_or(pause, |left| left.min(pause)));
        }
    }

    /// Publishes a message, whatever that takes within the deadline.
    fn post(
        &self,
        id: i32,
        data: &[u8],
        two_way: bool,
        clock: &Clock,
    ) -> Result<(Arc<Lane>, Option<Posted>)> {
        let len = data.len() as u64;
        if len > PAYLOAD_MAX {
            return Err(Error::TooLarge { service: self.name.clone(), len });
        }
        let (mut attempts, mut full) = (0, 0);
        loop {
            let attempt = if data.len() <= INLINE_MAX {
                self.attempt(id, Bytes::Inline(data), two_way, None)
            } else {
                self.attempt_large(id, data, two_way)
            };
            match attempt.map_err(|broken| self.error(broken))? {
                Attempt::Posted(lane, posted) => return Ok((lane, posted)),
                Attempt::NoLane => {
                    if attempts > 0 && clock.over() {
                        return Err(Error::TimedOut {
                            service: self.name.clone(),
                            delivered: false,
                        });
                    }
                    self.back_off(attempts, clock);
                    attempts += 1;
                    self.connect(clock)?;
                }
                Attempt::NoRoom => {
                    // Others may have been quicker, or the socket's own queue is full.
                    if full > 0 && clock.over() {
                        return Err(Error::QueueFull { service: self.name.clone() });
                    }
                    if data.len() > INLINE_MAX {
                        self.back_off(full / 4, clock);
                    }
                    full += 1;
                    self.wait_for_room(data.len(), clock)?;
                }
                Attempt::NoSlot => self.wait_for_slot(clock)?,
            }
        }
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
            lane.check()?;
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
                true => Attempt::Posted(lane.clone(), None),
                false => Attempt::NoRoom,
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

    /// Publishes a payload that goes out of line: it is copied into a region without the lock.
    fn attempt_large(&self, id: i32, data: &[u8], two_way: bool) -> Result<Attempt, Broken> {
        let lane = match &lock(&self.state).active {
            Some(active) => active.lane.clone(),
            None => return Ok(Attempt::NoLane),
        };
        let lent = match lane.lend(data) {
            Ok(Some(lent)) => lent,
            Ok(None) => return Ok(Attempt::NoRoom),
            Err(Broken::Gone) => {
                self.give_up(&lane);
                return Ok(Attempt::NoLane);
            }
            Err(broken) => return Err(broken),
        };
        let attempt = self.attempt(id, Bytes::OutOfLine(&lent, data.len()), two_way, Some(&lane));
        if !matches!(attempt, Ok(Attempt::Posted(..))) {
            lane.unlend(&lent);
        }
        attempt
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
        if lane.is_cut() || lane.has_ended() {
            lane.untaken(&out, |id, bytes| untaken.push_back((id, bytes)));
        }
        // They are older than what had not even been published on that lane.
        untaken.append(&mut state.unsent);
        state.unsent = untaken;
    }

    fn wait_for_room(&self, len: usize, clock: &Clock) -> Result<()> {
        let full = || Error::QueueFull { service: self.name.clone() };
        if deadlock::is_run_here(self.registry(), &self.name) {
            return Err(Error::WouldDeadlock { service: self.name.clone() });
        }
        let _pass = self.room.enter(clock).ok_or_else(full)?;
        let (lane, room) = match &lock(&self.state).active {
            Some(active) => (active.lane.clone(), active.room.clone()),
            None => return Ok(()),
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
            Ok(true) => Ok(()),
            Ok(false) => Err(full()),
            Err(Broken::Gone | Broken::Busy) => {
                self.give_up(&lane);
                Ok(())
            }
            Err(broken) => Err(self.break_off(&lane, broken)),
        }
    }

    /// Waits until another thread's call has ended, or one that was given up was closed.
    fn wait_for_slot(&self, clock: &Clock) -> Result<()> {
        let full = || Error::QueueFull { service: self.name.clone() };
        let _pass = self.room.enter(clock).ok_or_else(full)?;
        let mut pause = Duration::from_micros(20);
        loop {
            {
                let mut state = lock(&self.state);
                let Some(active) = &mut state.active else { return Ok(()) };
                if active.lane.any_free(&active.out) {
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
            std::thread::sleep(clock.left().map_or(pause, |left| left.min(pause)));
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }

    /// Looks the service up and opens a lane to it.
    fn connect(&self, clock: &Clock) -> Result<()> {
        let timed_out = || Error::TimedOut { service: self.name.clone(), delivered: false };
        let _pass = self.connecting.enter(clock).ok_or_else(timed_out)?;
        if lock(&self.state).active.is_some() {
            return Ok(());
        }
        let socket = self.look_up(clock)?;
        let (lane, mut out) = Lane::open(&self.name, socket).map_err(|broken| match broken {
            // It went between the look-up and the hello.
            Broken::Gone => Error::NotFound { service: self.name.clone() },
            broken => self.error(broken),
        })?;
        let mut state = lock(&self.state);
        // What does not fit now goes before the next message.
        let _ = send_unsent(&lane, &mut out, &mut state.unsent);
        state.active = Some(Active { lane, out, room: Arc::default() });
        Ok(())
    }

    fn look_up(&self, clock: &Clock) -> Result<crate::sys::Socket> {
        let look = || self.registry().open(&self.name, false)?.connect(&self.name, clock.left());
        let patience = self.options.wait_for_service;
        let first = look();
        if patience.is_zero() || !matches!(first, Err(Error::NotFound { .. })) {
            return first;
        }
        let waiting = Clock::new(Deadline::After(patience));
        let os = |source| Error::Os {
            service: self.name.clone(),
            doing: "watch the registry folder",
            source,
        };
        let mut changes = Changes::of(self.registry()).map_err(os)?;
        loop {
            // Looked at again after the watch began, so that nothing falls between.
            match look() {
                Err(Error::NotFound { .. }) if !waiting.over() && !clock.over() => {}
                other => return other,
            }
            if changes.outdated(self.registry()) {
                changes = Changes::of(self.registry()).map_err(os)?;
                continue;
            }
            let left = [waiting.left(), clock.left()].into_iter().flatten().min();
            changes.wait(left).map_err(os)?;
        }
    }

    fn error(&self, broken: Broken) -> Error {
        let service = self.name.clone();
        match broken {
            Broken::Gone | Broken::Busy => Error::NotDelivered { service },
            Broken::Malformed(what) => Error::Malformed { service, what },
            Broken::Version(theirs) => {
                debug_assert_ne!(theirs, VERSION);
                Error::Version { service, theirs }
            }
            Broken::Os(source) => Error::Os { service, doing: "exchange messages", source },
        }
    }
}

/// Sends what an earlier service never took; `false` if there is no room for all of it yet.
fn send_unsent(
    lane: &Arc<Lane>,
    out: &mut Outbox,
    unsent: &mut VecDeque<(i32, Vec<u8>)>,
) -> Result<bool, Broken> {
    while let Some((id, data)) = unsent.front() {
        if data.len() <= INLINE_MAX {
            if !lane.post_one_way(out, *id, Bytes::Inline(data))? {
                return Ok(false);
            }
        } else {
            let Some(lent) = lane.lend(data)? else { return Ok(false) };
            if !lane.post_one_way(out, *id, Bytes::OutOfLine(&lent, data.len()))? {
                lane.unlend(&lent);
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
