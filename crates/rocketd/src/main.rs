//! `rocketd`: looks LightMessaging services up for programs that cannot.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "rocketd", version, about)]
struct Cli {
    #[command(flatten)]
    options: rocketd::Options,
}

fn main() -> ExitCode {
    match rocketd::run(&Cli::parse().options, &[]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("rocketd: {failure}");
            ExitCode::FAILURE
        }
    }
}
