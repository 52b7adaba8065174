//! Linux: Unix sockets, sealed memfds, eventfds, timers and epoll.

mod bell;
mod cpu;
mod fd;
pub(crate) mod fork;
pub(crate) mod inherited;
pub(crate) mod memory;
mod poll;
mod socket;
mod timer;

pub(crate) use bell::Bell;
pub(crate) use cpu::core;
pub(crate) use fd::Fd;
pub(crate) use poll::{Event, Poll};
pub(crate) use socket::{Credentials, Listener, Socket};
pub(crate) use timer::Timer;
