//! Services that are started on demand: rocketd listens under their names, and hands the socket to a
//! process that it starts when somebody comes. What was sent meanwhile waits in the socket.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use lightmessaging::rocketd::{
    Adoption, Fd, Listener, Poll, forget, is_exhausted, keep, listen, refuse_start, socket_file,
};
use lightmessaging::{Error, Registry, ServiceName};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags};
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::service_file::ServiceFile;

/// The first descriptor that a service is handed, `SD_LISTEN_FDS_START`.
const FIRST: i32 = 3;
/// How long to leave those alone who cannot be let in.
const SHORT_OF_DESCRIPTORS: Duration = Duration::from_millis(10);
/// Whoever ends well sooner than this, and leaves somebody waiting, has not served anybody.
const SERVED: Duration = Duration::from_secs(1);

/// All of them.
#[derive(Debug)]
pub(crate) struct Demand {
    services: Vec<Option<OnDemand>>,
    registry: Registry,
    /// This program and the arguments that lead to its own command line.
    starter: Vec<OsString>,
    /// Where the epoll's numbers for these begin: two each.
    first_token: u64,
}

#[derive(Debug)]
struct OnDemand {
    name: ServiceName,
    file: ServiceFile,
    backoff: Backoff,
    state: State,
    /// It was said that somebody else has the name.
    is_said: bool,
}

#[derive(Debug)]
enum State {
    /// Somebody else has the name: tried again when the registry changes.
    Taken,
    /// It may be one that has outlived the rocketd that started it: it was asked.
    Asked(Adoption),
    Waiting(Own),
    Running(Own, Process),
}

/// The socket that we listen on.
#[derive(Debug)]
struct Own {
    listener: Listener,
    /// The same, to be told from others of its name.
    file: Option<OwnedFd>,
    /// Says that we do.
    _kept: Option<Fd>,
}

#[derive(Debug)]
struct Process {
    pid: u32,
    pidfd: OwnedFd,
    /// Ours to wait for; else it was started by a rocketd that is no more.
    child: Option<Child>,
    started: Instant,
}

impl Own {
    fn new(listener: Listener, kept: Option<Fd>, registry: &Registry, name: &ServiceName) -> Own {
        Own { listener, file: socket_file(registry, name), _kept: kept }
    }
}

/// What those who list names are told.
pub(crate) struct Listed<'a> {
    pub(crate) name: &'a ServiceName,
    pub(crate) pid: u32,
    pub(crate) is_unlocked: bool,
    pub(crate) command: String,
}

impl Demand {
    pub(crate) fn new(registry: Registry, starter: Vec<OsString>, first_token: u64) -> Demand {
        Demand { services: Vec::new(), registry, starter, first_token }
    }

    /// Takes over what the service files say now.
    pub(crate) fn update(&mut self, files: Vec<ServiceFile>, poll: &Poll) {
        let mut files: Vec<Option<ServiceFile>> = files.into_iter().map(Some).collect();
        for at in 0..self.services.len() {
            let Some(service) = &mut self.services[at] else { continue };
            let its = |file: &Option<ServiceFile>| {
                file.as_ref().is_some_and(|file| file.name == service.name.as_bytes())
            };
            match files.iter().position(its).and_then(|found| files[found].take()) {
                Some(file) if file == service.file => {}
                Some(file) => {
                    // Mended, perhaps.
                    service.backoff = Backoff::default();
                    service.file = file;
                }
                None => self.remove(at, poll),
            }
        }
        for file in files.into_iter().flatten() {
            let Ok(name) = ServiceName::new(&file.name) else { continue };
            let (backoff, state) = (Backoff::default(), State::Taken);
            let service = OnDemand { name, file, backoff, state, is_said: false };
            let vacant = self.services.iter().position(Option::is_none);
            let at = vacant.unwrap_or_else(|| {
                self.services.push(None);
                self.services.len() - 1
            });
            self.services[at] = Some(service);
            self.open(at, poll, true);
        }
    }

    /// The registry has changed: names that somebody else had may be free.
    pub(crate) fn retry(&mut self, poll: &Poll) {
        for at in 0..self.services.len() {
            if matches!(&self.services[at], Some(OnDemand { state: State::Taken, .. })) {
                self.open(at, poll, false);
            }
        }
    }

