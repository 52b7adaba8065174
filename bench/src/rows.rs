//! The rows of the table: what is measured, against which floor, and how good it is to be.

use std::time::Duration;

use lightmessaging::{INLINE_MAX, Wait};
use serde_json::json;

use crate::c::Caller;
use crate::floors::Floor;
use crate::floors::bell::Bell;
use crate::floors::connect::Connect;
use crate::floors::payload::{Form, Payload};
use crate::floors::ring::Ring;
use crate::floors::seqpacket::Seqpacket;
use crate::floors::slot::Slot;
use crate::futures::{Awaiting, Scheduler};
use crate::ours::{Carried, Ours};
use crate::peer::Peer;
use crate::place::{Place, pin};
use crate::rocket::{Through, Way, What};
use crate::stats::{Block, Spread};
use crate::table::{Goal, Line};
use crate::threads::{self, Team};
use crate::{Effort, cpu, memory, scale};
use cpu::Pace;

/// One row, which may give several lines.
pub struct Row {
    pub name: String,
    pub needs_two_cores: bool,
    pub measure: Box<dyn Fn(Effort) -> Vec<Line>>,
}

pub fn row(
    name: String,
    needs_two_cores: bool,
    measure: impl Fn(Effort) -> Vec<Line> + 'static,
) -> Row {
    Row { name, needs_two_cores, measure: Box::new(measure) }
}

/// Floor and ours in alternating blocks.
fn against(
    place: Place,
    effort: Effort,
    calls: usize,
    mut floor: impl Floor,
    mut ours: impl Floor,
) -> (Vec<Block>, Vec<Block>) {
    pin(place.near());
    let (mut floors, mut all) = (Vec::new(), Vec::new());
    for _ in 0..effort.blocks {
        floors.push(floor.block(effort.calls(calls)));
        all.push(ours.block(effort.calls(calls)));
    }
    pin(None);
    (floors, all)
}

/// A floor for itself.
fn alone(place: Place, effort: Effort, calls: usize, mut floor: impl Floor) -> Vec<Block> {
    pin(place.near());
    let blocks = (0..effort.blocks).map(|_| floor.block(effort.calls(calls))).collect();
    pin(None);
    blocks
}

/// Every row.
pub fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    for (place, at_most) in
        [(Place::TwoCores, Some(1.25)), (Place::OneCore, Some(1.2)), (Place::Unpinned, None)]
    {
        let name = format!("two-way 64 B, {}", place.name());
        let one_core = place == Place::OneCore;
        rows.push(row(name.clone(), place == Place::TwoCores, move |effort| {
            let ours = Ours::start(place, Wait::Adaptive);
            // Against a peer on its own core nothing is faster than being woken.
            let (floor, ours) = if one_core {
                against(place, effort, 2000, Bell::start(place), ours)
            } else {
                against(place, effort, 20_000, Slot::start(place), ours)
            };
            let design = if one_core { 4800.0 } else { 160.0 };
            let line = Line::calls(&name, floor, ours).floor_of_design(design);
            vec![at_most.iter().fold(line, |line, most| line.goal(Goal::AtMost(*most)))]
        }));
    }
    for place in [Place::OneCore, Place::TwoCores] {
        let name = format!("floor: eventfd, {}", place.name());
        let one_core = place == Place::OneCore;
        rows.push(row(name.clone(), !one_core, move |effort| {
            let blocks = alone(place, effort, 2000, Bell::start(place));
            vec![Line::floor(&name, blocks).floor_of_design(if one_core {
                4800.0
            } else {
                52_000.0
            })]
        }));
        let name = format!("floor: seqpacket 64 B, {}", place.name());
        rows.push(row(name.clone(), !one_core, move |effort| {
            let blocks = alone(place, effort, 2000, Seqpacket::start(place));
            vec![Line::floor(&name, blocks).floor_of_design(if one_core {
                9900.0
            } else {
                52_000.0
            })]
        }));
    }
    crowded(&mut rows);
    from_c(&mut rows);
    futures(&mut rows);
    through_rocketd(&mut rows);
    payloads(&mut rows);
    one_way(&mut rows);
    over_threads(&mut rows);
    costs(&mut rows);
    scale::rows(&mut rows);
    rows
}

