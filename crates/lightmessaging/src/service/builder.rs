//! The choices a service starts with, and the start itself.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{ClientEvent, Handler, LISTENER, OnClient, STOP, Service, Shared, Stats, TIMER};
use crate::registry::file_name;
use crate::sys::{Bell, Poll, Timer, fork, inherited};
use crate::wait::Patience;
use crate::{Error, Registry, Request, Result, ServiceName, Wait};

/// Chooses how a [`Service`] behaves.
pub struct ServiceBuilder {
    name: Result<ServiceName>,
    registry: Option<Registry>,
    wait: Wait,
    mode: u32,
    on_client: Option<OnClient>,
}

impl ServiceBuilder {
    pub(super) fn new(name: impl AsRef<[u8]>) -> ServiceBuilder {
        ServiceBuilder {
            name: ServiceName::new(name),
            registry: None,
            wait: Wait::default(),
            mode: 0o600,
            on_client: None,
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

    /// Starts the service; see [`Service::start`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start(self, handler: impl FnMut(Request) + Send + 'static) -> Result<Service> {
        self.build(Box::new(handler), false)
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
        self.build(Box::new(handler), true)
    }

    fn build(self, handler: Handler, check_in: bool) -> Result<Service> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let name = self.name?;
        let os = |source| Error::Os { service: name.clone(), doing: "start", source };
        let registry = self.registry.unwrap_or_else(Registry::from_env);
        let poll = Arc::new(Poll::new().map_err(os)?);
        let bell = Bell::new().map_err(os)?;
        poll.add_bell(&bell, STOP).map_err(os)?;
        let timer = Timer::new().map_err(os)?;
        poll.add_timer(&timer, TIMER).map_err(os)?;
        // A new bell counts as rung once: a service that has nothing to do is not readable.
        poll.wait(&mut Vec::new(), Some(Duration::ZERO)).map_err(os)?;
        let inherited = || inherited::take(name.as_bytes(), &file_name(&name));
        let (claim, listener, inherited) = match check_in.then(inherited).flatten() {
            Some((listener, taken)) => (None, listener, Some(taken)),
            // Last, so that a start which fails leaves no name behind.
            None => {
                let (claim, listener) = registry.open(&name, true)?.claim(&name, self.mode)?;
                (Some(claim), listener, None)
            }
        };
        listener.pass_credentials().map_err(os)?;
        poll.add(&listener, LISTENER).map_err(os)?;
        let epoch = fork::epoch();
        Ok(Service {
            registry,
            handler,
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
            turns_per_look: 16,
            turns: 0,
            looked: None,
            timer,
            timer_is_set: false,
            stats: Stats::default(),
            shared: Arc::new(Shared {
                stop: AtomicBool::new(false),
                bell,
                claim: Mutex::new(claim),
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
