//! A timer that an epoll waits for (`timerfd_create(2)`).
//!
//! A timeout of the sleep itself would be set and taken back with every sleep, which costs half a
//! microsecond; this one is set once and left alone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::Fd;

/// Becomes readable once a time has passed.
#[derive(Debug)]
pub struct Timer(Fd);

impl Timer {
    /// Does not fire yet.
    pub fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Timer(rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?.into()))
    }

    /// Fires after a time, and not at the one that was set before.
    pub fn set(&self, time: Duration) {
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A time beyond the kernel's range is for ever, and zero would be never. The only errors are those of
        // wrong arguments.
        if let Ok(time) = Timespec::try_from(time.max(Duration::from_nanos(1))) {
            let time = Itimerspec { it_interval: once, it_value: time };
            let _ = rustix::time::timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &time);
        }
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
