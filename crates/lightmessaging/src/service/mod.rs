//! The server's front door: a name, a handler, and one loop.
//!
//! The loop sleeps in one epoll. Lanes that were active lately are polled, a few messages each in
//! turn; all others ring their bells. It never scans all of its clients. The loop is in `turns`,
//! clients coming and going in `clients`, what idle ones give back in `idle`, ends that lose nothing
//! in `leave`, several services on one thread in `run_loop`, and one over several threads in `threads`.

mod announce;
mod builder;
mod clients;
mod ending;
mod guests;
mod handover;
mod idle;
mod leave;
mod relief;
mod run_loop;
mod stop;
mod taking;
mod threads;
mod turns;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub use builder::ServiceBuilder;
pub use clients::{Client, ClientEvent};
pub use run_loop::{Ended, RunLoop, RunLoopHandle};
pub use stop::StopHandle;
pub use threads::Threads;

use crate::lane::lock;
use crate::rocket::Rockets;
use crate::sys::{Event, Listener, Poll, Timer, fork, inherited};
use crate::wait::Patience;
use crate::{ClientId, Error, Registry, Request, Result, ServiceName, deadlock};
use clients::Member;
use leave::{Leaving, Rest};
use relief::Relief;
use stop::{Running, Shared};
use threads::Team;

// What the loop's epoll calls its sources; a client has two numbers, its bell's and its socket's.
const LISTENER: u64 = 0;
const STOP: u64 = 1;
const TIMER: u64 = 2;
/// Wakes a thread of several; see `relief`.
const TEAM: u64 = 3;
const ROCKETS: u64 = 4;
const CLIENTS: u64 = ROCKETS + Rockets::TOKENS;

type Handler = Box<dyn FnMut(Request) + Send>;
type OnClient = Box<dyn FnMut(ClientEvent) + Send>;

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
    /// It is one over several threads.
    team: Option<Arc<Team>>,
    /// Which of `active` is the next to have its turn.
    cursor: usize,
    relief: Relief,
    on_client: Option<OnClient>,
    poll: Arc<Poll>,
    events: Vec<Event>,
    listener: Option<Listener>,
    /// The listener is one that the process was started with.
    inherited: Option<inherited::Taken>,
    /// Accepting failed for want of descriptors: tried again later.
    paused: bool,
    clients: Vec<Option<Member>>,
    vacant: Vec<usize>,
    /// The lanes that are polled.
    active: Vec<usize>,
    /// Lanes that were active and have not been trimmed since.
    used: Vec<(usize, ClientId)>,
    ids: u64,
    patience: Patience,
    /// Messages, or turns without one, between two looks at the sockets, adapted to the time that
    /// they take.
    look_after: u64,
    steps: u64,
    looked: Option<Instant>,
    /// Fires when there may be memory to give back, a descriptor again, or nothing left to do.
    timer: Timer,
    /// When it will, in milliseconds of the coarse clock.
    alarm: Option<u64>,
    /// Where the one is to whom the name was offered.
    heir: Option<usize>,
    leaving: Leaving,
    handed_over: bool,
    /// It leaves when it has had nothing to do for a while.
    rest: Option<Rest>,
    /// It wants its name to be found through rocketd.
    unlocked: bool,
    /// Those that were asked for that.
    rockets: Option<Rockets>,
    /// Large payloads of clients that came through rocketd are mapped as those of others are.
    maps_introduced: bool,
    stats: Stats,
    shared: Arc<Shared>,
    number: u64,
    epoch: u64,
}

impl Service {
    /// Takes a name and starts a service under it. Messages queue from now on; the handler gets
    /// them in [`run`](Service::run) or [`dispatch`](Service::dispatch), on the thread that calls
    /// those, one at a time; several at a time with [`ServiceBuilder::threads`].
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
        ServiceBuilder::new(name)
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

    /// Whether another instance has [taken the name over](ServiceBuilder::take_over): it is why
    /// [`run`](Service::run) has returned.
    pub fn was_handed_over(&self) -> bool {
        self.handed_over
    }

    /// Serves on the calling thread, or on [several](ServiceBuilder::threads), until the service is
    /// stopped, has handed its name over, or has been [idle for long
    /// enough](ServiceBuilder::exit_when_idle).
    ///
    /// In the last two cases nothing is lost: everything that was sent to it was handled, and this
    /// returns once all requests that were kept are answered or dropped. Until then
    /// [`StopHandle::stop`] ends the wait.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] if the system refuses to let it wait.
    pub fn run(&mut self) -> Result<()> {
        let _running = self.enter()?;
        if let Some(team) = self.team.clone() {
            return self.run_together(team);
        }
        while !self.is_stopped() {
            let handled = self.turn();
            if handled == 0 && !self.spin(|| false) {
                self.sleep(None)?;
                continue;
            }
            self.look_around_in_time(handled)?;
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
        self.dispatch_some()
    }

    fn dispatch_some(&mut self) -> Result<usize> {
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
        self.run_here()?;
        Ok(self.running())
    }

    /// Takes note that the calling thread runs the service.
    fn run_here(&self) -> Result<()> {
        if self.epoch != fork::epoch() {
            let source = std::io::Error::other("it belongs to the process that forked this one");
            return Err(Error::Os { service: self.name.clone(), doing: "serve", source });
        }
        // One that has left answers nobody, and another may have the name.
        if self.listener.is_some() {
            deadlock::run_here(&self.registry, &self.name, self.number);
        }
        Ok(())
    }

    /// The calling thread is in the service's loop until this is dropped; whoever stops the service
    /// waits for that.
    fn running(&self) -> Running {
        Running::new(&self.shared)
    }

    /// Takes nothing more: frees the name, and tells every client what was not taken. A client whose message
    /// is in a handler of another thread is told by the one who closes the service after that has returned,
    /// so that what it sends to the next service is not handled before.
    fn close(&mut self) {
        self.unlock(false);
        drop(lock(&self.shared.claim).take());
        if let Some(listener) = self.listener.take() {
            let _ = self.poll.remove(&listener);
        }
        self.inherited = None;
        let free = self.entries().filter(|entry| !entry.taken);
        free.for_each(|entry| entry.lane.close(&entry.inbox));
        self.forget_clients();
    }

    /// Forgets all but those who are taken.
    fn forget_clients(&mut self) {
        for member in &mut self.clients {
            match member {
                Some(Member::Client(entry)) if entry.taken => continue,
                // The socket ends with the last request that is kept for a later answer.
                Some(Member::Client(entry)) => drop(self.poll.remove(entry.lane.socket())),
                _ => {}
            }
            *member = None;
        }
        self.active.clear();
        self.used.clear();
        self.vacant.clear();
        self.stats.clients = self.entries().count();
        deadlock::forget(self.number);
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
