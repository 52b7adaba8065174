//! How a program without a tokio runtime lets its futures move on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Wake;
use std::time::Duration;

use super::Connection;
use super::reactor::Reactor;
use crate::sys::{Bell, Poll};
use crate::wait::Clock;
use crate::{Deadline, Error, Result};

/// What the futures of a [`Connection`] and its clones wait for, as one descriptor.
///
/// Nobody needs it in a tokio runtime, with the feature `tokio`. Elsewhere the program's own loop
/// waits until the descriptor is readable and then calls [`dispatch`](Events::dispatch), which wakes
/// the futures that may move on; or a thread that has nothing else to do [waits](Events::wait):
///
/// ```
/// # use lightmessaging::{Registry, Service};
/// use std::pin::pin;
/// use std::sync::Arc;
/// use std::task::{Context, Poll, Waker};
///
/// use lightmessaging::{Connection, Deadline, Events, Result};
///
/// /// Polls a future until it is ready.
/// fn block_on<F: Future>(events: &Events, future: F) -> Result<F::Output> {
///     let mut future = pin!(future);
///     let waker = Waker::from(Arc::new(events.clone()));
///     loop {
///         if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
///             return Ok(output);
///         }
///         events.wait(Deadline::Never)?;
///     }
/// }
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let registry = Registry::at(folder.path());
/// # let mut service = Service::builder("com.example.echo")
/// #     .registry(registry.clone())
/// #     .start(|request| {
/// #         let (message, reply) = request.split();
/// #         let _ = reply.reply(message.data());
/// #     })?;
/// # let stop = service.stop_handle();
/// # let serving = std::thread::spawn(move || service.run());
/// let echo = Connection::builder("com.example.echo")
/// #   .registry(registry)
///     .build()?;
/// let events = echo.events()?;
/// let (first, second) = block_on(&events, async {
///     let first = echo.send_two_way_async(1, "one");
///     let second = echo.send_two_way_async(1, "two");
///     (first.await, second.await)
/// })?;
/// assert_eq!((first?.data(), second?.data()), (&b"one"[..], &b"two"[..]));
/// # stop.stop();
/// # serving.join().unwrap()?;
/// # Ok::<(), lightmessaging::Error>(())
/// ```
///
/// As a waker it has [`wait`](Events::wait) return, which is all that a thread needs which waits
/// there; each such thread asks the connection for events of its own, as clones are one. Other
/// executors use their own wakers.
#[derive(Clone, Debug)]
pub struct Events {
    reactor: Arc<Reactor>,
    seat: Arc<Seat>,
}

/// Where a thread waits for the reactor, or to be notified.
#[derive(Debug)]
struct Seat {
    poll: Poll,
    bell: Bell,
    /// Whoever waits next is not to wait.
    is_notified: AtomicBool,
    /// How many wait.
    waiting: AtomicUsize,
}

const REACTOR: u64 = 0;
const BELL: u64 = 1;

impl Connection {
    /// What this connection's futures wait for, for programs that have no tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] if there is no descriptor left.
    pub fn events(&self) -> Result<Events> {
        let here = self.here();
        let reactor = here.reactor()?.clone();
        let seat = Seat::new(&reactor).map_err(|source| Error::Os {
            service: here.name.clone(),
            doing: "make what a thread waits in",
            source,
        })?;
        Ok(Events { reactor, seat: Arc::new(seat) })
    }
}

impl Seat {
    fn new(reactor: &Reactor) -> io::Result<Seat> {
        let (poll, bell) = (Poll::new()?, Bell::new()?);
        poll.add(reactor, REACTOR)?;
        poll.add_bell(&bell, BELL)?;
        let (is_notified, waiting) = (AtomicBool::new(false), AtomicUsize::new(0));
        Ok(Seat { poll, bell, is_notified, waiting })
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        // Pairs with `notify`: at least one of the two sides sees the other's word.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let is_notified = self.is_notified.swap(false, Ordering::SeqCst);
        let timeout = if is_notified { Some(Duration::ZERO) } else { timeout };
        let waited = self.poll.wait(&mut Vec::new(), timeout).map(drop);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        waited
    }

    fn notify(&self) {
        self.is_notified.store(true, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.bell.ring();
        }
    }
}

impl Events {
    /// Wakes the futures that may move on, and returns at once.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] in a forked child, whose futures have events of their own.
    pub fn dispatch(&self) -> Result<()> {
        self.check()?;
        self.reactor.dispatch().map_err(|source| self.os(source))
    }

    /// Waits until a future may move on, and wakes it; or until [`notify`](Events::notify) is called,
    /// a signal handler has run or the deadline has passed. It may return without any reason.
    ///
    /// # Errors
    ///
    /// As [`dispatch`](Events::dispatch).
    pub fn wait(&self, deadline: impl Into<Deadline>) -> Result<()> {
        self.check()?;
        let left = Clock::new(deadline.into()).left();
        self.seat.wait(left).map_err(|source| self.os(source))?;
        self.dispatch()
    }

    /// Has [`wait`](Events::wait) return, now or the next time, in the thread that waits with these
    /// events or a clone of them.
    pub fn notify(&self) {
        if self.reactor.is_ours() {
            self.seat.notify();
        }
    }

    fn check(&self) -> Result<()> {
        if self.reactor.is_ours() {
            return Ok(());
        }
        Err(self.os(io::Error::other("they are those of the process that forked this one")))
    }

    fn os(&self, source: io::Error) -> Error {
        let service = self.reactor.service().clone();
        Error::Os { service, doing: "wait for events", source }
    }
}

/// Readable when a future may move on.
impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reactor.as_fd()
    }
}

impl Wake for Events {
    fn wake(self: Arc<Events>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Events>) {
        self.notify();
    }
}
