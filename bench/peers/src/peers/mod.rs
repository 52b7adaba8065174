//! The peers: one file each, each used as its own documentation recommends.

mod iceoryx2;
mod interprocess;
mod ipc_channel;
mod message_queue;
#[cfg(feature = "nng")]
mod nng;
mod ours;
mod tokio;
pub mod tonic;
mod zbus;
#[cfg(feature = "zeromq")]
mod zeromq;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::peer::tell;
use crate::place::Place;
use crate::work::Result;

/// Where a server and its clients meet, and what for.
#[derive(Clone, Debug)]
pub struct Setting {
    /// A folder of their own.
    pub folder: PathBuf,
    /// What names outside of a folder begin with, so that they can be removed afterwards.
    pub token: String,
    pub place: Place,
    /// The longest message in bytes.
    pub len: usize,
    /// Whether one-way messages are sent.
    pub is_one_way: bool,
}

impl Setting {
    /// As a role's arguments.
    pub fn to_arguments(&self) -> Vec<String> {
        vec![
            self.folder.display().to_string(),
            self.token.clone(),
            self.place.name().to_owned(),
            self.len.to_string(),
            self.is_one_way.to_string(),
        ]
    }

    /// Of a role's arguments.
    ///
    /// # Errors
    ///
    /// If they are not those of `to_arguments`.
    pub fn of_arguments(arguments: &[String]) -> Result<Setting> {
        let [folder, token, place, len, is_one_way] = arguments else {
            return Err("five arguments make a setting".into());
        };
        let places = [Place::TwoCores, Place::OneCore, Place::Unpinned];
        Ok(Setting {
            folder: folder.into(),
            token: token.clone(),
            place: places.into_iter().find(|known| known.name() == place).ok_or("no such place")?,
            len: len.parse()?,
            is_one_way: is_one_way.parse()?,
        })
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A client's end of a connection.
pub trait Caller {
    /// Sends a message and waits for its sum.
    ///
    /// # Errors
    ///
    /// Whatever the peer reports.
    fn call(&mut self, message: &[u8]) -> Result<u64>;

    /// Sends so many numbered one-way messages; they may still be on their way afterwards.
    ///
    /// # Errors
    ///
    /// Whatever the peer reports, or that it has no such thing.
    fn send_all(&mut self, _count: u64) -> Result<()> {
        Err("no one-way messages".into())
    }
}

/// One peer in one setting.
pub struct Kind {
    pub name: &'static str,
    /// How it is used, for the table's notes.
    pub how: &'static str,
    /// Whether it burns a core while it waits.
    pub polls: bool,
    pub has_one_way: bool,
    /// The shortest and the longest two-way message that it is for, in bytes.
    pub lengths: (usize, usize),
    /// Serves in a process of its own, for ever.
    pub serve: fn(&Setting) -> Result<()>,
    /// A new connection; whatever clients share in a process is made once.
    pub connect: fn(&Setting) -> Result<Box<dyn Caller>>,
}

const ALL: (usize, usize) = (0, usize::MAX);
/// For what differs in one-way messages only.
const NONE: (usize, usize) = (1, 0);
/// For what is about new connections only.
pub const SET_UP_ONLY: (usize, usize) = (0, 0);

/// Ours, then everybody else.
pub fn all() -> Vec<&'static Kind> {
    let mut kinds: Vec<&Kind> = Vec::new();
    kinds.extend(ours::KINDS);
    kinds.extend(iceoryx2::KINDS);
    kinds.extend(ipc_channel::KINDS);
    kinds.extend(interprocess::KINDS);
    kinds.extend(zbus::KINDS);
    #[cfg(feature = "nng")]
    kinds.extend(nng::KINDS);
    #[cfg(feature = "zeromq")]
    kinds.extend(zeromq::KINDS);
    kinds.extend(tokio::KINDS);
    kinds.extend(tonic::KINDS);
    kinds.extend(message_queue::KINDS);
    kinds
}

/// The versions of the system libraries that were built in, and of the programs that are started.
pub fn system_versions() -> Vec<String> {
    vec![
        #[cfg(feature = "nng")]
        nng::version(),
        #[cfg(feature = "zeromq")]
        zeromq::version(),
        zbus::daemon_version(),
    ]
}

/// What is missing here, and why.
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if cfg!(not(feature = "nng")) {
        missing.push("nng: left out, as the feature `nng` is off".to_owned());
    }
    if cfg!(not(feature = "zeromq")) {
        missing.push("zeromq: left out, as the feature `zeromq` is off".to_owned());
    }
    missing
}

/// In the role of a bus: becomes it.
///
/// # Errors
///
/// If there is none.
pub fn become_daemon(arguments: &[String]) -> Result<()> {
    zbus::become_daemon(arguments)
}

/// Removes what processes that were ended leave outside of their folder.
pub fn clean(token: &str) {
    message_queue::remove(token);
    remove_shared_memory(|name| name.starts_with(token));
}

/// Removes what an earlier run left that was ended itself.
pub fn clean_up_after_others() {
    remove_shared_memory(|name| {
        let pid = name.strip_prefix(TOKEN).and_then(|rest| rest.split_once('x')?.0.parse().ok());
        pid.is_some_and(|pid: u32| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    });
}

fn remove_shared_memory(is_ours: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(&is_ours) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// A beginning of names that nobody else uses.
pub fn new_token() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{TOKEN}{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

const TOKEN: &str = "lmpeers";

/// In a server: clients may come now.
fn ready() {
    tell("ready");
}

/// How a peer that polls waits: it keeps its core to itself if it has one, gives it away at once if
/// both sides have the same one, and now and then if nobody knows.
struct Patience {
    place: Place,
    tries: u32,
}

impl Patience {
    fn new(place: Place) -> Patience {
        Patience { place, tries: 0 }
    }

    /// Before the next try.
    fn wait(&mut self) {
        self.tries = self.tries.wrapping_add(1);
        let gives_way = match self.place {
            Place::TwoCores => false,
            Place::OneCore => true,
            Place::Unpinned => self.tries.is_multiple_of(64),
        };
        if gives_way {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

/// One thread that polls all connections in turn, with those that come meanwhile.
fn poll_all<C>(
    place: Place,
    arrivals: &std::sync::mpsc::Receiver<C>,
    mut step: impl FnMut(&mut C) -> Result<bool>,
) {
    let mut connections: Vec<C> = Vec::new();
    let mut patience = Patience::new(place);
    let mut turns = 0u32;
    loop {
        turns = turns.wrapping_add(1);
        if connections.is_empty() {
            let Ok(first) = arrivals.recv() else { return };
            connections.push(first);
        } else if turns.is_multiple_of(16) {
            connections.extend(arrivals.try_iter());
        }
        let mut is_idle = true;
        // Whoever fails has gone.
        connections.retain_mut(|connection| match step(connection) {
            Ok(has_worked) => {
                is_idle &= !has_worked;
                true
            }
            Err(_) => false,
        });
        if is_idle {
            patience.wait();
        }
    }
}
