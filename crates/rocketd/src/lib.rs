//! The rooms of `rocketd`, an optional daemon that looks services up for programs that cannot see the
//! registry's folder, and starts services on demand. It handles names, never a message.
//!
//! `broker` is the loop; `talks` are the connections to it, `names` what is unlocked, `demand` what is
//! started on demand. `policy` says who may, of what `asker` finds out about them, and `quota` how
//! often.
#![forbid(unsafe_code)]

pub mod asker;
pub mod backoff;
mod become_service;
mod broker;
mod demand;
mod flatpak;
mod mounts;
mod names;
mod options;
mod pattern;
pub mod policy;
pub mod quota;
pub mod service_file;
mod signals;
mod socket;
mod talks;
pub mod toml_file;

use std::fmt;

pub use options::Options;

use policy::Policy;

/// Why rocketd cannot go on, in a sentence.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    pub(crate) fn new(sentence: String) -> Failure {
        Failure(sentence)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Does what the command line says: runs until SIGINT or SIGTERM, as a rule. `starter` are the arguments
/// with which this same program comes to its options again.
///
/// # Errors
///
/// Whatever keeps it from listening, and what is wrong with a policy that is checked.
pub fn run(options: &Options, starter: &[&str]) -> Result<(), Failure> {
    if let Some(command) = &options.become_service {
        let error = become_service::become_service(command, options.descriptors);
        let program = command.first().map(|program| program.display().to_string());
        return Err(Failure::new(format!("cannot run {}: {error}", program.unwrap_or_default())));
    }
    if let Some(file) = &options.check {
        Policy::load(file).map_err(|error| Failure::new(error.to_string()))?;
        println!("{} is a good policy", file.display());
        return Ok(());
    }
    if let Some(file) = &options.check_service {
        service_file::ServiceFile::load(file).map_err(|error| Failure::new(error.to_string()))?;
        println!("{} is a good service file", file.display());
        return Ok(());
    }
    let level = match options.verbose {
        0 => tracing::Level::INFO,
        1 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    // Nobody else in this process says where its news go, but if so, that is as well.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
    broker::Broker::new(options.settings(), starter)?.run()
}
