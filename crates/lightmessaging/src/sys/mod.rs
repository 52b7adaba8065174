//! What a platform must provide, and the only place that asks which platform this is.
//!
//! A platform gives these, each a small type with the same name and meaning everywhere:
//!
//! - [`Fd`]: an owned descriptor that no `exec` and no forked child keeps alive.
//! - [`Socket`]: a connected, ordered, message-preserving channel that carries descriptors and the
//!   kernel's word on who sent them, and that ends at once when its peer's process ends.
//! - [`memory`]: shared memory whose writer can neither shrink it nor open holes in it.
//! - [`Bell`]: wakes a sleeping peer; ringing never blocks, whatever the peer did to it.
//! - [`Poll`]: sleeps until one of several of these has news, or a deadline passes.
//! - [`Timer`]: wakes its own process after a time, at no cost to the sleeps in between.
//! - [`inherited`]: channels' ends that listened before the process began.
//! - [`fork`]: tells a forked child from the process that made a thing.
//! - [`is_process`]: whether a handle stands for a process.
//! - [`core`]: the core this thread runs on.
//!
//! Nothing here knows of services, messages or policies.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::*;

#[cfg(not(target_os = "linux"))]
compile_error!("LightMessaging runs on Linux only, so far");
