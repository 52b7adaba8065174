//! Linux: Unix sockets, sealed memfds, eventfds, timers and epoll.

mod bell;
mod cpu;
mod discard;
mod fd;
pub(crate) mod fork;
pub(crate) mod inherited;
pub(crate) mod limit;
pub(crate) mod memory;
mod poll;
mod process;
mod socket;
mod timer;

pub(crate) use bell::Bell;
pub(crate) use cpu::core;
pub use fd::Fd;
pub use poll::{Event, Poll};
pub(crate) use process::{Handle, is_process};
#[cfg(feature = "rocketd")]
pub use socket::Packet;
pub use socket::{Credentials, Listener, Socket, is_exhausted, is_momentary};
pub use timer::Timer;
