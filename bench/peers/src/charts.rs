//! The charts, as SVG on white, so that they can be read on any page.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::floors::payload::Form;
use crate::report::{Outcome, Report, Which, is_rival};
use crate::rows::{IDLE, ONE_WAY, SIZES, TWO_CORES, payload};
use crate::table::{rate, time};
use crate::work::Result;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const OURS: &str = "LightMessaging";
const INK: RGBColor = RGBColor(34, 34, 34);
const FAINT: RGBColor = RGBColor(110, 110, 110);
const OURS_COLOUR: RGBColor = RGBColor(200, 30, 30);
/// One for each library; settings of one library share it.
const COLOURS: [RGBColor; 10] = [
    RGBColor(31, 119, 180),
    RGBColor(44, 140, 44),
    RGBColor(235, 127, 14),
    RGBColor(130, 90, 170),
    RGBColor(140, 86, 75),
    RGBColor(210, 90, 170),
    RGBColor(100, 100, 100),
    RGBColor(160, 160, 20),
    RGBColor(20, 165, 180),
    RGBColor(60, 60, 160),
];

/// Draws every chart whose rows were measured.
///
/// # Errors
///
/// If a file cannot be written.
pub fn draw(report: &Report, folder: &Path) -> Result<()> {
    latency(report, &folder.join("latency.svg"))?;
    let one_way = bars_of(report, ONE_WAY, |figures| figures.rate, true);
    bars(
        report,
        &folder.join("one-way.svg"),
        "One-way messages of 64 bytes, two cores",
        &one_way,
        &|v| rate(Some(v)),
    )?;
    let cost = bars_of(report, TWO_CORES, |figures| figures.cpu, false);
    bars(
        report,
        &folder.join("cpu.svg"),
        "Processor time of both sides for a two-way message of 64 bytes, two cores",
        &cost,
        &|v| time(Some(v * 1e3)),
    )?;
    let idle = bars_of(report, IDLE, |figures| figures.cpu, false);
    bars(
        report,
        &folder.join("idle.svg"),
        "Processor time of both sides while connected and idle, each second",
        &idle,
        &|v| format!("{v:.2} ms"),
    )
}

fn colour(name: &str, names: &[String]) -> RGBColor {
    let library = |name: &str| name.split(',').next().unwrap_or(name).to_owned();
    if library(name) == OURS {
        return OURS_COLOUR;
    }
    let mut libraries: Vec<String> = names.iter().map(|name| library(name)).collect();
    libraries.retain(|library| library != OURS);
    libraries.dedup();
    let at = libraries.iter().position(|known| *known == library(name)).unwrap_or(0);
    COLOURS[at % COLOURS.len()]
}

fn canvas<'a>(file: &'a Path, size: (u32, u32), title: &str, report: &Report) -> Result<Area<'a>> {
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw(&Text::new(title.to_owned(), (20, 16), font(20, INK)))?;
    let caption = Text::new(report.origin(), (20, size.1 as i32 - 18), font(11, FAINT));
    root.draw(&caption)?;
    Ok(root)
}

fn font(size: i32, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour)
}

/// One line of the latency chart.
struct Curve {
    name: String,
    /// Bytes and microseconds.
    points: Vec<(f64, f64)>,
}

fn curves(report: &Report) -> Vec<Curve> {
    let mut rows = vec![(64, TWO_CORES.to_owned())];
    rows.extend(SIZES.map(|(size, len)| (len, payload(size, Form::Consumed))));
    let mut curves = vec![Curve { name: OURS.to_owned(), points: Vec::new() }];
    for (len, row) in rows {
        let Some(outcome) = report.outcome(&row) else { continue };
        let mut add = |name: &str, time: Option<f64>| {
            let Some(time) = time else { return };
            let point = (len as f64, time / 1e3);
            match curves.iter_mut().find(|curve| curve.name == name) {
                Some(curve) => curve.points.push(point),
                None => curves.push(Curve { name: name.to_owned(), points: vec![point] }),
            }
        };
        add(OURS, outcome.ours(|figures| figures.p50));
        for entry in &outcome.entries {
            if !entry.name.starts_with("floor") {
                add(&entry.name, entry.theirs(|figures| figures.p50));
            }
        }
    }
    curves.retain(|curve| !curve.points.is_empty());
    curves
}

