//! What is to be reached, and whether it was.

use crate::floors::payload::Form;
use crate::report::{Entry, Outcome, Report};
use crate::rows::{
    CROWDED, EIGHT, ONE_CORE, ONE_WAY, OURS_BLOCK, SET_UPS, SIZES, SPORADIC, TWO_CORES, payload,
};
use crate::stats::Spread;

/// One goal and its figure.
pub struct Verdict {
    pub text: String,
    /// Where the least and the greatest are on either side of the goal, a run decides nothing.
    pub value: Spread,
    pub is_met: bool,
    /// Against whom the figure is.
    pub against: String,
}

/// All goals whose rows were measured.
pub fn judge(report: &Report) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let mut add = |row: &str, text: &str, judge: &dyn Fn(&Outcome) -> Option<Verdict>| {
        if let Some(mut verdict) = report.outcome(row).and_then(judge) {
            verdict.text = format!("{row}: {text}");
            verdicts.push(verdict);
        }
    };
    add(TWO_CORES, "≥ 4 × faster than the fastest peer, however it polls", &|o| fastest(o, 4.0));
    add(ONE_CORE, "slower than no peer", &|o| fastest(o, 1.0));
    add(CROWDED, "slower than no peer", &|o| fastest(o, 1.0));
    add(SPORADIC, "latency ≤ 1.15 × block-only", &|o| block_only(o, |f| f.p50));
    add(SPORADIC, "CPU per call ≤ 1.15 × block-only", &|o| block_only(o, |f| f.cpu));
    for (form, (size, _)) in [Form::Consumed, Form::HandedOver]
        .into_iter()
        .flat_map(|form| SIZES.map(|size| (form, size)))
    {
        let (text, least) = match size {
            "4 KiB" => ("≥ 3 × faster than every peer", 3.0),
            "64 KiB" => ("≥ 1.4 × faster than every peer", 1.4),
            _ => ("slower than no peer", 1.0),
        };
        add(&payload(size, form), text, &|o| fastest(o, least));
    }
    add(ONE_WAY, "≥ 2.5 × every peer, those that batch included", &|o| fastest(o, 2.5));
    for (row, _) in SET_UPS {
        add(row, "≤ 2.5 × connecting a Unix socket and exchanging a byte", &|outcome| {
            let floor = outcome.entries.iter().find(|entry| entry.name.starts_with("floor"))?;
            Some(at_most(floor.advantage()?, 2.5, &floor.name))
        });
        add(row, "≥ 10 × faster than iceoryx2", &|outcome| {
            let is_iceoryx2 = |entry: &&Entry| entry.name.starts_with("iceoryx2");
            least(outcome.rivals().filter(is_iceoryx2), 10.0)
        });
    }
    add(EIGHT, "≥ 3 × the calls of the best peer", &|o| fastest(o, 3.0));
    verdicts
}

/// At least so many times faster than each of a row's peers.
fn fastest(outcome: &Outcome, times: f64) -> Option<Verdict> {
    least(outcome.rivals(), times)
}

fn least<'a>(entries: impl Iterator<Item = &'a Entry>, times: f64) -> Option<Verdict> {
    let advantages = entries.filter_map(|entry| Some((entry.advantage()?, entry.name.clone())));
    let (value, against) = advantages.min_by(|a, b| a.0.median.total_cmp(&b.0.median))?;
    Some(Verdict { text: String::new(), value, is_met: value.median >= times, against })
}

fn block_only(outcome: &Outcome, which: crate::report::Which) -> Option<Verdict> {
    Some(at_most(outcome.entry(OURS_BLOCK)?.ratio(which)?, 1.15, OURS_BLOCK))
}

/// Ours is at most so many times theirs, which is so many times ours.
fn at_most(theirs: Spread, most: f64, against: &str) -> Verdict {
    let Spread { median, least, greatest } = theirs;
    let value = Spread { median: 1.0 / median, least: 1.0 / greatest, greatest: 1.0 / least };
    let (is_met, against) = (value.median <= most, against.to_owned());
    Verdict { text: String::new(), value, is_met, against }
}
