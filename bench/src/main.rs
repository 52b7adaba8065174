//! Measures LightMessaging against floors written by hand, in the same run.
//!
//! Every row has two processes; floor and ours alternate in blocks, so that what the machine does
//! meanwhile hits both. Run it on a quiet machine with two cores or more:
//!
//! ```text
//! cargo run --release --manifest-path bench/Cargo.toml
//! ```

mod c;
mod cpu;
mod crowd;
mod floors;
mod futures;
mod machine;
mod memory;
mod ours;
mod peer;
mod place;
mod rivals;
mod rocket;
mod rows;
mod scale;
mod shared;
mod stats;
mod table;
mod threads;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures LightMessaging against hand-written floors.
#[derive(Parser)]
#[command(name = "lm-bench")]
struct Cli {
    /// Measure only the rows whose name contains this.
    #[arg(long, value_name = "SUBSTRING")]
    only: Option<String>,
    /// Pairs of blocks for each row.
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..1000))]
    blocks: u32,
    /// A smoke test of every row: three short blocks, figures of little worth.
    #[arg(long)]
    quick: bool,
    /// Write every block's figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// List the rows and measure nothing.
    #[arg(long)]
    list: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// The other process of a row.
    #[command(hide = true)]
    Peer { arguments: Vec<String> },
}

/// How long and how often to measure.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Pairs of blocks.
    pub blocks: u32,
    /// A tenth of the calls, for a smoke test.
    pub quick: bool,
}

impl Effort {
    /// So many calls a block, fewer for a smoke test.
    pub fn calls(self, full: usize) -> usize {
        if self.quick { (full / 20).max(8) } else { full }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Role::Peer { arguments }) = cli.role {
        peer::play(&arguments);
        return ExitCode::SUCCESS;
    }
    let effort = Effort { blocks: if cli.quick { 3 } else { cli.blocks }, quick: cli.quick };
    let rows = rows::all();
    let chosen: Vec<_> = rows
        .iter()
        .filter(|row| cli.only.as_ref().is_none_or(|part| row.name.contains(part)))
        .collect();
    if cli.list {
        chosen.iter().for_each(|row| println!("{}", row.name));
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        eprintln!("lm-bench: no row's name contains that; see --list");
        return ExitCode::from(2);
    }
    let machine = machine::Machine::here();
    let mut lines = Vec::new();
    for row in chosen {
        if row.needs_two_cores && machine.cores < 2 {
            eprintln!("{}: skipped, it needs two cores", row.name);
            continue;
        }
        eprintln!("{} …", row.name);
        lines.extend((row.measure)(effort));
    }
    print!("{}", table::render(&machine, &lines, effort));
    if let Some(file) = cli.json {
        let text = table::json(&machine, &lines);
        if let Err(error) = std::fs::write(&file, text) {
            eprintln!("lm-bench: cannot write {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
