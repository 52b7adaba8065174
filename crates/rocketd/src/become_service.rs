//! The last step of starting a service on demand: in the process that is to become it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Resource, Rlimit};

/// Says which process the socket is meant for (`sd_listen_fds(3)`), which only that process itself
/// knows, and becomes the command. Returns if that fails.
pub(crate) fn become_service(command: &[OsString], descriptors: Option<u64>) -> std::io::Error {
    let Some((program, arguments)) = command.split_first() else {
        return std::io::ErrorKind::InvalidInput.into();
    };
    // rocketd has raised its own. Programs that use select(2) cannot live with more than 1024.
    if let Some(current) = descriptors {
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: Some(current), maximum };
        let _ = rustix::process::setrlimit(Resource::Nofile, limit);
    }
    Command::new(program).args(arguments).env("LISTEN_PID", std::process::id().to_string()).exec()
}
