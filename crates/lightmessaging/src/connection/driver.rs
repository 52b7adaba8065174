//! In a tokio runtime: a task that does for the reactor what a program without one does itself.
//!
//! Each runtime in which a future of the connection has slept has one such task, so that none depends
//! on another that may be stopped or gone. It ends with the connection, or with its runtime.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, Id};

use super::reactor::Reactor;
use crate::lane::lock;
use crate::sys::{Bell, Poll};

/// The tasks of a reactor.
#[derive(Debug)]
pub(super) struct Drivers {
    /// The runtimes that have one.
    runtimes: Mutex<Vec<Id>>,
    are_dismissed: AtomicBool,
    /// Tells them that they are.
    bell: Bell,
}

/// The reactor's epoll, for another one to wait for.
struct Source(Arc<Reactor>);

/// A runtime has its task until this is dropped.
struct Driver {
    reactor: Weak<Reactor>,
    runtime: Id,
}

impl Drivers {
    /// No task yet. The bell is added to the epoll under a number.
    pub(super) fn new(poll: &Poll, number: u64) -> io::Result<Drivers> {
        let bell = Bell::new()?;
        poll.add_bell(&bell, number)?;
        Ok(Drivers { runtimes: Mutex::default(), are_dismissed: AtomicBool::new(false), bell })
    }

    /// Has the tasks end.
    pub(super) fn dismiss(&self) {
        self.are_dismissed.store(true, Ordering::Relaxed);
        self.bell.ring();
    }

    /// Sees to it that the runtime in whose context this is called, if there is one, has its task.
    ///
    /// # Panics
    ///
    /// If that runtime has no I/O, as sockets of tokio do.
    pub(super) fn ensure(reactor: &Arc<Reactor>) {
        let Ok(handle) = Handle::try_current() else { return };
        let runtime = handle.id();
        {
            let runtimes = lock(&reactor.drivers().runtimes);
            if runtimes.contains(&runtime) {
                return;
            }
        }
        // Here and not in the task, so that a panic is the caller's. If the runtime is about to end,
        // so are its tasks, and whoever asks elsewhere has another.
        let source = Source(reactor.clone());
        // Its successor is unsafe, as a source's descriptor must stay the same and open: this one's does.
        #[allow(deprecated)]
        let Ok(source) = AsyncFd::with_interest(source, Interest::READABLE) else { return };
        {
            let mut runtimes = lock(&reactor.drivers().runtimes);
            if runtimes.contains(&runtime) {
                return;
            }
            runtimes.push(runtime);
        }
        let driver = Driver { reactor: Arc::downgrade(reactor), runtime };
        handle.spawn(async move {
            let _driver = driver;
            while !source.get_ref().0.drivers().are_dismissed.load(Ordering::Relaxed) {
                let Ok(mut news) = source.readable().await else { return };
                // Before the reactor is looked at: what comes after that is news again.
                news.clear_ready();
                if source.get_ref().0.dispatch().is_err() {
                    return;
                }
            }
        });
    }
}

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(reactor) = self.reactor.upgrade()
            && reactor.is_ours()
        {
            lock(&reactor.drivers().runtimes).retain(|runtime| *runtime != self.runtime);
        }
    }
}