    /// Listens under a name.
    fn open(&mut self, at: usize, poll: &Poll, first: bool) {
        let Some(service) = &mut self.services[at] else { return };
        let name = &service.name;
        service.state = match listen(&self.registry, name) {
            Ok((listener, kept)) => State::Waiting(Own::new(listener, kept, &self.registry, name)),
            Err(Error::NameInUse { .. }) => match Adoption::begin(&self.registry, name) {
                Ok(adoption) => State::Asked(adoption),
                Err(_) => State::Taken,
            },
            Err(error) => {
                if first {
                    warn!("{name} cannot be started on demand: {error}");
                }
                State::Taken
            }
        };
        self.watch(at, poll);
    }

    /// Whoever has the name has answered.
    fn adopt(&mut self, at: usize, poll: &Poll) {
        let Some(service) = &mut self.services[at] else { return };
        let State::Asked(adoption) = &service.state else { return };
        let name = &service.name;
        let answer = adoption.hear(name);
        if let Ok(None) = answer {
            return;
        }
        let _ = poll.remove(adoption);
        service.state = State::Taken;
        match answer {
            Ok(Some(orphan)) => {
                let (pid, pidfd) = (orphan.pid, orphan.pidfd.or_else(|| open_pid(orphan.pid)));
                let Some(pidfd) = pidfd else { return };
                info!("{name} runs already, process {pid}");
                let process = Process { pid, pidfd, child: None, started: Instant::now() };
                let kept = keep(&self.registry, name);
                let own = Own::new(orphan.listener, kept, &self.registry, name);
                service.state = State::Running(own, process);
                self.watch(at, poll);
            }
            Err(Error::Denied { .. }) => {
                if !std::mem::replace(&mut service.is_said, true) {
                    info!("{name} is not started on demand while somebody else has the name");
                }
            }
            // It has gone meanwhile; or it does not answer as a service does, and is not asked again.
            _ => {
                if let Ok((listener, kept)) = listen(&self.registry, name) {
                    service.state = State::Waiting(Own::new(listener, kept, &self.registry, name));
                    self.watch(at, poll);
                }
            }
        }
    }

    /// Waits for what its state has to wait for.
    fn watch(&self, at: usize, poll: &Poll) {
        let token = self.first_token + 2 * at as u64;
        let watched = match self.services[at].as_ref().map(|service| &service.state) {
            Some(State::Asked(adoption)) => poll.add(adoption, token),
            Some(State::Waiting(own)) => poll.add(&own.listener, token),
            Some(State::Running(_, process)) => poll.add(&process.pidfd, token + 1),
            _ => Ok(()),
        };
        if let Err(error) = watched {
            warn!("a service cannot be watched: {error}");
        }
    }

    /// A service file is gone.
    fn remove(&mut self, at: usize, poll: &Poll) {
        let Some(service) = self.services[at].take() else { return };
        match service.state {
            State::Taken => {}
            State::Asked(adoption) => drop(poll.remove(&adoption)),
            State::Waiting(own) => {
                let _ = poll.remove(&own.listener);
                if let Some(file) = &own.file {
                    forget(&self.registry, &service.name, file);
                }
            }
            State::Running(_, process) => {
                let _ = poll.remove(&process.pidfd);
                info!(
                    "{} runs on, process {}, and is not started again",
                    service.name, process.pid
                );
            }
        }
    }

    /// rocketd ends: names of services that do not run lead nowhere any more.
    pub(crate) fn close(&mut self, poll: &Poll) {
        for at in 0..self.services.len() {
            self.remove(at, poll);
        }
    }

    /// Something was reported under a number of ours.
    pub(crate) fn hear(&mut self, token: u64, poll: &Poll) {
        let at = ((token - self.first_token) / 2) as usize;
        let Some(Some(service)) = self.services.get_mut(at) else { return };
        match &service.state {
            State::Waiting(_) => {
                let until = service.backoff.wait_until();
                if until.is_some_and(|until| until > Instant::now()) || !self.start(at, poll) {
                    self.turn_away(at);
                }
            }
            State::Running(..) => self.ended(at, poll),
            State::Asked(_) => self.adopt(at, poll),
            State::Taken => {}
        }
    }

