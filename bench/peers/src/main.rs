//! Measures LightMessaging against other ways to send messages between processes.
//!
//! Every row has two processes, a server and a client; ours and each peer alternate in blocks, so
//! that what the machine does meanwhile hits both. Run it on a quiet machine with two cores:
//!
//! ```text
//! cargo run --release --manifest-path bench/peers/Cargo.toml
//! ```

mod charts;
mod contest;
mod drive;
// Shared with the bench, which uses more of them.
#[allow(dead_code)]
#[path = "../../src/floors/mod.rs"]
mod floors;
mod goals;
// The commit is the one that was built, and not the checkout's.
#[allow(dead_code)]
#[path = "../../src/machine.rs"]
mod machine;
mod peer;
mod peers;
#[path = "../../src/place.rs"]
mod place;
mod report;
mod rows;
#[path = "../../src/shared.rs"]
mod shared;
#[path = "../../src/stats.rs"]
mod stats;
mod table;
mod versions;
mod work;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use peers::{Kind, Setting};
use report::Report;
use work::Result;

/// Measures LightMessaging against other ways to send messages between processes.
#[derive(Parser)]
#[command(name = "lm-peers")]
struct Cli {
    /// Measure only the rows whose name contains this.
    #[arg(long, value_name = "SUBSTRING")]
    only: Option<String>,
    /// Measure only against peers whose name contains one of these.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    peers: Vec<String>,
    /// Pairs of blocks for each peer in each row.
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..1000))]
    blocks: u32,
    /// A smoke test of everything: three short blocks, figures of little worth.
    #[arg(long)]
    quick: bool,
    /// Write every block's figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure nothing: take the figures from these files, the later ones' first.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    from: Vec<PathBuf>,
    /// List the rows and the peers, and measure nothing.
    #[arg(long)]
    list: bool,
    /// Draw the charts into this folder.
    #[arg(long, value_name = "DIR")]
    charts: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Another process of a row.
    #[command(hide = true)]
    Role { arguments: Vec<String> },
}

/// How long and how often to measure.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Pairs of blocks.
    pub blocks: u32,
    /// A fraction of the calls, for a smoke test.
    pub quick: bool,
}

impl Effort {
    /// So many calls a block, fewer for a smoke test.
    pub fn calls(self, full: usize) -> usize {
        if self.quick { (full / 20).max(3) } else { full }
    }

    /// So many milliseconds a block, fewer for a smoke test.
    pub fn limit_ms(self, full: u64) -> u64 {
        if self.quick { (full / 10).max(1) } else { full }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.role {
        Some(Role::Role { arguments }) => play(arguments),
        None => run(&cli),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lm-peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// In another process: plays a role.
fn play(arguments: &[String]) -> Result<()> {
    peer::end_with_parent();
    let (role, rest) = arguments.split_first().ok_or("no role")?;
    let first = rest.first().map_or("", String::as_str);
    match role.as_str() {
        "serve" => {
            let setting = Setting::of_arguments(&rest[1..])?;
            place::pin(setting.place.far());
            (kind(first)?.serve)(&setting)
        }
        "client" => drive::client(kind(first)?, &Setting::of_arguments(&rest[1..])?),
        "floor" => drive::floor(first, &Setting::of_arguments(&rest[1..])?),
        "respond" => {
            place::pin(first.parse().ok());
            floors::respond(&rest[1..]);
            Ok(())
        }
        "burn" => drive::burn(first.parse()?),
        "daemon" => peers::become_daemon(rest),
        other => Err(format!("nobody plays {other}").into()),
    }
}

fn kind(name: &str) -> Result<&'static Kind> {
    let kind = peers::all().into_iter().find(|kind| kind.name == name);
    Ok(kind.ok_or_else(|| format!("no peer is called {name}"))?)
}

fn run(cli: &Cli) -> Result<()> {
    let rows: Vec<_> = rows::all()
        .into_iter()
        .filter(|row| cli.only.as_ref().is_none_or(|part| row.name.contains(part)))
        .collect();
    let is_chosen = |name: &str| {
        cli.peers.is_empty()
            || cli.peers.iter().any(|part| name.to_lowercase().contains(&part.to_lowercase()))
    };
    // Ours is in every contest.
    let kinds: Vec<_> = peers::all().into_iter().skip(1).filter(|k| is_chosen(k.name)).collect();
    if cli.list {
        println!("rows:");
        rows.iter().for_each(|row| println!("  {}", row.name));
        println!("peers:");
        kinds.iter().for_each(|kind| println!("  {}: {}", kind.name, kind.how));
        return Ok(());
    }
    if rows.is_empty() || kinds.is_empty() {
        return Err("no row or no peer has such a name; see --list".into());
    }
    let report = if cli.from.is_empty() { measure(cli, &rows, &kinds) } else { read(&cli.from)? };
    print!("{}", table::render(&report));
    if let Some(file) = &cli.json {
        std::fs::write(file, serde_json::to_string(&report)?)?;
    }
    if let Some(folder) = &cli.charts {
        draw(&report, folder)?;
    }
    Ok(())
}

fn measure(cli: &Cli, rows: &[rows::Row], kinds: &[&'static Kind]) -> Report {
    peers::clean_up_after_others();
    let effort = Effort { blocks: if cli.quick { 3 } else { cli.blocks }, quick: cli.quick };
    let machine = machine::Machine::here();
    let mut outcomes = Vec::new();
    for row in rows {
        if row.needs_two_cores() && machine.cores < 2 {
            eprintln!("{}: skipped, it needs two cores", row.name);
            continue;
        }
        eprintln!("{} …", row.name);
        outcomes.push(row.measure(effort, kinds));
    }
    let machine::Machine { processor, cores, kernel, compiler, date, .. } = machine;
    Report {
        machine: format!("{processor}, {cores} cores; {kernel}; {compiler}"),
        commits: vec![env!("BUILT_COMMIT").to_owned()],
        date,
        blocks: effort.blocks,
        is_quick: effort.quick,
        versions: versions::all(),
        outcomes,
    }
}

fn read(files: &[PathBuf]) -> Result<Report> {
    let mut report: Option<Report> = None;
    for file in files {
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let next: Report = serde_json::from_str(&text)?;
        match &mut report {
            Some(report) => report.take_in(next),
            None => report = Some(next),
        }
    }
    Ok(report.ok_or("no file")?)
}

fn draw(report: &Report, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    charts::draw(report, folder)
}