/// With more busy processes than cores: on each core one that computes all the time.
fn crowded(rows: &mut Vec<Row>) {
    for place in [Place::TwoCores, Place::OneCore, Place::Unpinned] {
        let name = format!("two-way 64 B, {}, among busy processes", place.name());
        rows.push(row(name.clone(), place == Place::TwoCores, move |effort| {
            let _hogs: Vec<_> =
                (0..2).map(|core| Peer::start(Some(core), &["hog".into()])).collect();
            let ours = Ours::start(place, Wait::Adaptive);
            let (floor, ours) = against(place, effort, 500, Bell::start(place), ours);
            vec![Line::calls(&name, floor, ours).goal(Goal::AtMost(1.2))]
        }));
    }
}

/// The same call through the C header; what is the floor elsewhere is here the call from Rust.
fn from_c(rows: &mut Vec<Row>) {
    for place in [Place::TwoCores, Place::OneCore] {
        let two_cores = place == Place::TwoCores;
        let calls = if two_cores { 20_000 } else { 2000 };
        for (who, goal) in [("C to Rust", Some(1.15)), ("C to C", None)] {
            let name = format!("two-way 64 B, {who}, {}, against Rust to Rust", place.name());
            rows.push(row(name.clone(), two_cores, move |effort| {
                let rust = Ours::start(place, Wait::Adaptive);
                let c = if goal.is_some() { Caller::of_rust(place) } else { Caller::of_c(place) };
                let (rust, c) = against(place, effort, calls, rust, c);
                let line = Line::calls(&name, rust, c);
                vec![goal.iter().fold(line, |line, most| line.goal(Goal::AtMost(*most)))]
            }));
        }
    }
}

/// The same calls as futures; what is the floor elsewhere is here the thread that waits, or one future
/// after the other.
fn futures(rows: &mut Vec<Row>) {
    let awaited = |place: Place, scheduler: Scheduler, wait: Wait| {
        let how = if wait == Wait::Block { "block-only" } else { place.name() };
        let name =
            format!("two-way 64 B, awaited in {}, {how}, against blocking", scheduler.name());
        let calls = if how == "two cores" { 20_000 } else { 2000 };
        row(name.clone(), place == Place::TwoCores, move |effort| {
            let blocking = Ours::start(place, wait);
            let awaiting = Awaiting::start(place, scheduler, wait);
            let (blocking, awaited) = against(place, effort, calls, blocking, awaiting);
            vec![Line::calls(&name, blocking, awaited)]
        })
    };
    let together = |place: Place, many: usize, wait: Wait| {
        let how = if wait == Wait::Block { "block-only" } else { place.name() };
        let name =
            format!("two-way 64 B, {many} in flight on one thread, {how}, against one at a time");
        let calls = if how == "two cores" { 40_000 } else { 4000 };
        row(name.clone(), place == Place::TwoCores, move |effort| {
            let mut awaiting = Awaiting::start_many(place, many, wait);
            pin(place.near());
            let calls = effort.calls(calls);
            let (mut singly, mut together) = (Vec::new(), Vec::new());
            for _ in 0..effort.blocks {
                singly.push(awaiting.rate(calls, 1));
                together.push(awaiting.rate(calls, many));
            }
            pin(None);
            vec![Line::rates(&name, singly, together)]
        })
    };
    for scheduler in [Scheduler::OneThread, Scheduler::Several, Scheduler::None] {
        rows.push(awaited(Place::TwoCores, scheduler, Wait::Adaptive));
    }
    rows.push(awaited(Place::OneCore, Scheduler::OneThread, Wait::Adaptive));
    rows.push(awaited(Place::TwoCores, Scheduler::OneThread, Wait::Block));
    for many in [8, 64] {
        rows.push(together(Place::TwoCores, many, Wait::Adaptive));
        rows.push(together(Place::OneCore, many, Wait::Adaptive));
        rows.push(together(Place::TwoCores, many, Wait::Block));
    }
}

/// By way of rocketd; what is the floor elsewhere is here the same without it.
fn through_rocketd(rows: &mut Vec<Row>) {
    let of = |place: Place, what: What, calls: usize, name: String, most: f64| {
        row(name.clone(), place == Place::TwoCores, move |effort| {
            let direct = Through::start(place, Way::Direct, what);
            let through = Through::start(place, Way::Rocketd, what);
            let (direct, through) = against(place, effort, calls, direct, through);
            vec![Line::calls(&name, direct, through).goal(Goal::AtMost(most))]
        })
    };
    for place in [Place::TwoCores, Place::OneCore] {
        let (calls, place_name) =
            (if place == Place::TwoCores { 20_000 } else { 2000 }, place.name());
        let name = format!("two-way 64 B on a lane through rocketd, {place_name}, against direct");
        rows.push(of(place, What::Calls, calls, name, 1.1));
    }
    let name = "set-up through rocketd, to the first reply, unpinned, against direct".to_owned();
    rows.push(of(Place::Unpinned, What::SetUp, 200, name, 3.0));
    let name = "look-up alone through rocketd, unpinned, against direct".to_owned();
    rows.push(of(Place::Unpinned, What::LookUp, 200, name, 3.0));
}

