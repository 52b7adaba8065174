//! The choices a service starts with, and the start itself.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::handover::take_over;
use super::leave::Leaving;
use super::relief::Relief;
use super::threads::{Team, TeamHandler, Threads};
use super::{ClientEvent, Handler, LISTENER, OnClient, STOP, Service, Shared, Stats, TIMER};
use crate::registry::{Claim, file_name};
use crate::sys::{Bell, Poll, Timer, fork, inherited};
use crate::wait::{Clock, Patience};
use crate::{Deadline, Error, Registry, Request, Result, ServiceName, Wait};

/// Chooses how a [`Service`] behaves.
pub struct ServiceBuilder {
    name: Result<ServiceName>,
    registry: Option<Registry>,
    wait: Wait,
    mode: u32,
    on_client: Option<OnClient>,
    unlocked: bool,
    maps_introduced: bool,
    idle: Option<Duration>,
}

/// Where the name comes from.
pub(super) enum Start {
    New,
    CheckIn,
    TakeOver(Clock),
}

impl ServiceBuilder {
    pub(super) fn new(name: impl AsRef<[u8]>) -> ServiceBuilder {
        ServiceBuilder {
            name: ServiceName::new(name),
            registry: None,
            wait: Wait::default(),
            mode: 0o600,
            on_client: None,
            unlocked: false,
            maps_introduced: false,
            idle: None,
        }
    }

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

    /// Unlocks the name: programs that cannot see the registry, as in a sandbox, may reach the service
    /// through rocketd, as far as its policy lets them. The service asks every rocketd that it can
    /// see, and asks again when one comes or comes back; without one it serves all the same.
    pub fn unlocked(mut self) -> ServiceBuilder {
        self.unlocked = true;
        self
    }

    /// Reads the large payloads of clients that came through rocketd in place, as those of all other
    /// clients of the service's own user are. Unless this is called they are read through the kernel,
    /// a copy more.
    pub fn map_introduced(mut self) -> ServiceBuilder {
        self.maps_introduced = true;
        self
    }

    /// Has [`run`](Service::run) return, well, when the service has had nothing to do for this long: no
    /// message has come, and no request was kept. Clients that are connected but silent do not keep
    /// it; when they send again they look the name up anew. It may be twice the time if a request was
    /// kept last. No message is lost: one that comes at the last moment is handled, or goes to the next
    /// service of the name.
    ///
    /// A service that was started on demand ([`check_in`](ServiceBuilder::check_in)) is told how long by
    /// whoever starts it, in the variable `LIGHTMESSAGING_IDLE_EXIT`, in seconds, unless it calls
    /// this. In a [`RunLoop`](crate::RunLoop) it leaves the loop.
    pub fn exit_when_idle(mut self, time: Duration) -> ServiceBuilder {
        self.idle = Some(time);
        self
    }

