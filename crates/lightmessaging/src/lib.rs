//! Simple, low-level, very fast messages between processes of one machine.
//!
//! A *service* starts under a *name* and gets a callback per request; a *connection* is a name, and
//! a *message* is a signed 32-bit id and bytes. One-way messages are sent and forgotten, two-way
//! messages wait for their reply. There is no daemon, and no thread that you have not
//! [asked for](ServiceBuilder::threads).
//!
//! ```
//! use lightmessaging::{Connection, Registry, Service};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let registry = Registry::at(folder.path());
//! let mut service = Service::builder("com.example.greeter")
//! #   .registry(registry.clone())
//!     .start(|request| {
//!         let name = String::from_utf8_lossy(request.data()).into_owned();
//!         let _ = request.reply(format!("hello, {name}"));
//!     })?;
//! let stop = service.stop_handle();
//! let serving = std::thread::spawn(move || service.run());
//!
//! // Usually in another process:
//! let greeter = Connection::builder("com.example.greeter")
//! #   .registry(registry)
//!     .build()?;
//! let response = greeter.send_two_way(1, "world")?;
//! assert_eq!(response.data(), b"hello, world");
//!
//! stop.stop();
//! serving.join().unwrap()?;
//! # Ok::<(), lightmessaging::Error>(())
//! ```
//!
//! # Large payloads
//!
//! More than [`INLINE_MAX`] bytes travel in shared memory that the receiver reads where it is. What is
//! sent as a slice is copied there once. A [`Loan`] is that memory itself, to be filled in place:
//! [`Connection::alloc`], [`Request::alloc_reply`]. What was received is read in pieces by
//! [`Payload::chunks`] or copied once by `data`.
//!
//! # Typed payloads
//!
//! A payload is bytes. [`helpers`] has functions that make bytes of something and something of
//! bytes: [integers](helpers::integer) always; property lists, images and any serde type with the
//! features `plist`, `image` and `serde`. They go with every send and every reply.
//!
//! # Futures
//!
//! Both sends are futures as well: [`send_two_way_async`](Connection::send_two_way_async) and
//! [`send_one_way_async`](Connection::send_one_way_async), for many calls from one thread. With the
//! feature `tokio` they need nothing else in a tokio runtime; other executors let [`Events`] wake them.
//!
//! # What the other side may do
//!
//! It may be another user's, broken or hostile. It can fail to answer, and lose its own connection;
//! it cannot crash this process, make it hang beyond a deadline, or change what
//! [`data`](Request::data) returned. It does keep a writable mapping of what it sent out of line, so
//! what [`payload`](Request::payload) reads in place may differ from one read to the next, and only
//! `unsafe` code gets a slice of it.
//!
//! # Implementation notes
//!
//! On Linux a connection is a Unix socket and one sealed memfd per direction; sleepers are woken by
//! eventfds. Descriptors are close-on-exec, and a forked child has none of its parent's
//! connections: its copies of them connect anew on their first use. No signal is used.

mod buffer;
mod changes;
mod connection;
mod data;
mod deadlock;
mod error;
pub mod helpers;
mod lane;
mod loan;
mod message;
mod name;
mod owner;
mod payload;
mod peer;
mod registry;
mod request;
mod response;
mod rocket;
#[cfg(feature = "rocketd")]
#[doc(hidden)]
pub mod rocketd;
mod service;
mod shm;
mod sys;
mod wait;
mod watch;
mod wire;

pub use connection::{Call, Connection, ConnectionBuilder, Events, Post};
pub use data::Data;
pub use error::{Error, Result};
pub use loan::Loan;
pub use message::{Deadline, INLINE_MAX, Message, PAYLOAD_MAX, Wait};
pub use name::ServiceName;
pub use payload::{Payload, PayloadReader};
pub use peer::{Introduction, Peer};
pub use registry::{Registry, ServiceInfo};
pub use request::{ClientId, Reply, Request};
pub use response::Response;
pub use rocket::Reachable;
pub use service::{
    Client, ClientEvent, Ended, RunLoop, RunLoopHandle, Service, ServiceBuilder, Stats, StopHandle,
    Threads,
};
pub use watch::{ServiceEvent, Watch};
