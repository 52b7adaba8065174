//! Processes with very many connections that do nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use lightmessaging::{Connection, Registry};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cpu;
use crate::floors::Floor;
use crate::ours::{Ours, use_it, use_once};
use crate::peer::{Peer, hear, tell};
use crate::stats::Block;

/// Connections of one process of a crowd.
const EACH: usize = 500;
/// What a service keeps open for each of its clients, from Linux 6.9 on (`tests/scale.rs` counts them).
const DESCRIPTORS: usize = 3;

/// Lets every process that is started from now on open as many descriptors as the kernel gives anybody,
/// if we may. How many it may open without asking stays as it is.
pub fn raise_hard_limit() {
    let Ok(text) = std::fs::read_to_string("/proc/sys/fs/nr_open") else { return };
    let (limit, most) = (getrlimit(Resource::Nofile), text.trim().parse().ok());
    if limit.maximum < most {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.current, maximum: most });
    }
}

/// How many of so many clients a service can have, with the descriptors that it may open.
pub fn room(wanted: usize) -> usize {
    let hard = getrlimit(Resource::Nofile).maximum.and_then(|most| usize::try_from(most).ok());
    let room = hard.map_or(wanted, |most| most.saturating_sub(3000) / DESCRIPTORS);
    wanted.min(room) / EACH * EACH
}

/// Processes with many connections, which do nothing once they were used.
pub struct Crowd {
    pub peers: Vec<Peer>,
    pub connections: usize,
}

impl Crowd {
    /// So many connections to the service in a folder, each used once or `busy`.
    pub fn start(folder: &Path, connections: usize, busy: bool) -> Crowd {
        let kind = if busy { "busy" } else { "once" };
        let each = EACH.min(connections);
        let arguments =
            ["crowd".to_owned(), folder.display().to_string(), each.to_string(), kind.to_owned()];
        let peers = (0..connections / each).map(|_| Peer::start(None, &arguments)).collect();
        Crowd { peers, connections: connections / each * each }
    }

    /// The processor time that all of them have used, in microseconds.
    pub fn cpu(&self) -> f64 {
        self.peers.iter().map(|peer| cpu::of(peer.pid())).sum()
    }
}

/// In another process: opens connections, uses them, and keeps them.
pub fn crowd(arguments: &[String]) {
    let connections: Vec<_> = (0..arguments[1].parse().expect("a number"))
        .map(|_| {
            let connection = Ours::connect(&arguments[0]);
            match arguments[2].as_str() {
                "busy" => use_it(&connection, 20),
                _ => use_once(&connection),
            }
            connection
        })
        .collect();
    tell("ready");
    hear();
    // Its end is the end of all of them at once.
    std::mem::forget(connections);
}

/// How many connections a service has, as it says in the registry.
pub fn count(folder: &Path) -> u32 {
    let services = Registry::at(folder).services().expect("the folder");
    services.first().map_or(0, |service| service.connections)
}

/// Waits until a service has no more than so many connections, and says how long that took.
pub fn wait_for_count(folder: &Path, most: u32) -> Duration {
    let started = Instant::now();
    while count(folder) > most {
        assert!(started.elapsed() < Duration::from_secs(60), "it forgets its clients");
        std::thread::sleep(Duration::from_millis(1));
    }
    started.elapsed()
}

/// New connections to their first reply, which stay.
pub struct SetUp<'a> {
    pub ours: &'a Ours,
    pub kept: Vec<Connection>,
}

impl Floor for SetUp<'_> {
    fn block(&mut self, calls: usize) -> Block {
        let folder = self.ours.folder().display().to_string();
        let times = (0..calls).map(|_| {
            let started = Instant::now();
            let connection = Ours::connect(&folder);
            use_once(&connection);
            self.kept.push(connection);
            started.elapsed().as_nanos() as u64
        });
        Block::of(times.collect())
    }
}
