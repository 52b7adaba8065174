//! Processor time: of a paced caller and its service, and of both while idle.

use std::time::{Duration, Instant};

use lightmessaging::Wait;
use rustix::thread::ClockId;
use rustix::time::{Timespec, clock_gettime};
use serde::Serialize;

use crate::Effort;
use crate::ours::Ours;
use crate::place::{Place, pin};
use crate::stats::Block;

/// One paced block.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Paced {
    pub latency: Block,
    /// Of both processes, for each call, in microseconds.
    pub cpu: f64,
}

/// The processor time that this process has used, in microseconds.
fn own() -> f64 {
    let time = clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// That of another process, which has one thread (`/proc/PID/schedstat`), in microseconds.
pub fn of(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("it lives");
    let nanoseconds: f64 =
        text.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
    nanoseconds / 1e3
}

/// What a caller does between its calls.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Sleeps, so that there are so many calls a second.
    Rate(u64),
    /// Computes for so many microseconds.
    Work(u64),
}

impl Pace {
    /// How many calls make a block of a third of a second or so.
    fn calls(self) -> usize {
        let rate = match self {
            Pace::Rate(rate) => rate,
            Pace::Work(time) => 1_000_000 / (time + 50),
        };
        (rate as usize * 3 / 10).max(60)
    }
}

/// Calls so many times at a pace. Without `ours` it only keeps it.
fn paced(ours: Option<&Ours>, pace: Pace, calls: usize) -> Paced {
    let cpu = || own() + ours.map_or(0.0, |ours| of(ours.peer.pid()));
    let before = cpu();
    let start = clock_gettime(rustix::time::ClockId::Monotonic);
    let start = start.tv_sec as u64 * 1_000_000_000 + start.tv_nsec as u64;
    let mut times = Vec::with_capacity(calls);
    for call in 0..calls as u64 {
        match pace {
            Pace::Rate(rate) => sleep_until(start + call * 1_000_000_000 / rate),
            Pace::Work(time) => {
                let started = Instant::now();
                while started.elapsed() < Duration::from_micros(time) {
                    std::hint::spin_loop();
                }
            }
        }
        let started = Instant::now();
        if let Some(ours) = ours {
            ours.echo();
        }
        times.push(started.elapsed().as_nanos() as u64);
    }
    Paced { latency: Block::of(times), cpu: (cpu() - before) / calls as f64 }
}

/// Sleeps until then, in nanoseconds of CLOCK_MONOTONIC.
fn sleep_until(due: u64) {
    let due =
        Timespec { tv_sec: (due / 1_000_000_000) as i64, tv_nsec: (due % 1_000_000_000) as i64 };
    let _ = rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &due);
}

/// What a paced caller costs.
#[derive(Debug, Default, Serialize)]
pub struct Cost {
    pub adaptive: Vec<Paced>,
    pub block: Vec<Paced>,
    /// What keeping time costs, without a call.
    pub pacing: Vec<Paced>,
}

/// Blocks of calls at a pace, by default and with blocking only.
pub fn cost(place: Place, pace: Pace, effort: Effort) -> Cost {
    // Sleep as exactly as the system can (`PR_SET_TIMERSLACK`, prctl(2)).
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let ours = [Wait::Adaptive, Wait::Block].map(|wait| Ours::start(place, wait));
    pin(place.near());
    ours.iter().for_each(Ours::echo);
    let calls = effort.calls(pace.calls());
    let mut cost = Cost::default();
    for _ in 0..effort.blocks {
        for (ours, blocks) in ours.iter().zip([&mut cost.adaptive, &mut cost.block]) {
            // What it has learnt of the last block's end is long out of date.
            paced(Some(ours), pace, (calls / 10).max(1));
            blocks.push(paced(Some(ours), pace, calls));
        }
        cost.pacing.push(paced(None, pace, calls));
    }
    cost
}

/// The processor time of both sides, in milliseconds, over a while in which nothing happens.
pub fn idle(connections: usize, time: Duration) -> f64 {
    pin(None);
    let ours = Ours::start(Place::Unpinned, Wait::Adaptive);
    let folder = ours.folder().display().to_string();
    let others: Vec<_> = (0..connections).map(|_| Ours::connect(&folder)).collect();
    others.iter().for_each(crate::ours::use_once);
    // Whatever both sides still spin for is part of the calls; what they give back is not.
    std::thread::sleep(Duration::from_millis(1500));
    let before = own() + of(ours.peer.pid());
    std::thread::sleep(time);
    (own() + of(ours.peer.pid()) - before) / 1e3
}
