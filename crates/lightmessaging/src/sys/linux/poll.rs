//! One place to sleep: epoll (`epoll(7)`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::{Bell, Fd, Timer, limit};

/// Waits for bells and sockets, each known by a number.
#[derive(Debug)]
pub struct Poll(Fd);

/// One thing that has news.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The number it was added under.
    pub token: u64,
    /// The peer has closed its end.
    pub hung_up: bool,
}

impl Poll {
    /// Waits for nothing yet.
    pub fn new() -> io::Result<Poll> {
        Ok(Poll(limit::within(|| epoll::create(CreateFlags::CLOEXEC))?.into()))
    }

    /// Reports the bell once for each ring.
    pub(crate) fn add_bell(&self, bell: &Bell, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.0, bell, EventData::new_u64(token), EventFlags::IN | EventFlags::ET)?)
    }

    /// Reports the timer once each time it fires.
    pub fn add_timer(&self, timer: &Timer, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.0, timer, EventData::new_u64(token), EventFlags::IN | EventFlags::ET)?)
    }

    /// Reports whatever there is to read, and the end of the peer, for as long as it is so.
    pub fn add(&self, source: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::RDHUP;
        Ok(epoll::add(&self.0, source, EventData::new_u64(token), flags)?)
    }

    /// Reports the same once, to one of those who wait, and then no more until it is
    /// [asked to](Poll::resume).
    pub(crate) fn add_once(&self, source: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT;
        Ok(epoll::add(&self.0, source, EventData::new_u64(token), flags)?)
    }

    /// Reports what there is, or comes next, of a source that was to be reported once.
    pub(crate) fn resume(&self, source: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT;
        Ok(epoll::modify(&self.0, source, EventData::new_u64(token), flags)?)
    }

    /// Stops or resumes the reports of a source that was added.
    pub fn enable(&self, source: impl AsFd, token: u64, enabled: bool) -> io::Result<()> {
        let flags = if enabled { EventFlags::IN | EventFlags::RDHUP } else { EventFlags::empty() };
        Ok(epoll::modify(&self.0, source, EventData::new_u64(token), flags)?)
    }

    /// Reports a source no more.
    pub fn remove(&self, source: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, source)?)
    }

    /// Sleeps until there is news, `timeout` has passed (`None`: never) or a signal handler has
    /// run, and returns what has news, up to 64 at once. Callers look at their clock again.
    pub fn wait<'a>(
        &self,
        events: &'a mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> io::Result<&'a [Event]> {
        let mut buffer = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 64];
        events.clear();
        // A timeout beyond the kernel's range is for ever.
        let timespec = timeout.and_then(|t| Timespec::try_from(t).ok());
        match epoll::wait(&self.0, &mut buffer, timespec.as_ref()) {
            Ok((ready, _)) => events.extend(ready.iter().map(|event| {
                // Copied out: the kernel's struct is packed.
                let (flags, data) = (event.flags, event.data);
                let ends = EventFlags::HUP | EventFlags::RDHUP | EventFlags::ERR;
                Event { token: data.u64(), hung_up: flags.intersects(ends) }
            })),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(events)
    }
}

impl AsFd for Poll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
