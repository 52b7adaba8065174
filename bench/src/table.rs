//! The table, as Markdown and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::Effort;
use crate::machine::Machine;
use crate::stats::{Block, Spread};

/// How good a line's ratio (or its figure, where there is no floor) is to be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// What a line's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Nanoseconds,
    PerSecond,
    Microseconds,
    Other(&'static str),
}

/// One line of the table.
#[derive(Debug)]
pub struct Line {
    name: String,
    unit: Unit,
    floor: Option<Spread>,
    ours: Option<Spread>,
    ratio: Option<Spread>,
    ratio_p99: Option<Spread>,
    goal: Option<Goal>,
    design: Option<f64>,
    note: String,
    raw: Value,
}

fn medians(blocks: &[Block]) -> Spread {
    Spread::of(blocks.iter().map(|block| block.p50))
}

fn ratios(floor: &[Block], ours: &[Block], of: fn(&Block) -> f64) -> Spread {
    Spread::of(floor.iter().zip(ours).map(|(floor, ours)| of(ours) / of(floor)))
}

impl Line {
    fn new(name: &str, unit: Unit, raw: Value) -> Line {
        Line {
            name: name.to_owned(),
            unit,
            floor: None,
            ours: None,
            ratio: None,
            ratio_p99: None,
            goal: None,
            design: None,
            note: String::new(),
            raw,
        }
    }

    /// Timed calls, floor and ours.
    pub fn calls(name: &str, floor: Vec<Block>, ours: Vec<Block>) -> Line {
        Line {
            floor: Some(medians(&floor)),
            ours: Some(medians(&ours)),
            ratio: Some(ratios(&floor, &ours, |block| block.p50)),
            ratio_p99: Some(ratios(&floor, &ours, |block| block.p99)),
            ..Line::new(name, Unit::Nanoseconds, json!({"floor": floor, "ours": ours}))
        }
    }

    /// Timed calls of a floor alone.
    pub fn floor(name: &str, floor: Vec<Block>) -> Line {
        let spread = Some(medians(&floor));
        Line { floor: spread, ..Line::new(name, Unit::Nanoseconds, json!({"floor": floor})) }
    }

    /// Messages a second, floor and ours.
    pub fn rates(name: &str, floor: Vec<f64>, ours: Vec<f64>) -> Line {
        Line::pair(name, Unit::PerSecond, floor, ours)
    }

    /// Processor time of each call in microseconds, the one it is compared with and ours.
    pub fn costs(name: &str, floor: Vec<f64>, ours: Vec<f64>) -> Line {
        Line::pair(name, Unit::Microseconds, floor, ours)
    }

    fn pair(name: &str, unit: Unit, floor: Vec<f64>, ours: Vec<f64>) -> Line {
        Line {
            ratio: Some(Spread::of(floor.iter().zip(&ours).map(|(floor, ours)| ours / floor))),
            floor: Some(Spread::of(floor.iter().copied())),
            ours: Some(Spread::of(ours.iter().copied())),
            ..Line::new(name, unit, json!({"floor": floor, "ours": ours}))
        }
    }

    /// A single figure.
    pub fn figure(name: &str, value: f64, unit: &'static str) -> Line {
        let spread = Some(Spread::of([value]));
        Line { ours: spread, ..Line::new(name, Unit::Other(unit), json!({"ours": value})) }
    }

    /// How good it is to be.
    pub fn goal(self, goal: Goal) -> Line {
        Line { goal: Some(goal), ..self }
    }

    /// What the floor was when the library was designed: a machine on which it is much slower is
    /// no place to compare.
    pub fn floor_of_design(self, design: f64) -> Line {
        Line { design: Some(design), ..self }
    }

    pub fn note(self, note: String) -> Line {
        Line { note, ..self }
    }

    pub fn raw(self, raw: Value) -> Line {
        Line { raw, ..self }
    }

