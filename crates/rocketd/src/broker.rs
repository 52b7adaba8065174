//! The loop: hears what clients and services ask, and does it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lightmessaging::ServiceName;
use lightmessaging::rocketd::{
    Changes, Entry, Event, Listener, No, Poll, Rocket, Socket, introduce, is_exhausted,
};
use rustix::process::{Resource, Rlimit};
use sd_notify::NotifyState;
use tracing::{debug, info, warn};

use crate::Failure;
use crate::asker::Asker;
use crate::demand::Demand;
use crate::names::{Announcement, Names, check_file};
use crate::options::Settings;
use crate::policy::{Policy, Verdict};
use crate::quota::{Client, Ledger};
use crate::service_file;
use crate::signals::Signals;
use crate::socket::{inode, listen};
use crate::talks::{About, Talk, Talks, Waiting};

// What the epoll calls its sources. Of these, each kind has its own numbers from there on.
const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const CONFIG: u64 = 2;
const REGISTRY: u64 = 3;
const TALKS: u64 = 1 << 32;
const LANES: u64 = 2 << 32;
const DEMAND: u64 = 3 << 32;

/// How long a file that was written is left alone before it is read.
const SETTLED: Duration = Duration::from_millis(50);
/// The most names that one user may have unlocked at once.
const NAMES_OF_A_USER: usize = 1024;
/// Names that are listed at once: no more than a socket's queue has room for.
const LISTED: usize = 64;
/// Descriptors for everything but connections to rocketd and the lanes it knows of.
const RESERVED: u64 = 256;

/// A connection that was made through rocketd, until its service says that it has ended.
#[derive(Debug)]
struct Ticket {
    /// Its other end is closed then.
    end: OwnedFd,
    client: Client,
}

#[derive(Debug)]
pub(crate) struct Broker {
    settings: Settings,
    own_uid: u32,
    poll: Poll,
    listener: Listener,
    /// The file that it is bound to.
    inode: Option<(u64, u64)>,
    signals: Signals,
    config: Changes,
    registry: Changes,
    policy: Policy,
    ledger: Ledger,
    talks: Talks,
    names: Names,
    tickets: Vec<Option<Ticket>>,
    vacant: Vec<usize>,
    most_tickets: usize,
    demand: Demand,
    /// Accepting failed for want of descriptors: tried again then.
    paused: Option<Instant>,
    /// A file has changed, and may still be changing: it is read then.
    reload_at: Option<Instant>,
    /// What was wrong with files when they were read last: said once.
    complaints: BTreeSet<String>,
}

