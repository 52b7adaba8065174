//! Simple, low-level, very fast messages between processes of one machine.
//!
//! A *service* starts under a *name* and gets a callback per request; a *connection* is a name, and
//! a *message* is a signed 32-bit id and bytes. One-way messages are sent and forgotten, two-way
//! messages wait for their reply.

mod error;
mod message;
mod name;

pub use error::{Error, Result};
pub use message::{Deadline, INLINE_MAX, PAYLOAD_MAX, Wait};
pub use name::ServiceName;
