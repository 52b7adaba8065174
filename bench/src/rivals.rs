//! Busy clients of one service, all at once: whether each gets its share.

use std::time::{Duration, Instant};

use lightmessaging::{Registry, Service};
use serde::Serialize;

use crate::ours::{NAME, Ours, use_once};
use crate::peer::{Peer, hear, tell};

/// Counted, and answered if it is a call: the payload's first word says whose it is.
const COUNTED: i32 = 8;
/// Answered with how many were counted of each.
const REPORT: i32 = 9;

/// In another process: serves, and counts.
pub fn referee(arguments: &[String]) {
    let mut counts: Vec<u64> = Vec::new();
    let handler = move |request: lightmessaging::Request| {
        if request.id() == REPORT {
            let report: Vec<u8> = counts.drain(..).flat_map(u64::to_ne_bytes).collect();
            let _ = request.reply(report);
            return;
        }
        let (message, reply) = request.split();
        if message.id() == COUNTED {
            let word = message.data().first_chunk().expect("a word");
            let who = u64::from_ne_bytes(*word) as usize;
            if counts.len() <= who {
                counts.resize(who + 1, 0);
            }
            counts[who] += 1;
        }
        let _ = reply.reply(message.data());
    };
    let service = Service::builder(NAME).registry(Registry::at(&arguments[0])).start(handler);
    tell("ready");
    service.expect("the service starts").run().expect("the service runs");
}

/// In another process: clients on threads of their own, all of which send for a while when told.
pub fn rivals(arguments: &[String]) {
    let number = |at: usize| arguments[at].parse::<usize>().expect("a number");
    let (first, threads, floods) = (number(1), number(2), arguments[3] == "floods");
    let connections: Vec<_> = (0..threads).map(|_| Ours::connect(&arguments[0])).collect();
    connections.iter().for_each(use_once);
    tell("ready");
    let time = Duration::from_millis(hear().and_then(|line| line.parse().ok()).unwrap_or(0));
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        for (at, connection) in connections.iter().enumerate() {
            let mut payload = [7; 64];
            payload[..8].copy_from_slice(&((first + at) as u64).to_ne_bytes());
            scope.spawn(move || {
                while Instant::now() < end {
                    if floods {
                        connection.send_one_way(COUNTED, payload).expect("room");
                    } else {
                        connection.send_two_way(COUNTED, payload).expect("an answer");
                    }
                }
            });
        }
    });
    tell("done");
    hear();
}

/// How many messages were handled of each of some rivals.
#[derive(Debug, Serialize)]
pub struct Shares(Vec<u64>);

impl Shares {
    /// The greatest share, for each message of the least.
    pub fn spread(&self) -> f64 {
        let (least, most) = (self.0.iter().min(), self.0.iter().max());
        most.map_or(0.0, |most| *most as f64) / least.map_or(1.0, |least| *least as f64).max(1.0)
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// Callers and senders of one-way messages, each a thread, `threads` to a process, all against one
/// service for a while: what the callers and the others have got.
pub fn compete(
    callers: usize,
    floods: usize,
    threads: usize,
    time: Duration,
    cores: [Option<usize>; 2],
) -> [Shares; 2] {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    let _service = Peer::start(cores[0], &["referee".to_owned(), path.clone()]);
    let mut peers = Vec::new();
    for (kind, from, to) in [("callers", 0, callers), ("floods", callers, callers + floods)] {
        for first in (from..to).step_by(threads) {
            let (first, count) = (first.to_string(), threads.min(to - first).to_string());
            let arguments = ["rivals", &path, &first, &count, kind].map(str::to_owned);
            peers.push(Peer::start(cores[1], &arguments));
        }
    }
    let observer = Ours::connect(&path);
    observer.send_two_way(REPORT, []).expect("an answer");
    peers.iter_mut().for_each(|peer| peer.say(time.as_millis()));
    peers.iter_mut().for_each(|peer| assert_eq!(peer.line(), "done"));
    let report = observer.send_two_way(REPORT, []).expect("an answer");
    let (words, _) = report.data().as_chunks();
    let mut counts: Vec<_> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    counts.resize(callers + floods, 0);
    let floods = counts.split_off(callers);
    [Shares(counts), Shares(floods)]
}
