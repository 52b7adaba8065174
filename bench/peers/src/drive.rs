//! In a client's process: does what it is told to, a block at a time, and says how long it took.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rustix::thread::ClockId;
use rustix::time::{Timespec, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::floors::Floor;
use crate::floors::bell::Bell;
use crate::floors::connect::Connect;
use crate::floors::payload::{Form, Payload};
use crate::floors::ring::Ring;
use crate::floors::slot::Slot;
use crate::peer::{hear, tell};
use crate::peers::{Caller, Kind, Setting};
use crate::place::pin;
use crate::stats::Block;
use crate::work::{Result, SMALL, counted, payload};

/// One block.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Command {
    /// So many calls, or as many as fit into a time, whichever is less.
    Calls { most: usize, limit_ms: u64, is_consumed: bool },
    /// One-way messages for about so long, all counted.
    OneWay { limit_ms: u64 },
    /// New connections, each to its first reply.
    SetUp { most: usize, limit_ms: u64 },
    /// Calls with a pause between them.
    Paced { calls: usize, every_us: u64 },
    /// As many calls as fit into a time.
    Flood { limit_ms: u64 },
}

/// What a block came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The quantiles in nanoseconds; with all calls that were made, the untimed ones included.
    Times {
        p50: f64,
        p99: f64,
        timed: usize,
        calls: usize,
    },
    /// How many a second; with all that were made.
    Rate {
        per_second: f64,
        calls: usize,
    },
    Failed(String),
}

impl Answer {
    fn times(times: Vec<u64>, calls: usize) -> Answer {
        let timed = times.len();
        let Block { p50, p99 } = Block::of(times);
        Answer::Times { p50, p99, timed, calls }
    }
}

/// A client of a peer: plays its commands until the parent ends.
///
/// # Errors
///
/// If there is no connection.
pub fn client(kind: &Kind, setting: &Setting) -> Result<()> {
    // Sleep as exactly as the system can (`PR_SET_TIMERSLACK`, prctl(2)).
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    pin(setting.place.near());
    let mut caller = (kind.connect)(setting)?;
    let (message, sum) = payload(Form::Consumed, SMALL);
    // Twice, as whoever tidies up after the first call does so with the next.
    for _ in 0..2 {
        check(caller.call(&message)?, sum)?;
    }
    tell("ready");
    obey(|command| play(kind, setting, caller.as_mut(), command))
}

/// A floor: plays its commands with its own other side.
///
/// # Errors
///
/// If there is no such floor.
pub fn floor(name: &str, setting: &Setting) -> Result<()> {
    let place = setting.place;
    // Whoever starts another process must be pinned again.
    let mut floor: Box<dyn FnMut(Command) -> Result<Answer>> = match name {
        "slot" => calls(Slot::start(place)),
        "bell" => calls(Bell::start(place)),
        "connect" => calls(Connect::start(place)),
        "ring" => {
            let mut ring = Ring::start(place, 64 << 10, SMALL);
            Box::new(move |_| {
                let calls = 500_000;
                Ok(Answer::Rate { per_second: ring.rate(calls), calls })
            })
        }
        "payload, consumed" => calls(Payload::start(place, Form::Consumed, setting.len, false)),
        "payload, handed over" => {
            calls(Payload::start(place, Form::HandedOver, setting.len, false))
        }
        other => return Err(format!("no floor is called {other}").into()),
    };
    pin(place.near());
    tell("ready");
    obey(&mut floor)
}

fn calls(mut floor: impl Floor + 'static) -> Box<dyn FnMut(Command) -> Result<Answer>> {
    Box::new(move |command| {
        let Command::Calls { most, .. } = command else { return Err("a floor only calls".into()) };
        let Block { p50, p99 } = floor.block(most);
        Ok(Answer::Times { p50, p99, timed: most, calls: most })
    })
}

fn obey(mut play: impl FnMut(Command) -> Result<Answer>) -> Result<()> {
    while let Some(line) = hear() {
        let command = serde_json::from_str(&line)?;
        let answer = play(command).unwrap_or_else(|error| Answer::Failed(error.to_string()));
        tell(serde_json::to_string(&answer)?);
    }
    Ok(())
}

fn check(sum: u64, expected: u64) -> Result<()> {
    if sum == expected { Ok(()) } else { Err("a wrong reply".into()) }
}

