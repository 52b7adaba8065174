//! Asks rocketd: to be connected to a service that this process cannot look up itself, or to let
//! this process's own service be looked up.
//!
//! There may be several rocketds, the user's own and the system's, and each may come, go and come
//! back. See `wire::rocket` for what is said.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};

use crate::changes::Changes;
use crate::sys::{Poll, Socket, is_exhausted, is_momentary};
use crate::wait::Clock;
use crate::wire::rocket::{Entry, No, Rocket};
use crate::{Deadline, Error, Registry, Result, ServiceName};

/// What rocketd has answered.
struct Answer {
    packet: Rocket,
    fds: Vec<OwnedFd>,
}

/// The room for a path in a socket's address (`unix(7)`). A longer one takes `/proc`, which a sandbox
/// may not have.
const SUN_PATH: usize = 108;

/// Connects to a rocketd and asks it something.
fn ask(path: &Path, question: &Rocket, fds: &[BorrowedFd<'_>]) -> io::Result<Socket> {
    // A rocketd that is too busy to let us in is tried again by whoever waits.
    let now = Some(Duration::ZERO);
    let socket = if path.as_os_str().len() < SUN_PATH {
        Socket::connect(path, now)?
    } else {
        let file = socket_file(path).ok_or(io::ErrorKind::NotFound)?;
        Socket::connect(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), now)?
    };
    socket.send(&question.encode(), fds)?;
    Ok(socket)
}

