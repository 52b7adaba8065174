//! The table in Markdown.

use std::fmt::Write;

use crate::floors::payload::Form;
use crate::goals::judge;
use crate::peers;
use crate::report::{Entry, Outcome, Report, Which};
use crate::rows::{
    CROWDED, EIGHT, IDLE, ONE_CORE, ONE_WAY, SET_UPS, SIZES, SPORADIC, TWO_CORES, payload,
};
use crate::stats::Spread;

const P50: Which = |figures| figures.p50;
const P99: Which = |figures| figures.p99;
const RATE: Which = |figures| figures.rate;
const CPU: Which = |figures| figures.cpu;
const OURS: &str = "LightMessaging";

/// Everything: all at a glance, the goals, row by row, and what was compared.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}\n", report.origin());
    let _ = writeln!(
        text,
        "Ours and each peer in turn, median of {} blocks. × is how many times slower a peer is than \
         ours in the same blocks; below 1 it is faster. Payloads are *consumed*: the receiver sums \
         every word.\n",
        report.blocks
    );
    if report.is_quick {
        let _ =
            writeln!(text, "A smoke test: these figures say that everything runs, not how fast.\n");
    }
    glance(&mut text, report);
    goals(&mut text, report);
    for outcome in &report.outcomes {
        row(&mut text, outcome);
    }
    failures(&mut text, report);
    notes(&mut text, report);
    text
}

/// A column of the first table.
struct Column {
    title: String,
    row: String,
    /// Idle and cost are shown as they are, not as ratios.
    is_cpu: bool,
}

fn columns(report: &Report) -> Vec<Column> {
    let column =
        |title: &str, row: &str, is_cpu| Column { title: title.into(), row: row.into(), is_cpu };
    let mut columns = vec![
        column("64 B", TWO_CORES, false),
        column("one core", ONE_CORE, false),
        column("busy cores", CROWDED, false),
        column("every 10 ms", SPORADIC, false),
    ];
    for (size, _) in SIZES {
        columns.push(column(size, &payload(size, Form::Consumed), false));
    }
    columns.extend([
        column("one-way", ONE_WAY, false),
        column("set-up, two cores", SET_UPS[0].0, false),
        column("set-up, one core", SET_UPS[1].0, false),
        column("8 clients", EIGHT, false),
        column("CPU a call", TWO_CORES, true),
        column("idle CPU", IDLE, true),
    ]);
    columns.retain(|column| report.outcome(&column.row).is_some());
    columns
}

fn glance(text: &mut String, report: &Report) {
    let columns = columns(report);
    let titles: Vec<&str> = columns.iter().map(|column| column.title.as_str()).collect();
    let _ = writeln!(text, "| | {} |\n|---|{}", titles.join(" | "), "---:|".repeat(titles.len()));
    let ours: Vec<String> = columns
        .iter()
        .map(|column| {
            let Some(outcome) = report.outcome(&column.row) else { return String::new() };
            let ours = |which| outcome.ours(which);
            if column.is_cpu {
                cpu(&column.row, ours(CPU))
            } else {
                main_figure(ours(P50), ours(RATE))
            }
        })
        .collect();
    let _ = writeln!(text, "| **{OURS}** | {} |", ours.join(" | "));
    let mut names: Vec<&str> = Vec::new();
    for entry in report.outcomes.iter().flat_map(|outcome| &outcome.entries) {
        if !names.contains(&entry.name.as_str()) && !entry.name.starts_with("floor") {
            names.push(&entry.name);
        }
    }
    for name in names {
        let cells: Vec<String> = columns
            .iter()
            .map(|column| {
                let entry = report.outcome(&column.row).and_then(|outcome| outcome.entry(name));
                match entry {
                    None => "–".to_owned(),
                    Some(Entry { failed: Some(_), .. }) => "failed".to_owned(),
                    Some(entry) if column.is_cpu => cpu(&column.row, entry.theirs(CPU)),
                    Some(entry) => times(entry.advantage()),
                }
            })
            .collect();
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text.push('\n');
}

fn goals(text: &mut String, report: &Report) {
    let verdicts = judge(report);
    if verdicts.is_empty() {
        return;
    }
    let _ = writeln!(text, "| goal | here | against | |\n|---|---:|---|---|");
    for verdict in verdicts {
        let met = if verdict.is_met { "✓" } else { "missed" };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {met} |",
            verdict.text,
            spread(Some(verdict.value)),
            verdict.against
        );
    }
    text.push('\n');
}