    /// Starts the service; see [`Service::start`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start(self, handler: impl FnMut(Request) + Send + 'static) -> Result<Service> {
        self.build(Box::new(handler), Start::New, None)
    }

    /// Takes over a name that existed before this process did: the socket that the process's
    /// starter listened on and handed over (`LISTEN_FDS`, `sd_listen_fds(3)`), under this name
    /// (`LISTEN_FDNAMES`) or bound to its file in the registry. What was sent meanwhile is
    /// delivered. The name stays when the service stops. Without such a socket, this is
    /// [`start`](ServiceBuilder::start).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check_in(self, handler: impl FnMut(Request) + Send + 'static) -> Result<Service> {
        self.build(Box::new(handler), Start::CheckIn, None)
    }

    /// Starts the service, and takes the name over from a running instance of this user if there is
    /// one, so that it can be replaced by a newer one while it is in use. Waits for that one until the
    /// deadline; it answers between two messages.
    ///
    /// There is no moment in which the name is free, and nothing is lost: those who connect wait for
    /// the new instance, and a name that was unlocked stays so; what was sent to the old one it handles, in order, before its
    /// [`run`](Service::run) returns; what a client sends then goes to the new one, after that. The
    /// old one still answers the requests that it has kept. The file of the socket keeps its
    /// [mode](ServiceBuilder::mode).
    ///
    /// # Errors
    ///
    /// Those of [`Service::start`]; [`Error::Denied`] if the running instance is another user's, or
    /// was started on demand; [`Error::TimedOut`] if it does not answer: then it serves on, even if it
    /// hears of this later; [`Error::NameInUse`] if the name is held but not listened to for all that
    /// time; [`Error::WouldDeadlock`] if the calling thread runs it.
    pub fn take_over(
        self,
        deadline: impl Into<Deadline>,
        handler: impl FnMut(Request) + Send + 'static,
    ) -> Result<Service> {
        self.build(Box::new(handler), Start::TakeOver(Clock::new(deadline.into())), None)
    }

    /// Has the handler run on so many threads at once, 1 to 256, so that one that takes long delays
    /// nobody else. The last choice: what follows is the start.
    pub fn threads(self, count: usize) -> Threads {
        Threads::new(self, count)
    }

    pub(super) fn build(
        self,
        handler: Handler,
        start: Start,
        team: Option<(usize, TeamHandler)>,
    ) -> Result<Service> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let name = self.name?;
        let os = |source| Error::Os { service: name.clone(), doing: "start", source };
        let registry = self.registry.unwrap_or_else(Registry::from_env);
        let poll = Arc::new(Poll::new().map_err(os)?);
        let bell = Bell::new().map_err(os)?;
        poll.add_bell(&bell, STOP).map_err(os)?;
        let timer = Timer::new().map_err(os)?;
        poll.add_timer(&timer, TIMER).map_err(os)?;
        let team = team.map(|(count, handler)| Team::new(count, handler, &poll));
        let team = team.transpose().map_err(os)?;
        // A new bell counts as rung once: a service that has nothing to do is not readable.
        poll.wait(&mut Vec::new(), Some(Duration::ZERO)).map_err(os)?;
        let inherited = || inherited::take(name.as_bytes(), &file_name(&name));
        let is_check_in = matches!(start, Start::CheckIn);
        let (claim, listener, inherited) = match is_check_in.then(inherited).flatten() {
            Some((listener, taken)) => {
                // The name is not ours: only those who list services miss it if this fails.
                let claim = registry.open(&name, true).ok().and_then(|f| f.check_in(&name));
                (claim, listener, Some(taken))
            }
            // Last, so that a start which fails leaves no name behind.
            None => {
                let (claim, listener) = match &start {
                    Start::TakeOver(clock) => take_over(&registry, &name, self.mode, clock)?,
                    _ => registry.open(&name, true)?.claim(&name, self.mode)?,
                };
                (Some(claim), listener, None)
            }
        };
        listener.pass_credentials().map_err(os)?;
        let watched = match &team {
            Some(_) => poll.add_once(&listener, LISTENER),
            None => poll.add(&listener, LISTENER),
        };
        watched.map_err(os)?;
        let epoch = fork::epoch();
        let on_demand = inherited.is_some();
        let unlocked = self.unlocked || claim.as_ref().is_some_and(Claim::was_unlocked);
        let mut service = Service {
            registry,
            handler,
            team: team.map(Arc::new),
            cursor: 0,
            relief: Relief::new(),
            on_client: self.on_client,
            poll,
            events: Vec::new(),
            listener: Some(listener),
            inherited,
            paused: false,
            clients: Vec::new(),
            vacant: Vec::new(),
            active: Vec::new(),
            used: Vec::new(),
            ids: 0,
            patience: Patience::new(self.wait),
            look_after: 64,
            steps: 0,
            looked: None,
            timer,
            alarm: None,
            heir: None,
            leaving: Leaving::Not,
            handed_over: false,
            rest: None,
            unlocked: false,
            rockets: None,
            maps_introduced: self.maps_introduced,
            stats: Stats::default(),
            shared: Arc::new(Shared {
                stop: AtomicBool::new(false),
                bell,
                claim: Mutex::new(claim),
                running: Mutex::default(),
                ended: Condvar::new(),
                epoch,
            }),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            epoch,
            name,
        };
        if unlocked {
            service.unlock(true);
        }
        if let Some(time) = self.idle.or_else(|| on_demand.then(idle_from_env).flatten()) {
            service.leave_when_idle(time);
        }
        Ok(service)
    }
}

/// What whoever starts services on demand says. It is not for a service that it did not start, and
/// would not start again.
fn idle_from_env() -> Option<Duration> {
    let seconds = std::env::var("LIGHTMESSAGING_IDLE_EXIT").ok()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

impl fmt::Debug for ServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}
