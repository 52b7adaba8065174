//! The rows about very many clients, and about many busy ones.

use std::time::Duration;

use lightmessaging::Wait;
use serde_json::json;

use crate::crowd::{Crowd, SetUp, raise_hard_limit, room, wait_for_count};
use crate::floors::Floor;
use crate::ours::{Ours, use_it};
use crate::place::{Place, pin};
use crate::rivals::compete;
use crate::rows::{Row, row};
use crate::stats::Spread;
use crate::table::{Goal, Line};
use crate::{Effort, cpu, memory};

/// How many connections a crowd has.
fn size(effort: Effort) -> usize {
    room(if effort.quick { 1000 } else { 10_000 })
}

pub fn rows(rows: &mut Vec<Row>) {
    rows.push(row("10 000 idle clients".to_owned(), true, |effort| idle_clients(effort, false)));
    rows.push(row("10 000 idle clients that were busy".to_owned(), true, |effort| {
        idle_clients(effort, true)
    }));
    rows.push(row("64 busy clients".to_owned(), true, busy_clients));
    rows.push(row("8 busy clients".to_owned(), true, few_busy_clients));
}

/// What is measured with a crowd at one of two services, the other being for comparison.
fn idle_clients(effort: Effort, were_busy: bool) -> Vec<Line> {
    pin(None);
    raise_hard_limit();
    let [alone, among] = [(); 2].map(|()| Ours::start(Place::TwoCores, Wait::Adaptive));
    for ours in [&alone, &among] {
        use_it(&ours.connection, 700);
    }
    std::thread::sleep(Duration::from_secs(3));
    let before = memory::used(among.peer.pid());
    let crowd = Crowd::start(among.folder(), size(effort), were_busy);
    // Until all is given back that will be.
    std::thread::sleep(Duration::from_secs(4));
    let count = crowd.connections;
    let what = if were_busy { "idle clients that were busy" } else { "idle clients" };
    let growth = (memory::used(among.peer.pid()) - before) / count as f64;
    let name = format!("memory per client of {count} {what}");
    let mut lines = vec![Line::figure(&name, growth, "KiB").goal(Goal::AtMost(20.0))];

    let used = || cpu::of(among.peer.pid()) + crowd.cpu();
    let (before, time) = (used(), Duration::from_secs(if effort.quick { 1 } else { 3 }));
    std::thread::sleep(time);
    let name = format!("CPU of a service and {count} {what}, {} s", time.as_secs());
    lines.push(Line::figure(&name, (used() - before) / 1e3, "ms").goal(Goal::AtMost(1.0)));
    if were_busy {
        return lines;
    }

    pin(Place::TwoCores.near());
    let (mut first, mut other) = (Vec::new(), Vec::new());
    let block = |ours: &Ours| crate::floors::time(effort.calls(20_000), || ours.echo());
    for _ in 0..effort.blocks {
        first.push(block(&alone));
        other.push(block(&among));
    }
    pin(None);
    let name = format!("two-way 64 B, two cores, among {count} idle clients, against alone");
    lines.push(Line::calls(&name, first, other).goal(Goal::AtMost(1.1)));

    let mut sides = [&alone, &among].map(|ours| SetUp { ours, kept: Vec::new() });
    let [few, many] = &mut sides;
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for _ in 0..effort.blocks {
        first.push(few.block(effort.calls(60)));
        last.push(many.block(effort.calls(60)));
    }
    drop(sides);
    let name = format!("set-up, unpinned, behind {count} clients, against the first ones");
    lines.push(Line::calls(&name, first, last).goal(Goal::AtMost(1.2)));

    let before = cpu::of(among.peer.pid());
    drop(crowd);
    wait_for_count(among.folder(), 1);
    let each = (cpu::of(among.peer.pid()) - before) / count as f64;
    let name = format!("CPU of the service to forget one of {count} clients that end at once");
    lines.push(Line::figure(&name, each, "µs"));
    lines
}

/// How evenly a service serves very many busy clients.
fn busy_clients(effort: Effort) -> Vec<Line> {
    let time = Duration::from_millis(if effort.quick { 300 } else { 2000 });
    let mut lines = Vec::new();
    for (what, callers, floods, threads) in [
        ("64 callers, each a process", 64, 0, 1),
        ("64 callers, threads of 4 processes", 64, 0, 16),
        ("8 callers beside 8 that send one-way", 8, 8, 1),
    ] {
        let runs: Vec<_> =
            (0..3).map(|_| compete(callers, floods, threads, time, [None, None])).collect();
        let spread = Spread::of(runs.iter().map(|[callers, _]| callers.spread()));
        let rates: Vec<f64> = runs
            .iter()
            .map(|[callers, floods]| (callers.total() + floods.total()) as f64 / time.as_secs_f64())
            .collect();
        lines.push(
            Line::figure(
                &format!("{what}: most served, against least served"),
                spread.median,
                "times",
            )
            .raw(json!(runs)),
        );
        lines.push(Line::figure(&format!("{what}: all"), Spread::of(rates).median / 1e3, "k/s"));
    }
    lines
}

/// How many calls a few busy clients get through together.
fn few_busy_clients(effort: Effort) -> Vec<Line> {
    let time = Duration::from_millis(if effort.quick { 300 } else { 2000 });
    let rates = (0..effort.blocks.min(5)).map(|_| {
        let [callers, _] = compete(8, 0, 1, time, [None, None]);
        callers.total() as f64 / time.as_secs_f64() / 1e3
    });
    vec![Line::figure("8 callers, each a process: all", Spread::of(rates).median, "k/s")]
}
