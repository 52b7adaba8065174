//! The server's front door: a name, a handler, and one loop.
//!
//! The loop sleeps in one epoll. Lanes that were active lately are polled, a few messages each in
//! turn; all others ring their bells. It never scans all of its clients.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crate::lane::server::{self, Inbox};
use crate::lane::{Broken, Lane, lock};
use crate::registry::Claim;
use crate::sys::{Bell, Event, Listener, Poll, Socket, Timer, core, fork};
use crate::wait::{Patience, coarse};
use crate::{
    ClientId, Error, Peer, Registry, Request, Result, ServiceName, Wait, buffer, deadlock,
};

/// Messages that one lane may have handled before the others have their turn.
const TURN: usize = 64;
/// Turns without a message after which a lane goes back to ringing its bell.
const IDLE_TURNS: u32 = 64;
/// How often a spinning service looks before it asks the clock: a microsecond or two.
const LOOKS: u32 = 64;
/// How long the loop may go on without looking at its sockets, in nanoseconds.
const LOOK_UP: u64 = 50_000;
/// How long a lane must be idle before its memory is given back, in milliseconds.
const TRIM: u64 = 1_000;

/// How long accepting is left alone when there are no descriptors for it.
const PAUSE: Duration = Duration::from_millis(100);

const LISTENER: u64 = 0;
const STOP: u64 = 1;
const TIMER: u64 = 2;
const CLIENTS: u64 = 3;

type Handler = Box<dyn FnMut(Request) + Send>;
type OnClient = Box<dyn FnMut(ClientEvent) + Send>;

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

/// What a service has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Clients connected now.
    pub clients: usize,
    /// Messages taken.
    pub messages: u64,
    /// Clients that broke the protocol and lost their connection.
    pub malformed: u64,
    /// Clients that spoke another version of the protocol.
    pub version: u64,
    /// Clients that could not be served for want of descriptors or memory.
    pub busy: u64,
}

/// A running service: it holds its name until it is stopped or dropped.
///
/// ```no_run
/// use lightmessaging::Service;
/// let mut service = Service::start("com.example.clock", |request| {
///     let _ = request.reply("it is late");
/// })?;
/// service.run()?;
/// # Ok::<(), lightmessaging::Error>(())
/// ```
pub struct Service {
    name: ServiceName,
    registry: Registry,
    handler: Handler,
    on_client: Option<OnClient>,
    poll: Poll,
    events: Vec<Event>,
    listener: Option<Listener>,
    /// Accepting failed for want of descriptors: tried again later.
    paused: bool,
    clients: Vec<Option<Member>>,
    vacant: Vec<usize>,
    /// The lanes that are polled.
    active: Vec<usize>,
    /// Lanes that were active and have not been trimmed since.
    used: Vec<usize>,
    ids: u64,
    patience: Patience,
    /// Turns between two looks at the sockets, adapted to [`LOOK_UP`].
    turns_per_look: u32,
    turns: u32,
    looked: Option<Instant>,
    /// Fires when there may be memory to give back, or a descriptor again.
    timer: Timer,
    timer_is_set: bool,
    stats: Stats,
    shared: Arc<Shared>,
    number: u64,
    epoch: u64,
}

/// Chooses how a [`Service`] behaves.
pub struct ServiceBuilder {
    name: Result<ServiceName>,
    registry: Option<Registry>,
    wait: Wait,
    mode: u32,
    on_client: Option<OnClient>,
}

/// Stops a service, from any thread.
#[derive(Clone)]
pub struct StopHandle {
    shared: Arc<Shared>,
}

struct Shared {
    stop: AtomicBool,
    bell: Bell,
    claim: Mutex<Option<Claim>>,
    /// The thread that is in `run` or `dispatch`.
    running: Mutex<Option<ThreadId>>,
    ended: Condvar,
    epoch: u64,
}

/// One connection, in the state it is in.
enum Member {
    /// Connected, and yet to say hello.
    Guest(Socket),
    Client(Box<Entry>),
}

