//! The floors: what the hardware and the kernel allow, written by hand without the library.

pub mod bell;
pub mod connect;
pub mod payload;
pub mod ring;
pub mod seqpacket;
pub mod slot;

use crate::peer::{hear, tell};
use crate::stats::Block;

/// Something that is measured in blocks of calls.
pub trait Floor {
    /// Makes so many calls and times each.
    fn block(&mut self, calls: usize) -> Block;
}

/// In the other process: answers as many calls as it is told to, and sleeps in between.
pub fn respond(arguments: &[String]) {
    let numbers: Vec<i32> = arguments[1..].iter().map(|n| n.parse().expect("a number")).collect();
    let mut respond: Box<dyn FnMut(u64)> = match arguments[0].as_str() {
        "slot" => slot::responder(&numbers),
        "connect" => connect::responder(&numbers),
        "bell" => bell::responder(&numbers),
        "seqpacket" => seqpacket::responder(&numbers),
        "ring" => ring::responder(&numbers),
        "payload" => payload::responder(&numbers),
        other => panic!("no floor is called {other}"),
    };
    tell("ready");
    while let Some(line) = hear() {
        respond(line.parse().expect("a number of calls"));
        tell("done");
    }
}

/// Calls before a block that are not timed.
pub const WARM_UP: usize = 100;

/// Times each of so many calls, after some that are not timed.
pub fn time(calls: usize, mut call: impl FnMut()) -> Block {
    for _ in 0..WARM_UP.min(calls) {
        call();
    }
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let started = std::time::Instant::now();
        call();
        times.push(started.elapsed().as_nanos() as u64);
    }
    Block::of(times)
}

/// How many calls a block of so many really makes.
pub fn with_warm_up(calls: usize) -> usize {
    calls + WARM_UP.min(calls)
}