fn row(text: &mut String, outcome: &Outcome) {
    let _ = writeln!(text, "### {}\n", outcome.row);
    if outcome.row == IDLE {
        let _ = writeln!(text, "| | CPU of both sides |\n|---|---:|");
        let _ = writeln!(text, "| {OURS} | {} |", cpu(IDLE, outcome.ours(CPU)));
        for entry in outcome.entries.iter().filter(|entry| entry.failed.is_none()) {
            let _ = writeln!(text, "| {} | {} |", entry.name, cpu(IDLE, entry.theirs(CPU)));
        }
        text.push('\n');
        return;
    }
    let is_rate = outcome.ours(RATE).is_some();
    let theirs = if is_rate { "rate | ours" } else { "p50 | ours | p99 | ours" };
    let ratios = if is_rate { "×" } else { "× p50 | × p99" };
    let columns = 1 + theirs.matches('|').count() + ratios.matches('|').count() + 4;
    let _ = writeln!(text, "| | {theirs} | {ratios} | CPU a call | ours |");
    let _ = writeln!(text, "|---|{}", "---:|".repeat(columns - 1));
    for entry in outcome.entries.iter().filter(|entry| entry.failed.is_none()) {
        let ours = |which: Which| crate::report::median(entry.ours.iter().filter_map(which));
        let theirs = |which| entry.theirs(which);
        let figures = if is_rate {
            format!("{} | {} | {}", rate(theirs(RATE)), rate(ours(RATE)), spread(entry.advantage()))
        } else {
            format!(
                "{} | {} | {} | {} | {} | {}",
                time(theirs(P50)),
                time(ours(P50)),
                time(theirs(P99)),
                time(ours(P99)),
                spread(entry.ratio(P50)),
                spread(entry.ratio(P99))
            )
        };
        let (their_cpu, our_cpu) = (cpu("", theirs(CPU)), cpu("", ours(CPU)));
        let _ = writeln!(text, "| {} | {figures} | {their_cpu} | {our_cpu} |", entry.name);
    }
    text.push('\n');
}

fn failures(text: &mut String, report: &Report) {
    let failed = report.outcomes.iter().flat_map(|outcome| {
        outcome
            .entries
            .iter()
            .filter_map(|entry| Some((&outcome.row, entry, entry.failed.as_ref()?)))
    });
    let lines: Vec<String> =
        failed.map(|(row, entry, why)| format!("- {row}: {}: {why}", entry.name)).collect();
    if !lines.is_empty() {
        let _ = writeln!(text, "Not measured:\n\n{}\n", lines.join("\n"));
    }
}

fn notes(text: &mut String, report: &Report) {
    let _ = writeln!(text, "How each is used:\n");
    for kind in peers::all() {
        let _ = writeln!(text, "- {}: {}", kind.name, kind.how);
    }
    for missing in peers::missing() {
        let _ = writeln!(text, "- {missing}");
    }
    let _ = writeln!(text, "\nVersions: {}.", report.versions.join(", "));
}

fn main_figure(p50: Option<f64>, per_second: Option<f64>) -> String {
    if per_second.is_some() { rate(per_second) } else { time(p50) }
}

/// Nanoseconds in the unit that suits them.
pub fn time(nanoseconds: Option<f64>) -> String {
    match nanoseconds {
        None => "–".to_owned(),
        Some(time) if time < 1e4 => format!("{time:.0} ns"),
        Some(time) if time < 1e6 => format!("{:.1} µs", time / 1e3),
        Some(time) => format!("{:.2} ms", time / 1e6),
    }
}

/// How many a second.
pub fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => "–".to_owned(),
        Some(rate) if rate < 1e6 => format!("{:.0} k/s", rate / 1e3),
        Some(rate) => format!("{:.2} M/s", rate / 1e6),
    }
}

fn cpu(row: &str, used: Option<f64>) -> String {
    match used {
        None => "–".to_owned(),
        Some(used) if row == IDLE && used < 10.0 => format!("{used:.2} ms/s"),
        Some(used) if row == IDLE => format!("{used:.0} ms/s"),
        Some(used) if used < 10.0 => format!("{used:.2} µs"),
        Some(used) => format!("{used:.0} µs"),
    }
}

fn times(spread: Option<Spread>) -> String {
    spread.map_or("–".to_owned(), |spread| format!("{} ×", short(spread.median)))
}

fn spread(spread: Option<Spread>) -> String {
    spread.map_or("–".to_owned(), |Spread { median, least, greatest }| {
        format!("{} ({}–{})", short(median), short(least), short(greatest))
    })
}

fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}
