//! What can go wrong, as states a program can act on and a sentence a person understands.

use std::{fmt, io};

use crate::ServiceName;

/// A result with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. Each state names the service it is about.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name cannot be a service's name.
    #[error("\"{name}\" is not a service name: {reason}")]
    InvalidName {
        /// The name, made printable.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No service runs under the name.
    #[error("no service \"{service}\" is to be found: {reason}")]
    NotFound {
        /// The name that was looked up.
        service: ServiceName,
        /// Where it was looked for, and what to do.
        reason: String,
    },
    /// The service is started on demand, and could not be.
    #[error(
        "service \"{service}\" could not be started; what starts it says why (rocketd's output, or systemctl status)"
    )]
    NotStarted {
        /// The service.
        service: ServiceName,
    },
    /// A living service holds the name.
    #[error("the name \"{service}\" is in use by {}", if *on_demand {
        "whoever starts it on demand, rocketd or systemd; if that has started this program, check in \
         (check_in), without a shell in between, else have it let go of the name"
    } else {
        "a running service; stop that one first"
    })]
    NameInUse {
        /// The name.
        service: ServiceName,
        /// Nobody runs it, but somebody listens for it and starts it on demand.
        on_demand: bool,
    },
    /// The registry folder or the service may not be used.
    #[error("service \"{service}\": access denied: {reason}")]
    Denied {
        /// The name.
        service: ServiceName,
        /// Which file or folder, and what is wrong with it.
        reason: String,
    },
    /// The service went away and surely never ran the message.
    #[error("service \"{service}\" went away before it took the message; sending again is safe")]
    NotDelivered {
        /// The service.
        service: ServiceName,
    },
    /// The service died after it took the message, which may have run.
    #[error("service \"{service}\" died after it took the message, which may have run")]
    PeerDied {
        /// The service.
        service: ServiceName,
    },
    /// The service dropped the request unanswered.
    #[error("service \"{service}\" took the message but did not reply")]
    NoReply {
        /// The service.
        service: ServiceName,
    },
    /// The deadline passed.
    #[error("service \"{service}\" did not {}", if *delivered {
        "reply in time; the message was delivered and may have run"
    } else {
        "take the message in time; it was not delivered"
    })]
    TimedOut {
        /// The service.
        service: ServiceName,
        /// Whether the service had taken the message.
        delivered: bool,
    },
    /// The deadline passed while the service's queue was full; the message was not sent.
    #[error("the queue of service \"{service}\" stayed full; the message was not sent")]
    QueueFull {
        /// The service.
        service: ServiceName,
    },
    /// The payload is larger than 4 GiB − 1.
    #[error("service \"{service}\": a payload of {len} bytes is more than the limit of 4294967295")]
    TooLarge {
        /// The service.
        service: ServiceName,
        /// The payload's length in bytes.
        len: u64,
    },
    /// The peer broke the protocol; its lane was closed.
    #[error("service \"{service}\" broke the protocol ({what}); the connection was closed")]
    Malformed {
        /// The service.
        service: ServiceName,
        /// What was wrong.
        what: &'static str,
    },
    /// The two sides speak different versions of the protocol.
    #[error(
        "service \"{service}\" speaks protocol version {theirs}, which this program does not; update the older of the two"
    )]
    Version {
        /// The service.
        service: ServiceName,
        /// The version that the peer speaks.
        theirs: u16,
    },
    /// The calling thread itself runs the service, so it could never be answered.
    #[error(
        "service \"{service}\" is run by the calling thread, which would wait for itself for ever; call from another thread"
    )]
    WouldDeadlock {
        /// The service.
        service: ServiceName,
    },
    /// A payload is not of the kind that was to be read from it, or cannot be written as one. The
    /// message itself arrived well.
    #[error("the payload is not {expected}: {reason}")]
    WrongKind {
        /// What was expected, in words.
        expected: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refused something.
    #[error("service \"{service}\": cannot {doing}: {source}")]
    Os {
        /// The service.
        service: ServiceName,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// The service that the error is about; `None` if the name was not one, or if it is about a
    /// payload alone.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Error::InvalidName { .. } | Error::WrongKind { .. } => None,
            Error::NotFound { service, .. }
            | Error::NotStarted { service }
            | Error::NameInUse { service, .. }
            | Error::Denied { service, .. }
            | Error::NotDelivered { service }
            | Error::PeerDied { service }
            | Error::NoReply { service }
            | Error::TimedOut { service, .. }
            | Error::QueueFull { service }
            | Error::TooLarge { service, .. }
            | Error::Malformed { service, .. }
            | Error::Version { service, .. }
            | Error::WouldDeadlock { service }
            | Error::Os { service, .. } => Some(service),
        }
    }
}

/// The state and the sentence: it is what a program prints whose `main` returns the error.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self {
            Error::InvalidName { .. } => "InvalidName",
            Error::NotFound { .. } => "NotFound",
            Error::NotStarted { .. } => "NotStarted",
            Error::NameInUse { .. } => "NameInUse",
            Error::Denied { .. } => "Denied",
            Error::NotDelivered { .. } => "NotDelivered",
            Error::PeerDied { .. } => "PeerDied",
            Error::NoReply { .. } => "NoReply",
            Error::TimedOut { .. } => "TimedOut",
            Error::QueueFull { .. } => "QueueFull",
            Error::TooLarge { .. } => "TooLarge",
            Error::Malformed { .. } => "Malformed",
            Error::Version { .. } => "Version",
            Error::WouldDeadlock { .. } => "WouldDeadlock",
            Error::WrongKind { .. } => "WrongKind",
            Error::Os { .. } => "Os",
        };
        write!(f, "{state} ({self})")
    }
}