struct Entry {
    lane: Arc<Lane>,
    inbox: Inbox,
    _bell: Bell,
    id: ClientId,
    peer: Peer,
    active: bool,
    idle_turns: u32,
    /// In `used`, and when it was active last, in milliseconds of the coarse clock.
    used: bool,
    last: u64,
}

impl ServiceBuilder {
    /// Starts in this registry instead of the environment's.
    pub fn registry(mut self, registry: Registry) -> ServiceBuilder {
        self.registry = Some(registry);
        self
    }

    /// How the service waits for messages.
    pub fn wait(mut self, wait: Wait) -> ServiceBuilder {
        self.wait = wait;
        self
    }

    /// The mode of the socket's file, 0600 unless set here: who may write may connect. The
    /// registry's folder must let them in as well.
    pub fn mode(mut self, mode: u32) -> ServiceBuilder {
        self.mode = mode;
        self
    }

    /// Is told, in the service's loop, when a client has come or gone.
    pub fn on_client(mut self, notice: impl FnMut(ClientEvent) + Send + 'static) -> ServiceBuilder {
        self.on_client = Some(Box::new(notice));
        self
    }

    /// Starts the service; see [`Service::start`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start(self, handler: impl FnMut(Request) + Send + 'static) -> Result<Service> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let name = self.name?;
        let os = |source| Error::Os { service: name.clone(), doing: "start", source };
        let registry = self.registry.unwrap_or_else(Registry::from_env);
        let poll = Poll::new().map_err(os)?;
        let bell = Bell::new().map_err(os)?;
        poll.add_bell(&bell, STOP).map_err(os)?;
        let timer = Timer::new().map_err(os)?;
        poll.add_timer(&timer, TIMER).map_err(os)?;
        // A new bell counts as rung once: a service that has nothing to do is not readable.
        poll.wait(&mut Vec::new(), Some(Duration::ZERO)).map_err(os)?;
        // Last, so that a start which fails leaves no name behind.
        let (claim, listener) = registry.open(&name, true)?.claim(&name, self.mode)?;
        listener.pass_credentials().map_err(os)?;
        poll.add(&listener, LISTENER).map_err(os)?;
        let epoch = fork::epoch();
        Ok(Service {
            registry,
            handler: Box::new(handler),
            on_client: self.on_client,
            poll,
            events: Vec::new(),
            listener: Some(listener),
            paused: false,
            clients: Vec::new(),
            vacant: Vec::new(),
            active: Vec::new(),
            used: Vec::new(),
            ids: 0,
            patience: Patience::new(self.wait),
            turns_per_look: 16,
            turns: 0,
            looked: None,
            timer,
            timer_is_set: false,
            stats: Stats::default(),
            shared: Arc::new(Shared {
                stop: AtomicBool::new(false),
                bell,
                claim: Mutex::new(Some(claim)),
                running: Mutex::new(None),
                ended: Condvar::new(),
                epoch,
            }),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            epoch,
            name,
        })
    }
}

impl fmt::Debug for ServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Service {
    /// Takes a name and starts a service under it. Messages queue from now on; the handler gets
    /// them in [`run`](Service::run) or [`dispatch`](Service::dispatch), on the thread that calls
    /// those, one at a time.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]; [`Error::NameInUse`] while a living process holds the name;
    /// [`Error::Denied`] if the registry's folder cannot be trusted or used; [`Error::Os`]. A start
    /// that failed leaves nothing behind.
    pub fn start(
        name: impl AsRef<[u8]>,
        handler: impl FnMut(Request) + Send + 'static,
    ) -> Result<Service> {
        Service::builder(name).start(handler)
    }

    /// A service with choices.
    pub fn builder(name: impl AsRef<[u8]>) -> ServiceBuilder {
        ServiceBuilder {
            name: ServiceName::new(name),
            registry: None,
            wait: Wait::default(),
            mode: 0o600,
            on_client: None,
        }
    }