/// The next answer, without waiting (`WouldBlock`).
fn hear(socket: &Socket) -> io::Result<Answer> {
    let mut buffer = [0; Rocket::MAX];
    let packet = socket.receive(&mut buffer)?;
    if packet.len == 0 {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    match Rocket::decode(&buffer[..packet.len]) {
        Ok(answer) if !packet.truncated => Ok(Answer { packet: answer, fds: packet.fds }),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Asks and waits for the answers, until `each` has had enough of them.
fn converse(
    path: &Path,
    question: &Rocket,
    clock: &Clock,
    mut each: impl FnMut(Answer) -> bool,
) -> io::Result<()> {
    let socket = ask(path, question, &[])?;
    let mut poll = None;
    loop {
        match hear(&socket) {
            Ok(answer) => {
                if each(answer) {
                    return Ok(());
                }
                // One that never ends is no answer.
                if clock.over() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if clock.over() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let poll = match &mut poll {
                    Some(poll) => poll,
                    None => {
                        let new = poll.insert(Poll::new()?);
                        new.add(&socket, 0)?;
                        new
                    }
                };
                poll.wait(&mut Vec::new(), clock.left())?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// What the rocketds have said to a look-up.
#[derive(Debug)]
pub(crate) enum Answered {
    Found(Socket),
    /// The one at this socket knows of no such name.
    NotFound(PathBuf),
    /// There is this socket, and nobody answers.
    Silent(PathBuf),
    /// There is no rocketd, as far as this process can see.
    Nobody,
}

/// Has a rocketd connect us to a service.
pub(crate) fn look_up(registry: &Registry, name: &ServiceName, clock: &Clock) -> Result<Answered> {
    let mut look_up = LookUp::new(registry, name);
    loop {
        let step = look_up.step();
        if !matches!(step, Step::Done(_)) && clock.over() {
            return Err(Error::TimedOut { service: name.clone(), delivered: false });
        }
        match step {
            Step::Done(answered) => return answered,
            Step::Listen => look_up.listen(clock)?,
            Step::Pause(attempts) => clock.pause(attempts),
        }
    }
}

/// A look-up under way, one rocketd after the other.
#[derive(Debug)]
pub(crate) struct LookUp {
    question: Rocket,
    name: ServiceName,
    paths: std::vec::IntoIter<PathBuf>,
    /// The one that is asked now, and how often it was too busy.
    path: Option<PathBuf>,
    attempts: u32,
    talk: Option<Socket>,
    /// What those have said that were asked.
    result: Result<Answered>,
}

/// How far a look-up has come.
pub(crate) enum Step {
    Done(Result<Answered>),
    /// rocketd has yet to answer.
    Listen,
    /// It has to be asked again in a while, the longer the oftener it was.
    Pause(u32),
}

impl LookUp {
    /// Asks nobody yet.
    pub(crate) fn new(registry: &Registry, name: &ServiceName) -> LookUp {
        let mut paths = registry.rocketds().into_iter();
        LookUp {
            question: Rocket::LookUp { name: name.clone(), wait: false },
            name: name.clone(),
            path: paths.next(),
            paths,
            attempts: 0,
            talk: None,
            result: Ok(Answered::Nobody),
        }
    }

    /// What has to be readable before the next step.
    pub(crate) fn talk(&self) -> Option<&Socket> {
        self.talk.as_ref()
    }

    /// Waits for that.
    fn listen(&self, clock: &Clock) -> Result<()> {
        let Some(talk) = &self.talk else { return Ok(()) };
        let wait = || {
            let poll = Poll::new()?;
            poll.add(talk, 0)?;
            poll.wait(&mut Vec::new(), clock.left()).map(drop)
        };
        wait().map_err(|source| self.os(source))
    }

    /// Goes as far as it can without waiting.
    pub(crate) fn step(&mut self) -> Step {
        loop {
            let Some(path) = &self.path else {
                return Step::Done(std::mem::replace(&mut self.result, Ok(Answered::Nobody)));
            };
            let talk = match self.talk.take() {
                Some(talk) => Ok(talk),
                None => ask(path, &self.question, &[]),
            };
            let heard = talk.and_then(|talk| match hear(&talk) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.talk = Some(talk);
                    Ok(None)
                }
                heard => heard.map(Some),
            });
            let is_busy = match heard {
                Ok(None) => return Step::Listen,
                Ok(Some(answer)) => match self.learn(answer) {
                    Ok(is_busy) => is_busy,
                    Err(end) => return Step::Done(end),
                },
                Err(error) if is_exhausted(&error) => return Step::Done(Err(self.os(error))),
                Err(error) => self.fails(&error),
            };
            if is_busy {
                self.attempts += 1;
                return Step::Pause(self.attempts);
            }
            (self.path, self.attempts) = (self.paths.next(), 0);
        }
    }

    /// Whether the one that has answered is to be asked again; the end, if there is no need to ask more.
    fn learn(&mut self, answer: Answer) -> Result<bool, Result<Answered>> {
        let Some(path) = &self.path else { return Ok(false) };
        match answer {
            Answer { packet: Rocket::Found, fds } => {
                let fd = fds.into_iter().next().ok_or("an answer without its connection");
                Err(match fd.and_then(Socket::from_peer) {
                    Ok(socket) => Ok(Answered::Found(socket)),
                    Err(what) => Err(Error::Malformed { service: self.name.clone(), what }),
                })
            }
            Answer { packet: Rocket::No(No::Denied), .. } => {
                let path = path.display();
                let reason = format!("rocketd at {path} does not let this program look it up");
                self.result = Err(Error::Denied { service: self.name.clone(), reason });
                Ok(false)
            }
            Answer { packet: Rocket::No(No::NotStarted), .. } => {
                Err(Err(Error::NotStarted { service: self.name.clone() }))
            }
            Answer { packet: Rocket::No(No::TooMuch), .. } => Ok(true),
            _ => {
                if matches!(self.result, Ok(Answered::Nobody | Answered::Silent(_))) {
                    self.result = Ok(Answered::NotFound(path.clone()));
                }
                Ok(false)
            }
        }
    }

    /// Whether the one that could not be asked is to be asked again.
    fn fails(&mut self, error: &io::Error) -> bool {
        match (error.kind(), &self.path) {
            (io::ErrorKind::TimedOut, _) => true,
            // It went in between, and may be back.
            (io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe, _) => self.attempts < 3,
            (io::ErrorKind::ConnectionRefused, Some(path))
                if matches!(self.result, Ok(Answered::Nobody)) =>
            {
                self.result = Ok(Answered::Silent(path.clone()));
                false
            }
            _ => false,
        }
    }

    fn os(&self, source: io::Error) -> Error {
        Error::Os { service: self.name.clone(), doing: "ask rocketd", source }
    }
}

/// A name that rocketd knows and lets this process know of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reachable {
    /// The name.
    pub name: ServiceName,
    /// The process that runs the service, as rocketd sees it, if it runs.
    pub pid: Option<u32>,
    /// The user who runs it, or would.
    pub uid: u32,
    /// Whether this process may look it up through rocketd.
    pub unlocked: bool,
    /// The command that rocketd starts on demand, if it does.
    pub command: Option<String>,
}

impl Registry {
    /// What the rocketds that this process can see let it know of, sorted by name: the names that it
    /// may look up through them, and those that they start on demand. Nothing where there is no
    /// rocketd, or none that answers before the deadline.
    pub fn reachable(&self, deadline: impl Into<Deadline>) -> Vec<Reachable> {
        let clock = Clock::new(deadline.into());
        let mut found: Vec<Reachable> = Vec::new();
        for path in self.rocketds() {
            let mut after = None;
            loop {
                let (mut last, mut more) = (None, false);
                let question = Rocket::List(after.clone());
                let heard = converse(&path, &question, &clock, |answer| match answer.packet {
                    Rocket::Entry(Entry { name, pid, uid, is_unlocked, command }) => {
                        let pid = (pid != 0).then_some(pid);
                        last = Some(name.clone());
                        // The first that is asked is the first that a look-up asks.
                        if found.iter().all(|known| known.name != name) {
                            found.push(Reachable {
                                name,
                                pid,
                                uid,
                                unlocked: is_unlocked,
                                command,
                            });
                        }
                        found.len() >= REACHABLE_MAX
                    }
                    answer => {
                        more = answer == Rocket::End { more: true };
                        true
                    }
                });
                if heard.is_err() || !more || last <= after {
                    break;
                }
                after = last;
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }
}

/// A rocketd in a sandbox may be anybody: what it says must end.
const REACHABLE_MAX: usize = 10_000;

/// The socket that a path leads to, if it does, for rocketd to connect to.
pub(crate) fn socket_file(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let mode = rustix::fs::fstat(&file).ok()?.st_mode;
    (FileType::from_raw_mode(mode) == FileType::Socket).then_some(file)
}

/// Something that every rocketd is asked for as long as this lives, whenever it comes.
#[derive(Debug)]
pub(crate) struct Rockets {
    question: Rocket,
    /// What goes with the question.
    file: Option<OwnedFd>,
    places: Vec<Place>,
    /// Watched while one of them is missing.
    changes: Option<Changes>,
    /// More folders to be watched.
    folder: Option<PathBuf>,
    /// When to ask again although nothing will be told: one of them was too busy, or there are no watches
    /// left (`inotify(7)`, 128 a user unless set otherwise).
    again: Option<Duration>,
    first_token: u64,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    talk: Option<Socket>,
    asked: Option<Instant>,
}

/// A rocketd that hangs up so soon is not asked again at once.
const SOON: Duration = Duration::from_millis(50);
/// After so long it is.
const AGAIN: Duration = Duration::from_millis(50);
/// Packets that are heard at once.
const PACKETS: u32 = 16;
/// How often those are asked that cannot be watched for.
const UNWATCHED: Duration = Duration::from_secs(1);

impl Rockets {
    /// How many numbers it takes in an epoll.
    pub(crate) const TOKENS: u64 = 3;

    /// Asks nothing yet. Its sockets have the numbers from `first_token` on.
    pub(crate) fn new(registry: &Registry, question: Rocket, first_token: u64) -> Rockets {
        let places = registry.rocketds().into_iter();
        Rockets {
            question,
            file: None,
            places: places.map(|path| Place { path, talk: None, asked: None }).collect(),
            changes: None,
            folder: None,
            again: None,
            first_token,
        }
    }

    /// Sends this along.
    pub(crate) fn with_file(mut self, file: OwnedFd) -> Rockets {
        self.file = Some(file);
        self
    }

    /// Wakes up for what happens in this folder too.
    pub(crate) fn and_folder(mut self, folder: &Path) -> Rockets {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Asks those that have come, hears those that have answered, and watches for the others.
    pub(crate) fn refresh(&mut self, poll: &Poll) {
        self.again = None;
        // Twice: a rocketd that comes before its place is watched is not reported.
        for last in [false, true] {
            let mut missing = false;
            for at in 0..self.places.len() {
                self.hear(at, poll);
                let place = &mut self.places[at];
                if place.talk.is_some() {
                    continue;
                }
                if place.asked.take().is_some_and(|asked| asked.elapsed() < SOON) {
                    (self.again, missing) = (Some(AGAIN), true);
                    continue;
                }
                match self.ask(at, poll) {
                    Ok(()) => {}
                    Err(error) if is_busy(&error) => self.again = Some(AGAIN),
                    Err(_) => missing = true,
                }
            }
            if !missing && self.folder.is_none() {
                if let Some(changes) = self.changes.take() {
                    let _ = poll.remove(&changes);
                }
                break;
            }
            if self.changes.as_ref().is_some_and(|changes| !changes.outdated()) {
                break;
            }
            if self.watch(poll).is_err() {
                self.again = self.again.or(Some(UNWATCHED));
                break;
            }
            // Its place has come only just now, and it may have, too.
            if last {
                self.again = self.again.or(Some(AGAIN));
            }
        }
    }

    /// How soon to refresh again although nothing will be told, if at all.
    pub(crate) fn again(&self) -> Option<Duration> {
        self.again
    }

    /// Forgets the changes so far: what is looked at from now on is new.
    pub(crate) fn clear(&self) {
        if let Some(changes) = &self.changes {
            changes.clear();
        }
    }

    /// Takes back what was asked.
    pub(crate) fn hang_up(&mut self, poll: &Poll) {
        for place in &mut self.places {
            if let Some(socket) = place.talk.take() {
                let _ = poll.remove(&socket);
            }
            place.asked = None;
        }
        self.again = None;
    }

    fn ask(&mut self, at: usize, poll: &Poll) -> io::Result<()> {
        let file: Vec<BorrowedFd<'_>> = self.file.iter().map(|file| file.as_fd()).collect();
        let socket = ask(&self.places[at].path, &self.question, &file)?;
        poll.add(&socket, self.first_token + 1 + at as u64)?;
        self.places[at].talk = Some(socket);
        self.places[at].asked = Some(Instant::now());
        Ok(())
    }

    /// Hears what a rocketd says. One that has found what it was asked for is done.
    fn hear(&mut self, at: usize, poll: &Poll) {
        // Whoever goes on talking is reported again.
        for _ in 0..PACKETS {
            let Some(socket) = &self.places[at].talk else { return };
            match hear(socket) {
                // Neither that it has heard us is news, nor that it will not have us: it keeps the
                // connection until that changes.
                Ok(Answer { packet: Rocket::End { .. } | Rocket::No(_), .. }) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => {}
            }
            let _ = poll.remove(socket);
            self.places[at].talk = None;
        }
    }

    fn watch(&mut self, poll: &Poll) -> io::Result<()> {
        if let Some(changes) = self.changes.take() {
            let _ = poll.remove(&changes);
        }
        let folders = self.places.iter().filter_map(|place| place.path.parent());
        let changes = Changes::of(folders.chain(self.folder.as_deref()))?;
        poll.add(&changes, self.first_token)?;
        self.changes = Some(changes);
        Ok(())
    }
}

/// Whether it is there, and it is the moment that is wrong: its queue is full, or we have too many
/// descriptors open or on their way.
fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut || is_momentary(error) || is_exhausted(error)
}

/// Tells when looking a service up again may come to something else than it did.
#[derive(Debug)]
pub(crate) struct News {
    poll: Poll,
    rockets: Rockets,
}

/// Where rocketds' sockets begin in [`News`]; what else its epoll holds has lower numbers.
const ROCKETS: u64 = 1;

impl News {
    pub(crate) fn of(registry: &Registry, name: &ServiceName) -> io::Result<News> {
        let question = Rocket::LookUp { name: name.clone(), wait: true };
        let rockets = Rockets::new(registry, question, ROCKETS).and_folder(registry.path());
        let mut news = News { poll: Poll::new()?, rockets };
        news.refresh();
        Ok(news)
    }

    /// To be called before each look: what happens after it is told.
    pub(crate) fn refresh(&mut self) {
        self.rockets.clear();
        self.rockets.refresh(&self.poll);
    }

    /// Wants to know nothing until it is refreshed.
    pub(crate) fn rest(&mut self) {
        self.rockets.hang_up(&self.poll);
        self.rockets.clear();
    }

    /// How soon to refresh and look although there is no news, if at all.
    pub(crate) fn again(&self) -> Option<Duration> {
        self.rockets.again()
    }

    /// Waits for news.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = [timeout, self.again()].into_iter().flatten().min();
        self.poll.wait(&mut Vec::new(), timeout).map(drop)
    }

    /// The epoll, in which the number 0 is free.
    pub(crate) fn poll(&self) -> &Poll {
        &self.poll
    }
}