fn payloads(rows: &mut Vec<Row>) {
    let place = Place::TwoCores;
    let sizes = [
        ("4 KiB", 4096, [210.0, 800.0], 0.0),
        // What a loan costs beside the signal, some locks and the way back, is the same for all sizes.
        ("64 KiB", 64 << 10, [1700.0, 24_000.0], 2.5),
        ("1 MiB", 1 << 20, [36_000.0, f64::INFINITY], 2.5),
        ("16 MiB", 16 << 20, [f64::INFINITY, f64::INFINITY], 1.15),
    ];
    for (size, len, design, on_loan) in sizes {
        let calls = ((256 << 20) / len).clamp(12, 5000);
        for (form, design) in [Form::HandedOver, Form::Consumed].into_iter().zip(design) {
            let name = format!("two-way {size} {}, two cores", form.name());
            rows.push(row(name.clone(), true, move |effort| {
                let floor = Payload::start(place, form, len, false);
                let ours = Ours::start_payload(place, form, len, Carried::Copied);
                let (floor, ours) = against(place, effort, calls, floor, ours);
                let line = Line::calls(&name, floor, ours).floor_of_design(design);
                vec![line.goal(Goal::AtMost(1.15))]
            }));
        }
        if len <= INLINE_MAX {
            continue;
        }
        let name = format!("two-way {size} consumed as a slice in place, two cores");
        rows.push(row(name.clone(), true, move |effort| {
            let floor = Payload::start(place, Form::Consumed, len, false);
            let ours = Ours::start_payload(place, Form::Consumed, len, Carried::CopiedAndSliced);
            let (floor, ours) = against(place, effort, calls, floor, ours);
            vec![Line::calls(&name, floor, ours)]
        }));
        for (carried, what) in [(Carried::Loan, "on loan"), (Carried::LentReply, "reply on loan")] {
            let name = format!("two-way {size} {what}, handed over, two cores");
            rows.push(row(name.clone(), true, move |effort| {
                let floor = Payload::start(place, Form::HandedOver, len, true);
                let ours = Ours::start_payload(place, Form::HandedOver, len, carried);
                let (floor, ours) = against(place, effort, calls, floor, ours);
                vec![Line::calls(&name, floor, ours).goal(Goal::AtMost(on_loan))]
            }));
        }
    }
}