    fn is_met(&self) -> Option<bool> {
        let value = self.ratio.or(self.ours)?.median;
        Some(match self.goal? {
            Goal::AtMost(most) => value <= most,
            Goal::AtLeast(least) => value >= least,
        })
    }

    fn is_floor_slow(&self) -> bool {
        let (Some(floor), Some(design)) = (self.floor, self.design) else { return false };
        match self.unit {
            Unit::PerSecond => floor.median < design / 1.5,
            _ => floor.median > design * 1.5,
        }
    }

    fn number(&self, spread: Option<Spread>) -> String {
        let Some(value) = spread.map(|spread| spread.median) else { return "–".to_owned() };
        match self.unit {
            Unit::Nanoseconds if value < 10_000.0 => format!("{value:.0} ns"),
            Unit::Nanoseconds => format!("{:.1} µs", value / 1e3),
            Unit::PerSecond => format!("{:.1} M/s", value / 1e6),
            Unit::Microseconds => format!("{value:.1} µs"),
            Unit::Other(unit) => format!("{value:.2} {unit}"),
        }
    }
}

fn ratio(spread: Option<Spread>) -> String {
    spread
        .map_or("–".to_owned(), |s| format!("{:.2} ({:.2}–{:.2})", s.median, s.least, s.greatest))
}

/// The table in Markdown.
pub fn render(machine: &Machine, lines: &[Line], effort: Effort) -> String {
    let mut text = String::new();
    let Machine { processor, cores, kernel, compiler, commit, date } = machine;
    let _ =
        writeln!(text, "{processor}, {cores} cores, {kernel}; {compiler}; commit {commit}; {date}");
    let blocks = effort.blocks;
    let _ = writeln!(
        text,
        "Median of {blocks} blocks; ratios block by block: median (least–greatest).\n"
    );
    let _ = writeln!(text, "| what | floor | ours | ratio p50 | ratio p99 | goal | |");
    let _ = writeln!(text, "|---|---:|---:|---:|---:|---:|---|");
    for line in lines {
        let goal = match line.goal {
            Some(Goal::AtMost(most)) => format!("≤ {most}"),
            Some(Goal::AtLeast(least)) => format!("≥ {least}"),
            None => String::new(),
        };
        let met = line.is_met().map_or("", |met| if met { "met" } else { "missed" });
        let (floor, ours) = (line.number(line.floor), line.number(line.ours));
        let (p50, p99) = (ratio(line.ratio), ratio(line.ratio_p99));
        let _ =
            writeln!(text, "| {} | {floor} | {ours} | {p50} | {p99} | {goal} | {met} |", line.name);
    }
    let notes = lines.iter().filter(|line| !line.note.is_empty());
    for line in notes {
        let _ = writeln!(text, "\n{}: {}.", line.name, line.note);
    }
    let slow: Vec<_> = lines.iter().filter(|line| line.is_floor_slow()).collect();
    if !slow.is_empty() {
        let _ = writeln!(
            text,
            "\nFloors more than 1.5 times slower than when the library was designed:"
        );
    }
    for line in slow {
        let _ = writeln!(text, "- {}: {}", line.name, line.number(line.floor));
    }
    if effort.quick {
        let _ =
            writeln!(text, "\nA smoke test: these figures say that everything runs, not how fast.");
    }
    text
}

/// Everything, block by block.
pub fn json(machine: &Machine, lines: &[Line]) -> String {
    let lines: Vec<_> = lines
        .iter()
        .map(|line| {
            json!({
                "name": line.name, "unit": format!("{:?}", line.unit), "floor": line.floor,
                "ours": line.ours, "ratio_p50": line.ratio, "ratio_p99": line.ratio_p99,
                "goal": line.goal.map(|goal| format!("{goal:?}")), "met": line.is_met(),
                "floor_is_slow": line.is_floor_slow(), "blocks": line.raw,
            })
        })
        .collect();
    let text = serde_json::to_string_pretty(&json!({"machine": machine, "lines": lines}));
    text.expect("figures can be written as JSON")
}