    /// The service's name.
    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Stops this service, from any thread.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle { shared: self.shared.clone() }
    }

    /// Whether the service was stopped.
    pub fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// Serves on the calling thread until the service is stopped.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] if the system refuses to let it wait.
    pub fn run(&mut self) -> Result<()> {
        let _running = self.enter()?;
        while !self.is_stopped() {
            if self.turn() == 0 && !self.spin() {
                self.sleep()?;
                continue;
            }
            // Whatever the lanes say, the sockets have their turn too.
            self.turns += 1;
            if self.turns >= self.turns_per_look {
                self.look_around()?;
            }
        }
        self.close();
        Ok(())
    }

    /// Handles what is ready, a bounded number of messages, without blocking, and returns how many
    /// it was. For a loop of somebody else's: call it when the service's descriptor is readable,
    /// which it stays if anything is left.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] if the system refuses to say what is ready.
    pub fn dispatch(&mut self) -> Result<usize> {
        let _running = self.enter()?;
        let mut handled = 0;
        self.gather(Some(Duration::ZERO))?;
        for _ in 0..4 {
            let count = self.turn();
            handled += count;
            if count == 0 || self.is_stopped() {
                break;
            }
        }
        if self.is_stopped() {
            self.close();
        } else if self.fall_asleep() {
            // Something is left: be readable.
            self.shared.bell.ring();
        }
        Ok(handled)
    }

    fn enter(&self) -> Result<Running> {
        if self.epoch != fork::epoch() {
            let source = std::io::Error::other("it belongs to the process that forked this one");
            return Err(Error::Os { service: self.name.clone(), doing: "serve", source });
        }
        deadlock::run_here(&self.registry, &self.name, self.number);
        *lock(&self.shared.running) = Some(thread::current().id());
        Ok(Running(self.shared.clone()))
    }

    /// Gives each active lane its turn and returns how many messages were handled.
    fn turn(&mut self) -> usize {
        let mut handled = 0;
        let mut at = 0;
        while at < self.active.len() {
            let index = self.active[at];
            let (count, end) = self.serve(index, TURN);
            handled += count;
            if let Err(broken) = end {
                self.expel(index, broken);
                continue;
            }
            let crowded = self.active.len() > 32;
            let Some(entry) = self.entry(index) else { continue };
            entry.idle_turns = if count > 0 { 0 } else { entry.idle_turns + 1 };
            if entry.idle_turns > if crowded { 0 } else { IDLE_TURNS } {
                entry.lane.set_awake(0);
                if entry.lane.has_news(&entry.inbox) {
                    entry.lane.set_awake(core());
                    entry.idle_turns = 0;
                } else {
                    self.deactivate(at);
                    continue;
                }
            }
            at += 1;
            if self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        handled
    }

    /// Handles up to `most` messages of one lane.
    fn serve(&mut self, index: usize, most: usize) -> (usize, Result<(), Broken>) {
        let Some(Some(Member::Client(entry))) = self.clients.get_mut(index) else {
            return (0, Ok(()));
        };
        let mut count = 0;
        let end = loop {
            if count == most || self.shared.stop.load(Ordering::Relaxed) {
                break Ok(());
            }
            match entry.lane.take(&mut entry.inbox) {
                Ok(Some(taken)) => {
                    count += 1;
                    self.stats.messages += 1;
                    (self.handler)(Request::new(taken, entry.lane.clone(), entry.id));
                }
                Ok(None) => break Ok(()),
                Err(broken) => break Err(broken),
            }
        };
        entry.lane.finish_turn(&mut entry.inbox);
        (count, end)
    }

    /// Spins for the next message if that is likely to pay. Returns whether there is one.
    fn spin(&mut self) -> bool {
        if !self.is_any_elsewhere() {
            return false;
        }
        let first = self.active.first().and_then(|index| self.entry_ref(*index));
        let peer_sleeps = first.is_some_and(|entry| entry.lane.caller_sleeps());
        let Some(limit) = self.patience.spin(peer_sleeps) else { return false };
        for _ in 0..LOOKS {
            if self.has_news() {
                self.patience.hit();
                return true;
            }
            std::hint::spin_loop();
        }
        let started = Instant::now();
        while started.elapsed() < limit {
            for _ in 0..16 {
                if self.has_news() {
                    self.patience.hit();
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        self.patience.missed(limit);
        false
    }

    /// Whether any of the lately active clients runs on another core.
    fn is_any_elsewhere(&self) -> bool {
        let here = core();
        let elsewhere = |entry: &Entry| ![0, here].contains(&entry.lane.client_core());
        self.active.iter().any(|index| self.entry_ref(*index).is_some_and(elsewhere))
    }

    #[inline]
    fn has_news(&self) -> bool {
        let news =
            |index: &usize| self.entry_ref(*index).is_some_and(|e| e.lane.has_news(&e.inbox));
        self.active.iter().any(news) || self.shared.stop.load(Ordering::Relaxed)
    }

    /// Sleeps until there is something to do.
    fn sleep(&mut self) -> Result<()> {
        // Against clients on this core there is no spinning, so there is nothing to learn.
        let first = self.active.first().and_then(|index| self.entry_ref(*index));
        let learns = first.filter(|_| self.is_any_elsewhere()).map(|entry| {
            let wake_ups = if entry.lane.caller_sleeps() { 2 } else { 1 };
            (Instant::now(), wake_ups)
        });
        if self.fall_asleep() {
            return Ok(());
        }
        self.gather(None)?;
        let first = self.active.first().and_then(|index| self.entry_ref(*index));
        if let (Some((since, wake_ups)), Some(entry)) = (learns, first) {
            if let Some(rang) = entry.lane.client_rang_since() {
                self.patience.woken_after(rang);
            }
            self.patience.slept(since.elapsed(), wake_ups);
        }
        Ok(())
    }

    /// Lets every active lane ring from now on. Returns `true`, and is awake again, if one of them
    /// has a message.
    fn fall_asleep(&mut self) -> bool {
        for index in &self.active {
            if let Some(entry) = self.entry_ref(*index) {
                entry.lane.set_awake(0);
            }
        }
        if self.has_news() {
            let here = core();
            for index in &self.active {
                if let Some(entry) = self.entry_ref(*index) {
                    entry.lane.set_awake(here);
                }
            }
            return true;
        }
        while !self.active.is_empty() {
            self.deactivate(0);
        }
        false
    }

    /// Looks at the sockets now and then although there is work, and adapts how often.
    fn look_around(&mut self) -> Result<()> {
        if let Some(looked) = self.looked {
            let elapsed = (looked.elapsed().as_nanos() as u64).max(1);
            let turns = u64::from(self.turns) * LOOK_UP / elapsed;
            self.turns_per_look = turns.clamp(1, 256) as u32;
        }
        self.gather(Some(Duration::ZERO))?;
        self.looked = Some(Instant::now());
        let here = core();
        for index in &self.active {
            if let Some(entry) = self.entry_ref(*index) {
                entry.lane.update_awake(here);
            }
        }
        Ok(())
    }

    /// Waits for news from the sockets and bells, and acts on it.
    fn gather(&mut self, timeout: Option<Duration>) -> Result<()> {
        self.turns = 0;
        let mut events = std::mem::take(&mut self.events);
        let waited = self.poll.wait(&mut events, timeout).map(|_| ());
        self.looked = None;
        if self.paused {
            self.pause(false);
        }
        for event in &events {
            match event.token {
                LISTENER => self.accept(),
                STOP => {}
                TIMER => {
                    self.timer_is_set = false;
                    self.trim();
                }
                token => {
                    let index = ((token - CLIENTS) / 2) as usize;
                    if (token - CLIENTS).is_multiple_of(2) {
                        self.activate(index)
                    } else {
                        self.hear(index, event.hung_up)
                    }
                }
            }
        }
        self.events = events;
        waited.map_err(|source| Error::Os {
            service: self.name.clone(),
            doing: "wait for messages",
            source,
        })
    }

    fn accept(&mut self) {
        // Some at a time, so that those who are served are not kept waiting.
        for _ in 0..16 {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok(socket) => {
                    if socket.ask_for_credentials(true).is_ok() {
                        let index = self.vacant.pop().unwrap_or_else(|| {
                            self.clients.push(None);
                            self.clients.len() - 1
                        });
                        self.greet(index, socket, true);
                    }
                }
                Err(error) => {
                    let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
                    if error.raw_os_error().is_some_and(|code| exhausted.contains(&code)) {
                        // They wait in the queue, and we do not spin.
                        self.pause(true);
                    }
                    return;
                }
            }
        }
    }

    fn pause(&mut self, pause: bool) {
        if let Some(listener) = &self.listener {
            let _ = self.poll.enable(listener, LISTENER, !pause);
        }
        self.paused = pause;
        if pause {
            self.timer_is_set = true;
            self.timer.set(PAUSE);
        }
    }

    /// Meets a connection that may have said hello.
    fn greet(&mut self, index: usize, socket: Socket, new: bool) {
        let token = CLIENTS + 2 * index as u64;
        match Lane::accept(&self.name, socket) {
            Ok((lane, inbox, bell)) => {
                let Some(peer) = lane.peer().cloned() else { return self.vacate(index) };
                let polled = self.poll.add_bell(&bell, token).is_ok()
                    && (!new || self.poll.add(lane.socket(), token + 1).is_ok());
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
                    id,
                    peer: peer.clone(),
                    active: false,
                    idle_turns: 0,
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
            Err((broken, Some(socket))) if server::is_early(&broken) => {
                if new && self.poll.add(&socket, token + 1).is_err() {
                    return self.vacate(index);
                }
                self.clients[index] = Some(Member::Guest(socket));
            }
            Err((broken, _)) => {
                self.blame(&broken);
                self.vacate(index);
            }
        }
    }

    fn vacate(&mut self, index: usize) {
        self.clients[index] = None;
        self.vacant.push(index);
    }

    fn blame(&mut self, broken: &Broken) {
        match broken {
            Broken::Malformed(_) => self.stats.malformed += 1,
            Broken::Version(_) => self.stats.version += 1,
            Broken::Busy | Broken::Os(_) => self.stats.busy += 1,
            Broken::Gone => {}
        }
    }

    /// A client's socket has news.
    fn hear(&mut self, index: usize, hung_up: bool) {
        match self.clients.get_mut(index) {
            Some(member @ Some(Member::Guest(_))) => {
                if let Some(Member::Guest(socket)) = member.take() {
                    self.greet(index, socket, false);
                }
            }
            Some(Some(Member::Client(entry))) => {
                // The event may be about a client that had this place before.
                let end = entry.lane.drain();
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
    fn bury(&mut self, index: usize) {
        let Some(entry) = self.entry(index) else { return };
        entry.lane.die();
        let most = entry.lane.leftovers();
        let (_, end) = self.serve(index, most);
        if let Err(broken) = end {
            self.blame(&broken);
        }
        self.remove(index);
    }

    /// A client broke the protocol: it loses its lane, and nothing else happens.
    fn expel(&mut self, index: usize, broken: Broken) {
        if matches!(broken, Broken::Gone) {
            return self.bury(index);
        }
        self.blame(&broken);
        if let Some(entry) = self.entry(index) {
            entry.lane.expel();
        }
        self.remove(index);
    }

    fn remove(&mut self, index: usize) {
        let Some(Some(Member::Client(entry))) = self.clients.get_mut(index).map(Option::take)
        else {
            return;
        };
        let _ = self.poll.remove(entry.lane.socket());
        let gone = Client { id: entry.id, peer: entry.peer.clone() };
        // Before anybody is told that it is gone.
        drop(entry);
        self.active.retain(|i| *i != index);
        self.used.retain(|i| *i != index);
        self.vacant.push(index);
        self.stats.clients -= 1;
        self.count();
        if let Some(notice) = &mut self.on_client {
            notice(ClientEvent::Gone(gone));
        }
    }

    fn count(&self) {
        if let Some(claim) = &*lock(&self.shared.claim) {
            claim.set_connections(self.stats.clients);
        }
    }

    fn activate(&mut self, index: usize) {
        let Some(entry) = self.entry(index) else { return };
        if entry.active {
            return;
        }
        entry.active = true;
        entry.idle_turns = 0;
        entry.lane.set_awake(core());
        self.active.push(index);
    }

    /// Takes a lane out of the polled ones; it was set asleep before.
    fn deactivate(&mut self, at: usize) {
        let index = self.active.swap_remove(at);
        let Some(entry) = self.entry(index) else { return };
        entry.active = false;
        entry.last = coarse();
        if !entry.used {
            entry.used = true;
            self.used.push(index);
        }
        self.set_timer();
    }

    /// Gives back what lanes hold that have been idle for a while.
    fn trim(&mut self) {
        if self.used.is_empty() {
            return;
        }
        let now = coarse();
        let mut used = std::mem::take(&mut self.used);
        used.retain(|index| {
            let Some(entry) = self.entry(*index) else { return false };
            if entry.active || now < entry.last + TRIM - 10 {
                return true;
            }
            entry.used = false;
            entry.lane.trim();
            false
        });
        self.used = used;
        if self.used.is_empty() && self.active.is_empty() {
            buffer::trim();
        }
        self.set_timer();
    }

    /// Has the timer fire when the lanes that were used may have been idle for long enough.
    fn set_timer(&mut self) {
        if !self.timer_is_set && !self.used.is_empty() {
            self.timer_is_set = true;
            self.timer.set(Duration::from_millis(TRIM));
        }
    }

    /// Takes nothing more: frees the name, and tells every client what was not taken.
    fn close(&mut self) {
        drop(lock(&self.shared.claim).take());
        if let Some(listener) = self.listener.take() {
            let _ = self.poll.remove(&listener);
        }
        for member in self.clients.drain(..).flatten() {
            if let Member::Client(entry) = member {
                // The socket ends with the last request that is kept for a later answer.
                entry.lane.close(&entry.inbox);
                let _ = self.poll.remove(entry.lane.socket());
            }
        }
        self.active.clear();
        self.used.clear();
        self.vacant.clear();
        self.stats.clients = 0;
        deadlock::forget(self.number);
    }

    fn entry(&mut self, index: usize) -> Option<&mut Entry> {
        match self.clients.get_mut(index) {
            Some(Some(Member::Client(entry))) => Some(entry),
            _ => None,
        }
    }

    #[inline]
    fn entry_ref(&self, index: usize) -> Option<&Entry> {
        match self.clients.get(index) {
            Some(Some(Member::Client(entry))) => Some(entry),
            _ => None,
        }
    }
}

impl AsFd for Service {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.as_fd()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.epoch == fork::epoch() {
            self.shared.stop.store(true, Ordering::Relaxed);
            self.close();
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// A thread is in the service's loop until this is dropped.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        *lock(&self.0.running) = None;
        self.0.ended.notify_all();
    }
}

impl StopHandle {
    /// Stops the service: the name is free at once; the message whose handler runs is finished, and
    /// requests that are kept may still be answered; every other call learns that it was not
    /// delivered.
    ///
    /// Returns when the service's loop has ended, or at once when called from within its handler or
    /// while no thread is in [`Service::run`] or [`Service::dispatch`]; then the clients are told by
    /// the next of those calls, or when the service is dropped.
    pub fn stop(&self) {
        if self.shared.epoch != fork::epoch() {
            return;
        }
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.claim).take());
        self.shared.bell.ring();
        let me = thread::current().id();
        let mut running = lock(&self.shared.running);
        while running.is_some_and(|thread| thread != me) {
            running = self.shared.ended.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopHandle").finish_non_exhaustive()
    }
}