fn play(
    kind: &Kind,
    setting: &Setting,
    caller: &mut dyn Caller,
    command: Command,
) -> Result<Answer> {
    match command {
        Command::Calls { most, limit_ms, is_consumed } => {
            let form = if is_consumed { Form::Consumed } else { Form::HandedOver };
            let (message, sum) = payload(form, setting.len);
            time(most, limit_ms, || check(caller.call(&message)?, sum))
        }
        Command::OneWay { limit_ms } => one_way(caller, limit_ms),
        Command::SetUp { most, limit_ms } => set_up(kind, setting, most, limit_ms),
        Command::Paced { calls, every_us } => paced(caller, setting.len, calls, every_us),
        Command::Flood { limit_ms } => flood(caller, setting.len, limit_ms),
    }
}

/// The fewest calls whose median says anything.
const LEAST: usize = 3;

/// Times calls, after some that are not timed: a hundred, or for a fifth of the time.
fn time(most: usize, limit_ms: u64, mut call: impl FnMut() -> Result<()>) -> Result<Answer> {
    let limit = Duration::from_millis(limit_ms);
    let (mut calls, mut times, started) = (0, Vec::with_capacity(most), Instant::now());
    while calls < most.min(100) && started.elapsed() < limit / 5 {
        call()?;
        calls += 1;
    }
    let end = Instant::now() + limit;
    while times.len() < most && (times.len() < LEAST || Instant::now() < end) {
        let started = Instant::now();
        call()?;
        times.push(started.elapsed().as_nanos() as u64);
    }
    calls += times.len();
    Ok(Answer::times(times, calls))
}

/// A few messages show how many fill the time.
fn one_way(caller: &mut dyn Caller, limit_ms: u64) -> Result<Answer> {
    let few = 1000;
    let pilot = stream(caller, few)?;
    let messages = ((pilot * limit_ms as f64 / 1e3) as u64).clamp(few, 1_000_000);
    let per_second = stream(caller, messages)?;
    Ok(Answer::Rate { per_second, calls: (few + messages) as usize })
}

/// Sends so many, waits until all are counted, and says how many a second that was.
fn stream(caller: &mut dyn Caller, messages: u64) -> Result<f64> {
    let started = Instant::now();
    caller.send_all(messages)?;
    let count = caller.call(&counted(messages))?;
    let time = started.elapsed();
    if count != messages {
        return Err(format!("{count} of {messages} messages were counted").into());
    }
    Ok(messages as f64 / time.as_secs_f64())
}

/// Times new connections to their first reply; closing them is not timed.
fn set_up(kind: &Kind, setting: &Setting, most: usize, limit_ms: u64) -> Result<Answer> {
    let (message, sum) = payload(Form::Consumed, SMALL);
    let (mut times, end) = (Vec::new(), Instant::now() + Duration::from_millis(limit_ms));
    while times.len() < most && (times.len() < LEAST || Instant::now() < end) {
        let started = Instant::now();
        let mut caller = (kind.connect)(setting)?;
        check(caller.call(&message)?, sum)?;
        times.push(started.elapsed().as_nanos() as u64);
    }
    let calls = times.len();
    Ok(Answer::times(times, calls))
}

/// Calls with a pause between them, for which the caller sleeps.
fn paced(caller: &mut dyn Caller, len: usize, calls: usize, every_us: u64) -> Result<Answer> {
    let (message, sum) = payload(Form::Consumed, len);
    let start = clock_gettime(ClockId::Monotonic);
    let start = start.tv_sec as u64 * 1_000_000_000 + start.tv_nsec as u64;
    let mut times = Vec::with_capacity(calls);
    // The first two find out what the pause is like.
    for call in 0..calls as u64 + 2 {
        let due = start + (call + 1) * every_us * 1000;
        let due = Timespec {
            tv_sec: (due / 1_000_000_000) as i64,
            tv_nsec: (due % 1_000_000_000) as i64,
        };
        let _ = rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &due);
        let started = Instant::now();
        check(caller.call(&message)?, sum)?;
        times.push(started.elapsed().as_nanos() as u64);
    }
    Ok(Answer::times(times.split_off(2), calls + 2))
}

/// As many calls as fit.
fn flood(caller: &mut dyn Caller, len: usize, limit_ms: u64) -> Result<Answer> {
    let (message, sum) = payload(Form::Consumed, len);
    let (mut calls, started) = (0, Instant::now());
    while started.elapsed() < Duration::from_millis(limit_ms) {
        check(caller.call(&message)?, sum)?;
        calls += 1;
    }
    Ok(Answer::Rate { per_second: calls as f64 / started.elapsed().as_secs_f64(), calls })
}

/// Burns a core, for ever.
pub fn burn(core: usize) -> ! {
    pin(Some(core));
    tell("ready");
    loop {
        std::hint::spin_loop();
    }
}
