//! `lm`: start, call and watch LightMessaging services from the command line.
#![forbid(unsafe_code)]

mod call;
mod demo;
mod failure;
mod ls;
mod ping;
mod serve;
mod unlock;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, Subcommand};
use lightmessaging::ServiceName;

use failure::Failure;

const EXAMPLES: &str = "\
Examples:
  lm demo                              see everything work
  lm serve clock --exec date &         a service named \"clock\"
  lm call clock 1                      ask it
  lm serve mirror --echo &
  lm call mirror 7 --file photo.jpg > copy.jpg
  lm ping mirror                       how fast is it?
  lm ls                                which services run?
  lm rocketd &                         for sandboxes, and for services on demand
  lm unlock clock                      let sandboxed programs reach it
  lm call --wait clock 1               wait for it to come

Services live in the folder $LIGHTMESSAGING_DIR, else $XDG_RUNTIME_DIR/lightmessaging,
else lightmessaging-UID in the temporary directory. Exit codes: 0 success, 1 error, 2 wrong usage.";

/// Start, call and watch services that exchange messages on this machine.
#[derive(Parser)]
#[command(name = "lm", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show everything at work: a service, a client, a crash and a recovery.
    Demo,
    /// Run a service until SIGINT or SIGTERM.
    Serve(serve::Serve),
    /// Send a two-way message and write the reply to standard output.
    Call(call::Call),
    /// Send a one-way message.
    Send(call::Send),
    /// Measure the round trip to an `--echo` service.
    Ping(ping::Ping),
    /// List the services that run, and those that can be reached through rocketd.
    Ls(ls::Ls),
    /// Let programs that cannot see the registry reach a running service through rocketd.
    Unlock(unlock::Unlock),
    /// Look services up for programs that cannot, and start services on demand, until SIGINT or SIGTERM.
    Rocketd(rocketd::Options),
    #[command(hide = true)]
    DemoService,
    #[command(hide = true)]
    DemoClient,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo => demo::run(),
        Command::Serve(serve) => serve.run(),
        Command::Call(call) => call.run(),
        Command::Send(send) => send.run(),
        Command::Ping(ping) => ping.run(),
        Command::Ls(ls) => ls.run(),
        Command::Unlock(unlock) => unlock.run(),
        Command::Rocketd(options) => rocketd::run(&options, &["rocketd"])
            .map_err(|failure| Failure::Service("rocketd".to_owned(), failure.to_string())),
        Command::DemoService => demo::service(),
        Command::DemoClient => demo::client(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lm: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Understands a NAME argument, whatever its bytes.
fn name() -> impl TypedValueParser<Value = ServiceName> {
    OsStringValueParser::new().try_map(|text: OsString| ServiceName::new(text.as_bytes()))
}