    fn start(&mut self, at: usize, poll: &Poll) -> bool {
        let Some(service) = &mut self.services[at] else { return false };
        let State::Waiting(own) = &service.state else { return false };
        let now = Instant::now();
        match spawn(&self.starter, &service.file, &self.registry, own) {
            Ok(process) => {
                info!("{} was started, process {}", service.name, process.pid);
                service.backoff.started(now);
                let _ = poll.remove(&own.listener);
                if let State::Waiting(own) = std::mem::replace(&mut service.state, State::Taken) {
                    service.state = State::Running(own, process);
                }
                self.watch(at, poll);
                true
            }
            Err(error) => {
                warn!("{} could not be started: {error}", service.name);
                service.backoff.failed(now);
                false
            }
        }
    }

    /// Its process has ended.
    fn ended(&mut self, at: usize, poll: &Poll) {
        let Some(service) = &mut self.services[at] else { return };
        let State::Running(own, mut process) = std::mem::replace(&mut service.state, State::Taken)
        else {
            return;
        };
        let _ = poll.remove(&process.pidfd);
        let (success, how) = match process.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => (status.success(), status.to_string()),
            _ => (true, "it was another rocketd's".to_owned()),
        };
        let mut fds = [PollFd::new(&own.listener, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let is_awaited = rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0);
        // One that was told to end so soon when idle has waited for that long.
        let served = service.file.idle_exit.map_or(SERVED, |idle| idle.min(SERVED));
        let had_served = !is_awaited || process.started.elapsed() >= served;
        service.backoff.ended(Instant::now(), success, had_served);
        let name = &service.name;
        match service.backoff.wait_until() {
            None => info!("{name} has ended ({how})"),
            Some(until) => {
                let pause = until.saturating_duration_since(Instant::now()).as_secs_f64();
                warn!("{name} has failed ({how}); it is not started again for {pause:.1} s");
            }
        }
        service.state = State::Waiting(own);
        self.watch(at, poll);
    }

    /// Tells those who have come in vain.
    fn turn_away(&self, at: usize) {
        let Some(Some(OnDemand { state: State::Waiting(own), .. })) = self.services.get(at) else {
            return;
        };
        // Some at a time; the others are reported again.
        for _ in 0..64 {
            match own.listener.accept() {
                Ok(socket) => drop(refuse_start(&socket)),
                // There is no descriptor for them, and they would be reported at once.
                Err(error) if is_exhausted(&error) => {
                    return std::thread::sleep(SHORT_OF_DESCRIPTORS);
                }
                Err(_) => return,
            }
        }
    }

    /// The socket of an unlocked name.
    pub(crate) fn unlocked(&self, name: &ServiceName) -> Option<OwnedFd> {
        let service = self.services.iter().flatten().find(|service| service.name == *name)?;
        service.file.unlocked.then(|| socket_file(&self.registry, name)).flatten()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Listed<'_>> {
        self.services.iter().flatten().map(|service| Listed {
            name: &service.name,
            pid: match &service.state {
                State::Running(_, process) => process.pid,
                _ => 0,
            },
            is_unlocked: service.file.unlocked,
            command: service.file.command.join(" "),
        })
    }
}

fn open_pid(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(pid.try_into().ok()?)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Starts a service's process, with its socket.
fn spawn(
    starter: &[OsString],
    file: &ServiceFile,
    registry: &Registry,
    own: &Own,
) -> io::Result<Process> {
    // The program that runs, even if its file was replaced since.
    let mut command = Command::new("/proc/self/exe");
    command.args(starter).arg("--become-service").args(&file.command);
    command.stdin(Stdio::null()).process_group(0);
    command.env("LIGHTMESSAGING_DIR", registry.path());
    // Ours is the only one that this registry was given.
    command.envs(registry.rocketds().first().map(|socket| ("LIGHTMESSAGING_ROCKETD", socket)));
    if let Some(idle) = file.idle_exit {
        command.env("LIGHTMESSAGING_IDLE_EXIT", idle.as_secs_f64().to_string());
    }
    for key in ["LISTEN_PIDFDID", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(key);
    }
    command.envs(&file.environment);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", std::ffi::OsStr::from_bytes(&file.name));
    let parent_fd = own.listener.as_fd().try_clone_to_owned()?;
    command
        .fd_mappings(vec![FdMapping { parent_fd, child_fd: FIRST }])
        .map_err(io::Error::other)?;
    let mut child = command.spawn()?;
    let pid = child.id();
    match open_pid(pid) {
        Some(pidfd) => Ok(Process { pid, pidfd, child: Some(child), started: Instant::now() }),
        None => {
            let _ = child.kill();
            let _ = child.wait();
            Err(io::Error::other("its process cannot be watched"))
        }
    }
}