fn one_way(rows: &mut Vec<Row>) {
    let place = Place::TwoCores;
    for (name, size) in [("64 B", 64), ("1 KiB", 1024)] {
        for (ring, capacity) in [("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
            let name = format!("one-way {name}, ring of {ring}, two cores");
            rows.push(row(name.clone(), true, move |effort| {
                let mut floor = Ring::start(place, capacity, size);
                let mut ours = Ours::start(place, Wait::Adaptive);
                pin(place.near());
                ours.echo();
                let messages = effort.calls(if size > 64 { 200_000 } else { 1_000_000 });
                let (mut floors, mut all) = (Vec::new(), Vec::new());
                for _ in 0..effort.blocks {
                    floors.push(floor.rate(messages));
                    all.push(ours.rate(size, messages));
                }
                pin(None);
                let line = Line::rates(&name, floors, all);
                let is_goal = size == 64 && capacity == 64 << 10;
                vec![if is_goal {
                    line.floor_of_design(28e6).goal(Goal::AtLeast(0.8))
                } else {
                    line
                }]
            }));
        }
    }
}

/// On two threads; what is the floor elsewhere is here the same service on one.
fn over_threads(rows: &mut Vec<Row>) {
    for place in [Place::TwoCores, Place::OneCore] {
        let two_cores = place == Place::TwoCores;
        let name = format!("two-way 64 B on 2 threads, {}, against one thread", place.name());
        rows.push(row(name.clone(), two_cores, move |effort| {
            let calls = if two_cores { 20_000 } else { 2000 };
            let (one, two) = (Team::start(place, 1, 0, 1), Team::start(place, 2, 0, 1));
            let (one, two) = against(place, effort, calls, one, two);
            vec![Line::calls(&name, one, two).goal(Goal::AtMost(1.15))]
        }));
    }
    let name = "one-way 64 B on 2 threads, two cores, against one thread".to_owned();
    rows.push(row(name.clone(), true, move |effort| {
        let (one, two) = threads::streams(Place::TwoCores, effort, 500_000);
        vec![Line::rates(&name, one, two)]
    }));
    for (work, text, calls) in [(20, "work 20 µs", 500), (0, "only answer", 5000)] {
        for clients in [2, 8] {
            let name = format!(
                "time for each call of {clients} clients, handlers that {text}, on 2 threads, against one thread"
            );
            rows.push(row(name.clone(), true, move |effort| {
                let (one, two) = threads::paces(clients, work, effort, calls);
                vec![Line::costs(&name, one, two)]
            }));
        }
    }
}

/// Calls a second, and how much processor time each may cost against blocking.
const RATES: [(u64, f64); 8] = [
    (100, 1.15),
    (500, 2.0),
    (1000, 1.15),
    (2000, 2.0),
    (5000, 2.0),
    (10_000, 2.0),
    (20_000, 2.0),
    (50_000, 2.0),
];

/// Microseconds that a caller computes between its calls.
const WORK: [u64; 6] = [10, 30, 60, 100, 200, 500];

fn costs(rows: &mut Vec<Row>) {
    for place in [Place::TwoCores, Place::Unpinned] {
        for (rate, most) in RATES {
            let what = format!("at {rate} calls/s, {}", place.name());
            rows.push(cost(what, place, Pace::Rate(rate), most));
        }
    }
    for time in WORK {
        let what = format!("with {time} µs of work between, two cores");
        rows.push(cost(what, Place::TwoCores, Pace::Work(time), 2.0));
    }
    others(rows);
}

/// What a paced caller costs, and how long its calls take, against blocking only.
fn cost(what: String, place: Place, pace: Pace, most: f64) -> Row {
    row(what.clone(), place == Place::TwoCores, move |effort| {
        let cost = cpu::cost(place, pace, effort);
        pin(None);
        let of = |blocks: &[cpu::Paced]| -> Vec<f64> { blocks.iter().map(|b| b.cpu).collect() };
        let (adaptive, block) = (of(&cost.adaptive), of(&cost.block));
        let pacing = Spread::of(of(&cost.pacing));
        let note = format!("keeping time is {:.1} µs of each", pacing.median);
        let raw = json!(cost);
        let latency = |blocks: &[cpu::Paced]| blocks.iter().map(|b| b.latency).collect();
        let used = format!("CPU per call {what}, against block-only");
        let took = format!("latency {what}, against block-only");
        vec![
            Line::costs(&used, block, adaptive).goal(Goal::AtMost(most)).note(note).raw(raw),
            Line::calls(&took, latency(&cost.block), latency(&cost.adaptive))
                .goal(Goal::AtMost(1.15)),
        ]
    })
}

fn others(rows: &mut Vec<Row>) {
    rows.push(row("idle CPU, 100 connections".to_owned(), false, |effort| {
        let time = Duration::from_millis(if effort.quick { 500 } else { 2000 });
        let used = cpu::idle(100, time);
        let name = format!("idle CPU of both sides, 100 connections, {} s", time.as_secs_f64());
        vec![Line::figure(&name, used, "ms").goal(Goal::AtMost(1.0))]
    }));
    for place in [Place::Unpinned, Place::OneCore] {
        let name = format!("set-up: new connection to first reply, {}", place.name());
        rows.push(row(name.clone(), false, move |effort| {
            let floor = Connect::start(place);
            let (floor, ours) = against(place, effort, 200, floor, Ours::start_set_up(place));
            vec![Line::calls(&name, floor, ours).goal(Goal::AtMost(2.5))]
        }));
    }
    for (kind, busy) in [("used once", false), ("that was busy", true)] {
        let name = format!("memory per idle connection {kind}");
        rows.push(row(name.clone(), false, move |effort| {
            let growth = memory::growth(if effort.quick { 30 } else { 200 }, busy);
            vec![Line::figure(&name, growth, "KiB").goal(Goal::AtMost(32.0))]
        }));
    }
}
