//! Simple, low-level, very fast messages between processes of one machine.
//!
//! A *service* starts under a *name* and gets a callback per request; a *connection* is a name, and
//! a *message* is a signed 32-bit id and bytes. One-way messages are sent and forgotten, two-way
//! messages wait for their reply.

mod buffer;
mod connection;
mod deadlock;
mod error;
mod lane;
mod message;
mod name;
mod payload;
mod peer;
mod registry;
mod request;
mod response;
mod service;
mod shm;
mod sys;
mod wait;
mod watch;
mod wire;

pub use connection::{Connection, ConnectionBuilder};
pub use error::{Error, Result};
pub use message::{Deadline, INLINE_MAX, Message, PAYLOAD_MAX, Wait};
pub use name::ServiceName;
pub use payload::{Payload, PayloadReader};
pub use peer::Peer;
pub use registry::{Registry, ServiceInfo};
pub use request::{ClientId, Reply, Request};
pub use response::Response;
pub use service::{Client, ClientEvent, Service, ServiceBuilder, Stats, StopHandle};
pub use watch::{ServiceEvent, Watch};