fn latency(report: &Report, file: &Path) -> Result<()> {
    let curves = curves(report);
    let times = || curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
    let (Some(least), Some(most)) = (times().reduce(f64::min), times().reduce(f64::max)) else {
        return Ok(());
    };
    let size = (1100, 680);
    let root = canvas(file, size, "Two-way messages by payload size, consumed, two cores", report)?;
    let (left, right) = root.margin(46, 30, 10, 10).split_horizontally(800);
    let range = ((least / 1.5)..(most * 1.5)).log_scale();
    let mut chart = ChartBuilder::on(&left)
        .x_label_area_size(44)
        .y_label_area_size(66)
        .build_cartesian_2d((48.0..24e6).log_scale().with_key_points(sizes()), range)?;
    chart
        .configure_mesh()
        .x_desc("payload")
        .y_desc("median time to the reply")
        .label_style(font(13, INK))
        .axis_desc_style(font(14, INK))
        .light_line_style(RGBColor(240, 240, 240))
        .bold_line_style(RGBColor(222, 222, 222))
        .x_label_formatter(&|len| bytes(*len))
        .y_label_formatter(&|time| axis_time(*time))
        .draw()?;
    let names: Vec<String> = curves.iter().map(|curve| curve.name.clone()).collect();
    for curve in &curves {
        let colour = colour(&curve.name, &names);
        let points = curve.points.iter().copied();
        let style = colour.stroke_width(if curve.name == OURS { 4 } else { 2 });
        match dash(&curve.name) {
            Some((dash, gap)) => {
                chart.draw_series(DashedLineSeries::new(points.clone(), dash, gap, style))?;
            }
            None => {
                chart.draw_series(LineSeries::new(points.clone(), style))?;
            }
        }
        chart.draw_series(points.map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    legend(&right, &curves, &names)
}

/// Settings of one library differ in their dashes: those that poll have long ones.
fn dash(name: &str) -> Option<(u32, u32)> {
    name.contains(',').then_some(if name.contains("polling") { (8, 4) } else { (2, 4) })
}

/// In the order in which the lines end.
fn legend(area: &Area<'_>, curves: &[Curve], names: &[String]) -> Result<()> {
    let mut order: Vec<&Curve> = curves.iter().collect();
    let end = |curve: &Curve| curve.points.last().copied().unwrap_or_default();
    order.sort_by(|a, b| end(b).1.total_cmp(&end(a).1));
    for (line, curve) in order.into_iter().enumerate() {
        let (colour, y) = (colour(&curve.name, names), 24 + 26 * line as i32);
        let style = colour.stroke_width(if curve.name == OURS { 4 } else { 2 });
        let (dash, gap) =
            dash(&curve.name).map_or((29, 0), |(dash, gap)| (dash as i32, gap as i32));
        for from in (8..37).step_by((dash + gap) as usize) {
            area.draw(&PathElement::new(vec![(from, y), ((from + dash).min(37), y)], style))?;
        }
        let style = font(14, INK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(curve.name.clone(), (46, y), style))?;
    }
    Ok(())
}

fn sizes() -> Vec<f64> {
    std::iter::once(64.0).chain(SIZES.map(|(_, len)| len as f64)).collect()
}

fn bytes(len: f64) -> String {
    let size = SIZES.iter().find(|(_, known)| *known as f64 == len);
    size.map_or(format!("{len:.0} B"), |(size, _)| (*size).to_owned())
}

fn axis_time(microseconds: f64) -> String {
    match microseconds {
        time if time < 1.0 => format!("{:.0} ns", time * 1e3),
        time if time < 1e3 => format!("{time:.0} µs"),
        time => format!("{:.0} ms", time / 1e3),
    }
}

/// Everybody's figure in a row, the best first.
fn bars_of(report: &Report, row: &str, which: Which, is_more_better: bool) -> Vec<(String, f64)> {
    let Some(outcome) = report.outcome(row) else { return Vec::new() };
    let theirs = |outcome: &Outcome| -> Vec<(String, f64)> {
        let shown = outcome
            .entries
            .iter()
            .filter(|entry| is_rival(&entry.name) || entry.name.starts_with(OURS));
        shown.filter_map(|entry| Some((entry.name.clone(), entry.theirs(which)?))).collect()
    };
    let mut bars = theirs(outcome);
    bars.extend(outcome.ours(which).map(|ours| (OURS.to_owned(), ours)));
    bars.sort_by(|a, b| if is_more_better { b.1.total_cmp(&a.1) } else { a.1.total_cmp(&b.1) });
    bars
}

fn bars(
    report: &Report,
    file: &Path,
    title: &str,
    bars: &[(String, f64)],
    label: &dyn Fn(f64) -> String,
) -> Result<()> {
    let Some(most) = bars.iter().map(|bar| bar.1).reduce(f64::max) else { return Ok(()) };
    let size = (900, 100 + 28 * bars.len() as u32);
    let root = canvas(file, size, title, report)?;
    for (line, (name, value)) in bars.iter().enumerate() {
        let y = 58 + 28 * line as i32;
        let end = 250 + (value / most * 520.0) as i32;
        let is_ours = name.starts_with(OURS);
        let colour = if is_ours { OURS_COLOUR } else { COLOURS[0] };
        root.draw(&Rectangle::new([(250, y), (end.max(251), y + 18)], colour.filled()))?;
        let middle = y + 9;
        let style = font(14, INK).pos(Pos::new(HPos::Right, VPos::Center));
        root.draw(&Text::new(name.clone(), (240, middle), style))?;
        let style = font(13, INK).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw(&Text::new(label(*value), (end.max(251) + 8, middle), style))?;
    }
    Ok(root.present()?)
}
