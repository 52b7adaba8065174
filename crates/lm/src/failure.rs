//! Why a command failed: `NAME: sentence`.

use std::{fmt, io};

use lightmessaging::{Error, ServiceName};

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// About a service.
    Service(String, String),
    /// Standard output was closed, which is nobody's fault.
    Closed,
}

impl Failure {
    /// A failure that concerns a service, in a sentence.
    pub fn about(name: &ServiceName, sentence: impl fmt::Display) -> Failure {
        Failure::Service(name.to_string(), sentence.to_string())
    }

    /// A failure while writing to standard output.
    pub fn output(name: impl fmt::Display, error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::Service(name.to_string(), format!("cannot write the output: {error}")),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let name = error.service().map_or_else(|| "lm".to_owned(), ServiceName::to_string);
        Failure::Service(name, error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Service(name, sentence) => write!(f, "{name}: {sentence}"),
            Failure::Closed => write!(f, "standard output was closed"),
        }
    }
}
