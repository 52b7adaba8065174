//! What an idle connection costs a service: resident memory and page tables.

use std::time::Duration;

use lightmessaging::Wait;

use crate::ours::{Ours, use_it, use_once};
use crate::peer::{Peer, hear, tell};
use crate::place::{Place, pin};

/// In the other process: opens connections, uses them, and keeps them.
pub fn clients(arguments: &[String]) {
    let connections: Vec<_> = (0..arguments[1].parse().expect("a number"))
        .map(|_| {
            let connection = Ours::connect(&arguments[0]);
            if arguments[2] == "busy" {
                use_it(&connection, 700)
            } else {
                use_once(&connection)
            }
            connection
        })
        .collect();
    tell("ready");
    hear();
    drop(connections);
}

/// The growth of the service for each of so many connections that were used once, or a lot, and
/// then left alone, in KiB.
pub fn growth(connections: usize, busy: bool) -> f64 {
    pin(None);
    let ours = Ours::start(Place::Unpinned, Wait::Adaptive);
    let folder = ours.folder().display().to_string();
    // Once, so that what is there for all is not counted.
    use_it(&ours.connection, 700);
    std::thread::sleep(Duration::from_secs(3));
    let before = used(ours.peer.pid());
    let kind = if busy { "busy" } else { "once" };
    let arguments = ["clients".to_owned(), folder, connections.to_string(), kind.to_owned()];
    let _clients = Peer::start(None, &arguments);
    std::thread::sleep(Duration::from_secs(3));
    (used(ours.peer.pid()) - before) / connections as f64
}

/// `VmRSS` and `VmPTE` together, in KiB (`proc_pid_status(5)`).
pub fn used(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let of = |key: &str| -> f64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel says");
        line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
    };
    of("VmRSS:") + of("VmPTE:")
}