impl Broker {
    pub(crate) fn new(settings: Settings, starter: &[&str]) -> Result<Broker, Failure> {
        let os = |what: &'static str| {
            move |error: io::Error| Failure::new(format!("cannot {what}: {error}"))
        };
        let policy = match Policy::load(&settings.policy) {
            Ok(policy) => policy,
            Err(error) if error.is_missing() && !settings.policy_is_named => Policy::default(),
            Err(error) => return Err(Failure::new(error.to_string())),
        };
        let before = rustix::process::getrlimit(Resource::Nofile).current;
        let descriptors = raise_limit();
        let signals = Signals::new().map_err(os("watch for signals"))?;
        let poll = Poll::new().map_err(os("make an epoll"))?;
        let listener = listen(&settings.socket, settings.mode)?;
        poll.add(&listener, LISTENER).map_err(os("wait for clients"))?;
        poll.add(&signals, SIGNALS).map_err(os("watch for signals"))?;
        let config = watch(&poll, CONFIG, settings.folders());
        let config = config.map_err(os("watch the configuration"))?;
        let registry = watch(&poll, REGISTRY, [settings.registry.path()]);
        let registry = registry.map_err(os("watch the registry"))?;
        let mut starter: Vec<OsString> = starter.iter().map(OsString::from).collect();
        starter.extend(before.map(|before| format!("--descriptors={before}").into()));
        let mut broker = Broker {
            own_uid: rustix::process::geteuid().as_raw(),
            inode: inode(&settings.socket),
            demand: Demand::new(settings.registry.clone(), starter, DEMAND),
            // A connection is one descriptor, a lane one, and most are lanes.
            talks: Talks::new((descriptors / 3).min(8192) as usize),
            most_tickets: (descriptors / 3).min(1 << 20) as usize,
            settings,
            poll,
            listener,
            signals,
            config,
            registry,
            policy,
            ledger: Ledger::default(),
            names: Names::default(),
            tickets: Vec::new(),
            vacant: Vec::new(),
            paused: None,
            reload_at: None,
            complaints: BTreeSet::new(),
        };
        broker.load_services();
        Ok(broker)
    }

    /// Serves until SIGINT or SIGTERM.
    pub(crate) fn run(&mut self) -> Result<(), Failure> {
        info!("listening at {}", self.settings.socket.display());
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        let mut events = Vec::new();
        loop {
            let next = [self.talks.next_overdue(), self.paused, self.reload_at];
            let next = next.into_iter().flatten().min();
            let left = next.map(|next| next.saturating_duration_since(Instant::now()));
            self.poll
                .wait(&mut events, left)
                .map_err(|error| Failure::new(format!("cannot wait: {error}")))?;
            for event in &events {
                self.hear(event);
            }
            if self.signals.is_stop() {
                break;
            }
            self.tidy();
        }
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        info!("stopping");
        self.demand.close(&self.poll);
        // Unless another rocketd has put itself in this one's place.
        let now = inode(&self.settings.socket);
        if now.is_some() && now == self.inode {
            let _ = std::fs::remove_file(&self.settings.socket);
        }
        Ok(())
    }

    fn hear(&mut self, event: &Event) {
        match event.token {
            LISTENER => self.accept(),
            SIGNALS => {
                if self.signals.take_reload() {
                    self.reload();
                }
            }
            CONFIG => {
                renew(&self.poll, &mut self.config, CONFIG, self.settings.folders());
                // Whoever goes on writing does not put it off.
                self.reload_at.get_or_insert(Instant::now() + SETTLED);
            }
            REGISTRY => {
                let folder = self.settings.registry.path();
                renew(&self.poll, &mut self.registry, REGISTRY, [folder]);
                self.demand.retry(&self.poll);
                self.serve_waiting(None);
            }
            token if token >= DEMAND => self.demand.hear(token, &self.poll),
            token if token >= LANES => self.close_lane((token - LANES) as usize),
            token => self.listen_to((token - TALKS) as usize),
        }
    }

    /// Reads the policy and the service files again. A broken file changes nothing.
    fn reload(&mut self) {
        let _ = sd_notify::notify(&[
            NotifyState::Reloading,
            NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Reloading),
        ]);
        match Policy::load(&self.settings.policy) {
            Ok(policy) => {
                self.policy = policy;
                debug!("read {}", self.settings.policy.display());
            }
            Err(error) if error.is_missing() => {
                if self.settings.policy_is_named {
                    warn!("{error}; the policy stays as it was");
                } else {
                    self.policy = Policy::default();
                }
            }
            Err(error) => warn!("{error}; the policy stays as it was"),
        }
        self.load_services();
        self.serve_waiting(None);
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    }

    fn load_services(&mut self) {
        let mut files: Vec<service_file::ServiceFile> = Vec::new();
        let mut complaints = BTreeSet::new();
        for folder in &self.settings.services {
            let (found, errors) = service_file::load_folder(folder);
            complaints.extend(errors.iter().map(ToString::to_string));
            for file in found {
                // The first folder goes before the others.
                if files.iter().all(|known| known.name != file.name) {
                    files.push(file);
                }
            }
        }
        for complaint in complaints.difference(&self.complaints) {
            warn!("{complaint}; it is left out");
        }
        self.complaints = complaints;
        self.demand.update(files, &self.poll);
    }

    fn accept(&mut self) {
        for _ in 0..64 {
            match self.listener.accept() {
                Ok(socket) => {
                    if socket.ask_for_credentials(true).is_ok() {
                        self.take_in(socket);
                    }
                }
                Err(error) => {
                    if is_exhausted(&error) {
                        warn!("no descriptors left for now");
                        let _ = self.poll.enable(&self.listener, LISTENER, false);
                        self.paused = Some(Instant::now() + Duration::from_millis(100));
                    }
                    return;
                }
            }
        }
    }

    /// Takes somebody in who has connected, and hears what there is to be heard.
    fn take_in(&mut self, socket: Socket) {
        let who = rustix::net::sockopt::socket_peercred(&socket);
        let Ok(who) = who else { return };
        let uid = who.uid.as_raw();
        let talk = Talk { socket, uid, about: About::Silent };
        let (at, leave) = self.talks.add(talk);
        leave.into_iter().for_each(|at| self.end(at));
        let Some(talk) = self.talks.get(at) else { return };
        if self.poll.add(&talk.socket, TALKS + at as u64).is_err() {
            return self.end(at);
        }
        let is_greedy = uid != self.own_uid && self.talks.is_greedy(uid);
        if !self.talks.is_overfull() && !is_greedy {
            return self.listen_to(at);
        }
        self.say(at, &Rocket::No(No::TooMuch), &[]);
        self.end(at);
    }

    /// Lets go of those who have been silent for too long.
    fn tidy(&mut self) {
        let now = Instant::now();
        for at in self.talks.overdue(now) {
            self.end(at);
        }
        if self.reload_at.is_some_and(|at| at <= now) {
            self.reload_at = None;
            self.reload();
        }
        if self.paused.is_some_and(|until| until <= now) {
            self.paused = None;
            let _ = self.poll.enable(&self.listener, LISTENER, true);
        }
    }

    /// Ends a connection to us.
    fn end(&mut self, at: usize) {
        let Some(talk) = self.talks.remove(at) else { return };
        let _ = self.poll.remove(&talk.socket);
        talk.socket.clear();
        match talk.about {
            About::Service(name) => {
                debug!("{name} is locked, by its service or with it");
                self.names.remove(&name, at);
            }
            About::Waiting(waiting) => self.ledger.end_wait(&waiting.who.client()),
            About::Silent | About::Over => {}
        }
    }

    fn say(&self, at: usize, packet: &Rocket, fds: &[BorrowedFd<'_>]) -> bool {
        let talk = self.talks.get(at);
        talk.is_some_and(|talk| talk.socket.send(&packet.encode(), fds).is_ok())
    }

    /// Hears what somebody says, as far as it has come.
    fn listen_to(&mut self, at: usize) {
        // Whoever goes on talking is reported again, and the others have their turn.
        for _ in 0..4 {
            let Some(talk) = self.talks.get(at) else { return };
            let mut buffer = [0; Rocket::MAX];
            let packet = match talk.socket.receive(&mut buffer) {
                Ok(packet) if packet.len > 0 => packet,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => return self.end(at),
            };
            if matches!(talk.about, About::Over) {
                continue;
            }
            let decoded = Rocket::decode(&buffer[..packet.len]);
            let (Ok(question), false, About::Silent, Some(sender)) =
                (decoded, packet.truncated, &talk.about, packet.credentials)
            else {
                self.say(at, &Rocket::No(No::Malformed), &[]);
                return self.end(at);
            };
            let pidfd = sender.pidfd.as_ref().map(|fd| fd.as_fd());
            let who = || Asker::inspect(sender.pid, sender.uid, sender.gid, pidfd);
            match (question, packet.fds.len()) {
                (Rocket::LookUp { name, wait }, 0) => {
                    let who = who();
                    self.look_up(at, name, wait, who, sender.pidfd);
                }
                (Rocket::List(after), 0) => {
                    let who = who();
                    self.list(at, &who, after.as_ref());
                }
                (Rocket::Announce(name), 1) => {
                    let who = who();
                    let file = packet.fds.into_iter().next();
                    file.into_iter().for_each(|file| self.announce(at, &name, file, &who));
                }
                _ => {
                    self.say(at, &Rocket::No(No::Malformed), &[]);
                    return self.end(at);
                }
            }
        }
    }

    /// A service wants its name to be unlocked.
    fn announce(&mut self, at: usize, name: &ServiceName, file: OwnedFd, who: &Asker) {
        let checked = check_file(&file, who).and_then(|()| {
            if self.names.count(who.uid) < NAMES_OF_A_USER {
                Ok(())
            } else {
                Err("it has too many")
            }
        });
        if let Err(reason) = checked {
            info!("{name} is not unlocked for user {}: {reason}", who.uid);
            self.say(at, &Rocket::No(No::Denied), &[]);
            return self.talks.set(at, About::Over);
        }
        let may = self.policy.may_unlock(self.own_uid, who, name.as_bytes());
        if may {
            debug!("{name} is unlocked by process {}", who.pid);
        } else {
            info!("the policy does not let user {} unlock {name}", who.uid);
        }
        self.names.add(name.clone(), Announcement { talk: at, file, who: who.clone() });
        self.talks.set(at, About::Service(name.clone()));
        // One that may not waits for a policy that lets it.
        self.say(at, &if may { Rocket::End { more: false } } else { Rocket::No(No::Denied) }, &[]);
        self.serve_waiting(Some(name));
    }

    /// Looks for those who wait, for one name or for any.
    fn serve_waiting(&mut self, name: Option<&ServiceName>) {
        for at in self.talks.waiting_for(name) {
            let Some(Talk { about: About::Waiting(waiting), .. }) = self.talks.get(at) else {
                continue;
            };
            let (name, who) = (waiting.name.clone(), waiting.who.clone());
            let asker = waiting.asker.as_ref().and_then(|fd| fd.try_clone().ok());
            if let Some(answer) = self.connect(&name, &who, asker.as_ref()) {
                self.answer(at, answer);
            }
        }
    }

    /// Somebody looks a service up.
    fn look_up(
        &mut self,
        at: usize,
        name: ServiceName,
        wait: bool,
        who: Asker,
        asker: Option<OwnedFd>,
    ) {
        let client = who.client();
        let quota = self.policy.quota();
        if !self.ledger.look_up(&client, Instant::now(), &quota) {
            return self.answer(at, Err(No::TooMuch));
        }
        match self.connect(&name, &who, asker.as_ref()) {
            Some(answer) => self.answer(at, answer),
            None if !wait => self.answer(at, Err(No::NotFound)),
            None if !self.ledger.wait(&client, &quota) => self.answer(at, Err(No::TooMuch)),
            None => {
                let waiting = Waiting { name, who, asker };
                self.talks.set(at, About::Waiting(Box::new(waiting)));
            }
        }
    }

    /// Ends a look-up.
    fn answer(&mut self, at: usize, answer: Result<Socket, No>) {
        match &answer {
            Ok(socket) => self.say(at, &Rocket::Found, &[socket.as_fd()]),
            Err(no) => self.say(at, &Rocket::No(*no), &[]),
        };
        // Who waits and is denied would only ask again: it is left to hang up, for a while.
        if let Some(Talk { about: About::Waiting(waiting), .. }) = self.talks.get(at)
            && matches!(answer, Err(No::Denied))
        {
            self.ledger.end_wait(&waiting.who.client());
            return self.talks.set(at, About::Over);
        }
        self.end(at);
    }

    /// Connects a client to a service; `None` if there is none that it may know of.
    fn connect(
        &mut self,
        name: &ServiceName,
        who: &Asker,
        asker: Option<&OwnedFd>,
    ) -> Option<Result<Socket, No>> {
        let mut files: Vec<OwnedFd> = Vec::new();
        for announcement in self.names.of(name) {
            if self.policy.may_unlock(self.own_uid, &announcement.who, name.as_bytes()) {
                files.extend(announcement.file.try_clone().ok());
            }
        }
        files.extend(self.demand.unlocked(name));
        if files.is_empty() {
            return None;
        }
        match self.policy.may_look_up(self.own_uid, who, name.as_bytes()) {
            Verdict::Allowed => {}
            Verdict::Denied => {
                info!("{name} is denied to process {} of user {}", who.pid, who.uid);
                return Some(Err(No::Denied));
            }
            Verdict::Hidden => {
                debug!("{name} is hidden from process {} of user {}", who.pid, who.uid);
                return None;
            }
        }
        for file in files {
            let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            match Socket::connect(&path, Some(Duration::ZERO)) {
                Ok(socket) => return Some(self.hand_out(socket, who, asker)),
                // Its queue is full: the client tries again for as long as it has time.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Some(Err(No::TooMuch));
                }
                // It has just gone, which we hear of in a moment.
                Err(error) => debug!("{name} cannot be reached: {error}"),
            }
        }
        None
    }

    /// Introduces a client on its connection.
    fn hand_out(
        &mut self,
        socket: Socket,
        who: &Asker,
        asker: Option<&OwnedFd>,
    ) -> Result<Socket, No> {
        let client = who.client();
        let count = self.tickets.len() - self.vacant.len();
        // Nobody but our own user has more than a quarter of what there is.
        let is_greedy = client.uid != self.own_uid
            && self.ledger.lanes_of_user(client.uid) >= self.most_tickets / 4;
        if is_greedy
            || count >= self.most_tickets
            || !self.ledger.open_lane(&client, &self.policy.quota())
        {
            return Err(No::TooMuch);
        }
        let handed = (|| -> io::Result<()> {
            let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
            let (end, ticket) = rustix::pipe::pipe_with(flags)?;
            introduce(
                &socket,
                who.application.as_deref(),
                who.cgroup.as_deref(),
                who.label.as_deref(),
                ticket.as_fd(),
                asker.map(|fd| fd.as_fd()),
            )?;
            let at = self.vacant.last().copied().unwrap_or(self.tickets.len());
            self.poll.add(&end, LANES + at as u64)?;
            if self.vacant.pop().is_none() {
                self.tickets.push(None);
            }
            self.tickets[at] = Some(Ticket { end, client: client.clone() });
            Ok(())
        })();
        match handed {
            Ok(()) => Ok(socket),
            Err(error) => {
                warn!("a connection cannot be handed out: {error}");
                self.ledger.close_lane(&client);
                Err(No::TooMuch)
            }
        }
    }

    /// A service has said that a client is gone.
    fn close_lane(&mut self, at: usize) {
        if let Some(ticket) = self.tickets.get_mut(at).and_then(Option::take) {
            let _ = self.poll.remove(&ticket.end);
            self.ledger.close_lane(&ticket.client);
            self.vacant.push(at);
        }
    }

    /// Somebody wants to know which names it may look up.
    fn list(&mut self, at: usize, who: &Asker, after: Option<&ServiceName>) {
        if !self.ledger.look_up(&who.client(), Instant::now(), &self.policy.quota()) {
            return self.answer(at, Err(No::TooMuch));
        }
        let may = |name: &ServiceName| {
            self.policy.may_look_up(self.own_uid, who, name.as_bytes()) == Verdict::Allowed
        };
        let mut entries: Vec<Entry> = Vec::new();
        // Our own user knows what it has set up; in a sandbox nobody needs to.
        let is_ours = who.uid == self.own_uid && who.is_outside && shares_mounts(who.pid);
        for listed in self.demand.all() {
            let is_reachable = listed.is_unlocked && may(listed.name);
            if is_reachable || is_ours {
                entries.push(Entry {
                    name: listed.name.clone(),
                    pid: listed.pid,
                    uid: self.own_uid,
                    is_unlocked: is_reachable,
                    command: is_ours.then_some(listed.command),
                });
            }
        }
        for name in self.names.all().filter(|name| may(name)) {
            let allowed = |announcement: &&Announcement| {
                self.policy.may_unlock(self.own_uid, &announcement.who, name.as_bytes())
            };
            let Some(announcement) = self.names.of(name).find(allowed) else { continue };
            let (pid, uid) = (announcement.who.pid, announcement.who.uid);
            match entries.iter_mut().find(|entry| entry.name == *name) {
                Some(entry) => (entry.pid, entry.is_unlocked) = (pid, true),
                None => entries.push(Entry {
                    name: name.clone(),
                    pid,
                    uid,
                    is_unlocked: true,
                    command: None,
                }),
            }
        }
        entries.retain(|entry| Some(&entry.name) > after);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let more = entries.len() > LISTED;
        entries.truncate(LISTED);
        for entry in entries {
            self.say(at, &Rocket::Entry(entry), &[]);
        }
        self.say(at, &Rocket::End { more }, &[]);
        self.end(at);
    }
}

/// Watches folders in the loop.
fn watch<'a>(
    poll: &Poll,
    token: u64,
    folders: impl IntoIterator<Item = &'a Path>,
) -> io::Result<Changes> {
    let changes = Changes::of(folders)?;
    poll.add(&changes, token)?;
    Ok(changes)
}

/// Takes note of changes, and watches the folders anew that have come or gone.
fn renew<'a>(
    poll: &Poll,
    changes: &mut Changes,
    token: u64,
    folders: impl IntoIterator<Item = &'a Path>,
) {
    changes.clear();
    if changes.outdated()
        && let Ok(new) = watch(poll, token, folders)
    {
        let _ = poll.remove(&*changes);
        *changes = new;
    }
}

/// Whether a process sees the file systems that we see.
fn shares_mounts(pid: u32) -> bool {
    let mounts = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    mounts("self").is_some_and(|ours| mounts(&pid.to_string()) == Some(ours))
}

/// Raises the limit of descriptors as far as may be, and says how many there are to be given out.
fn raise_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let most = match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    most.unwrap_or(1 << 20).saturating_sub(RESERVED)
}
