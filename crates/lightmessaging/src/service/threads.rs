//! One service over several threads.
//!
//! The service is one, under a lock: its lanes, its clients, its timer. Who has the lock takes a message
//! of a lane that nobody has, lets go of it, runs the handler, and has it again to give the lane back.
//! When there is nothing to take, at most one thread spins, and the others sleep in the service's epoll,
//! whose events wake one each.
//!
//! The rules:
//!
//! - Everything of `Service` is touched under the lock only, the handler and the wait excepted.
//! - Nothing of the program's runs under it but the notice of `on_client`, so that clients come before
//!   their messages and go after them. It is held while spinning, and let go of as soon as somebody
//!   *wants* it: that is counted without it.
//! - Nobody waits for anything else while holding it. What the service locks by itself meanwhile (its claim,
//!   a lane's regions, who runs what) is never held across a call of the program's.
//! - Every thread is *asleep*, *busy* or free. Asleep and busy are counted under the lock, before the
//!   thread lets go of it to wait or to handle; it counts as asleep or busy until it has it again. All
//!   who are free look at every lane that is polled before they sleep.
//! - So a lane that says it is polled is polled, or taken, or all are busy; or the one thread that left it
//!   has cared for its relief.
//! - Whoever leaves, for whatever reason, rings for the next: an event wakes one.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::builder::{ServiceBuilder, Start};
use super::idle::TRIM;
use super::relief::{Care, GUARD};
use super::stop::{Running, Shared};
use super::taking::Job;
use super::turns::Gap;
use super::{Service, TEAM};
use crate::sys::{Bell, Event, Poll, Timer};
use crate::wait::{Clock, spin_for};
use crate::{Deadline, Error, Request, Result, buffer, deadlock};

/// The most threads a service may have.
const MOST: usize = 256;

/// Starts a [`Service`] whose handler runs on several threads at once; see
/// [`ServiceBuilder::threads`].
///
/// ```
/// # use lightmessaging::{Connection, Registry, Service};
/// # let folder = tempfile::tempdir().unwrap();
/// # let registry = Registry::at(folder.path());
/// let mut service = Service::builder("com.example.thumbnails")
/// #   .registry(registry.clone())
///     .threads(4)
///     .start(|request| {
///         // Other clients are served meanwhile, by the other three.
///         let _ = request.reply("a small picture");
///     })?;
/// let stop = service.stop_handle();
/// let serving = std::thread::spawn(move || service.run());
/// # let connection = Connection::builder("com.example.thumbnails").registry(registry).build()?;
/// # assert_eq!(connection.send_two_way(1, "")?.data(), b"a small picture");
/// # stop.stop();
/// # serving.join().unwrap()?;
/// # Ok::<(), lightmessaging::Error>(())
/// ```
///
/// [`Service::run`] is where the threads are: the calling one, and so many less one that begin and end
/// with it. A connection's messages are handled one after the other, in order, if by one thread or
/// another; those of different connections at once. A handler that blocks delays its own connection
/// only, as long as one thread is left: a few milliseconds where handlers were short until then.
///
/// - Every thread is one that runs the service: a call to it from its own handler is refused
///   ([`Error::WouldDeadlock`]), and [`StopHandle::stop`](crate::StopHandle::stop) returns at once there.
/// - [`on_client`](ServiceBuilder::on_client) is told by one thread at a time, and all wait for it.
/// - A panic in a handler ends the run: the others finish the handlers that they are in, then it goes on out
///   of [`run`](Service::run).
/// - [`Service::dispatch`], and a [`RunLoop`](crate::RunLoop), serve on their own thread alone.
pub struct Threads {
    builder: ServiceBuilder,
    count: usize,
}

impl Threads {
    pub(super) fn new(builder: ServiceBuilder, count: usize) -> Threads {
        Threads { builder, count }
    }

    /// Starts the service; see [`Service::start`].
    ///
    /// # Errors
    ///
    /// As there; [`Error::Os`] unless the threads are 1 to 256.
    pub fn start(self, handler: impl Fn(Request) + Send + Sync + 'static) -> Result<Service> {
        self.build(handler, Start::New)
    }

    /// Takes over a name that existed before this process did; see [`ServiceBuilder::check_in`].
    ///
    /// # Errors
    ///
    /// As [`start`](Threads::start).
    pub fn check_in(self, handler: impl Fn(Request) + Send + Sync + 'static) -> Result<Service> {
        self.build(handler, Start::CheckIn)
    }

    /// Takes the name over from a running instance; see [`ServiceBuilder::take_over`].
    ///
    /// # Errors
    ///
    /// As there; [`Error::Os`] unless the threads are 1 to 256.
    pub fn take_over(
        self,
        deadline: impl Into<Deadline>,
        handler: impl Fn(Request) + Send + Sync + 'static,
    ) -> Result<Service> {
        self.build(handler, Start::TakeOver(Clock::new(deadline.into())))
    }

    fn build(
        self,
        handler: impl Fn(Request) + Send + Sync + 'static,
        start: Start,
    ) -> Result<Service> {
        match self.count {
            1 => self.builder.build(Box::new(handler), start, None),
            count => {
                let handler: TeamHandler = Arc::new(handler);
                let team = (count, handler.clone());
                self.builder.build(Box::new(move |request| handler(request)), start, Some(team))
            }
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads")
            .field("builder", &self.builder)
            .field("count", &self.count)
            .finish()
    }
}

pub(super) type TeamHandler = Arc<dyn Fn(Request) + Send + Sync>;

/// What a service over several threads has, whether it is being run or not.
pub(super) struct Team {
    count: usize,
    handler: TeamHandler,
    /// Wakes one thread that sleeps.
    bell: Bell,
    /// Wakes one when a handler may have taken long.
    guard: Timer,
}

impl Team {
    pub(super) fn new(count: usize, handler: TeamHandler, poll: &Poll) -> io::Result<Team> {
        if !(2..=MOST).contains(&count) {
            let what = format!("it was to run on {count} threads, and may on 1 to {MOST}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let (bell, guard) = (Bell::new()?, Timer::new()?);
        poll.add_bell(&bell, TEAM)?;
        poll.add_timer(&guard, TEAM)?;
        Ok(Team { count, handler, bell, guard })
    }
}

impl Service {
    /// [`Service::run`] on several threads.
    pub(super) fn run_together(&mut self, team: Arc<Team>) -> Result<()> {
        self.look_at_all();
        let crew = Crew {
            poll: self.poll.clone(),
            shared: self.shared.clone(),
            number: self.number,
            wanted: AtomicUsize::new(0),
            held: Mutex::new(Held {
                team: team.clone(),
                asleep: 0,
                busy: 0,
                over: false,
                gap: None,
                service: self,
            }),
            team,
        };
        // A panic on the calling thread goes on once the others have ended.
        thread::scope(|scope| {
            let mut helpers = Vec::new();
            let mut end = Ok(());
            for _ in 1..crew.team.count {
                match thread::Builder::new().spawn_scoped(scope, || crew.help()) {
                    Ok(helper) => helpers.push(helper),
                    Err(source) => {
                        let mut held = crew.lock();
                        held.finish();
                        let service = held.service.name.clone();
                        end = Err(Error::Os { service, doing: "start a thread", source });
                        break;
                    }
                }
            }
            end = end.and_then(|()| crew.work());
            for helper in helpers {
                end = end.and(helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
            }
            end
        })
    }
}

/// The threads that run a service together.
struct Crew<'a> {
    held: Mutex<Held<'a>>,
    /// How many wait for the lock.
    wanted: AtomicUsize,
    poll: Arc<Poll>,
    shared: Arc<Shared>,
    number: u64,
    team: Arc<Team>,
}

/// What the lock is held for.
struct Held<'a> {
    service: &'a mut Service,
    team: Arc<Team>,
    /// Threads in the epoll.
    asleep: usize,
    /// Threads in a handler.
    busy: usize,
    /// The run has ended.
    over: bool,
    /// Begins when the last thread goes to sleep.
    gap: Option<Gap>,
}

type Hold<'c, 'a> = MutexGuard<'c, Held<'a>>;

/// Ends the run for all when one thread ends, in whatever manner.
struct Shift<'c, 'a>(&'c Crew<'a>);

impl Drop for Shift<'_, '_> {
    fn drop(&mut self) {
        let mut held = self.0.lock();
        held.finish();
        if held.service.is_stopped() {
            // Those who are in no handler learn of it although others still are.
            held.service.close();
        }
    }
}

impl<'a> Crew<'a> {
    /// A thread besides the calling one.
    fn help(&self) -> Result<()> {
        let _running = Running::new(&self.shared);
        deadlock::help_here(self.number);
        let end = self.work();
        deadlock::leave_here(self.number);
        end
    }

    /// What each thread does.
    fn work(&self) -> Result<()> {
        let _shift = Shift(self);
        let mut events = Vec::new();
        let mut held = self.lock();
        while !held.is_over() {
            if let Some(job) = held.service.pick() {
                held = self.handle(held, job);
            } else {
                let came;
                (held, came) = self.spin(held);
                if !came {
                    held = self.sleep(held, &mut events)?;
                    continue;
                }
            }
            held.service.look_around_in_time(1)?;
        }
        Ok(())
    }

    #[inline]
    fn lock(&self) -> Hold<'_, 'a> {
        // A panic is that of the program's code: what is held was left in order.
        match self.held.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.wanted.fetch_add(1, Ordering::Relaxed);
                let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                self.wanted.fetch_sub(1, Ordering::Relaxed);
                held
            }
        }
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) > 0
    }

    /// Runs the handler.
    #[inline]
    fn handle<'c>(&'c self, mut held: Hold<'c, 'a>, job: Job) -> Hold<'c, 'a> {
        let Job { request, of } = job;
        let started = held.relieve().then(Instant::now);
        held.busy += 1;
        drop(held);
        let handler = || deadlock::handle(|| (self.team.handler)(request));
        let handled = catch_unwind(AssertUnwindSafe(handler));
        let took = started.map(|started| started.elapsed());
        let mut held = self.lock();
        held.busy -= 1;
        held.service.give_back(&of);
        if let Some(took) = took {
            held.service.relief.learn(took);
            held.share_work();
        }
        if let Err(panic) = handled {
            drop(held);
            resume_unwind(panic);
        }
        held
    }

    /// Spins for the next message, if that is likely to pay and nobody else does. Returns whether there
    /// may be one.
    fn spin<'c>(&'c self, mut held: Hold<'c, 'a>) -> (Hold<'c, 'a>, bool) {
        if held.are_others_free() {
            return (held, false);
        }
        let service = &mut *held.service;
        let Some(limit) = service.patience() else { return (held, false) };
        let came = spin_for(limit, || service.has_news() || self.is_wanted());
        if !came || service.has_news() {
            service.spun(limit, came);
        }
        // Without news the lock is kept from the look to the sleep, so that nothing comes in between.
        if came {
            held = self.give_way(held);
        }
        (held, came)
    }

    /// Lets whoever wants the lock have it first. Who waits for it may sleep by now, or need this core.
    fn give_way<'c>(&'c self, held: Hold<'c, 'a>) -> Hold<'c, 'a> {
        if !self.is_wanted() {
            return held;
        }
        drop(held);
        for look in 0..200 {
            match self.is_wanted() {
                true if look < 100 => std::hint::spin_loop(),
                true => thread::yield_now(),
                false => break,
            }
        }
        self.lock()
    }

    /// Sleeps until there is something to do.
    fn sleep<'c>(
        &'c self,
        mut held: Hold<'c, 'a>,
        events: &mut Vec<Event>,
    ) -> Result<Hold<'c, 'a>> {
        if !held.are_others_free() {
            if held.service.never_sleeps() {
                held.service.look_on()?;
                return Ok(self.give_way(held));
            }
            let gap = held.service.gap();
            if held.service.fall_asleep() {
                return Ok(held);
            }
            if held.busy == 0 {
                held.gap = gap;
            }
        }
        loop {
            held.asleep += 1;
            drop(held);
            // The service's timer wakes only one.
            let left = buffer::keeps_large().then_some(Duration::from_millis(TRIM));
            let waited = self.poll.wait(events, left).map(|_| ());
            if events.is_empty() {
                buffer::trim();
            }
            held = self.lock();
            held.asleep -= 1;
            waited.map_err(|source| held.service.cannot_wait(source))?;
            if !held.sleeps_on(events) {
                break;
            }
        }
        held.service.relief.came();
        held.service.act(events);
        let gap = held.gap.take();
        held.service.learn(gap);
        Ok(held)
    }
}

impl Held<'_> {
    fn is_over(&self) -> bool {
        self.over || self.service.is_stopped()
    }

    fn finish(&mut self) {
        self.over = true;
        self.team.bell.ring();
    }

    /// Whether anybody but the thread that asks is awake and not in a handler.
    #[inline]
    fn are_others_free(&self) -> bool {
        self.team.count - self.asleep - self.busy > 1
    }

    /// Before the thread goes into a handler: the lanes that it leaves behind are looked at by somebody.
    /// Returns whether to time the handler.
    #[inline]
    fn relieve(&mut self) -> bool {
        if self.service.active.is_empty() || self.asleep == 0 || self.are_others_free() {
            return false;
        }
        self.relieve_others()
    }

    fn relieve_others(&mut self) -> bool {
        if self.service.relief.is_called() {
            return false;
        }
        let wake_up = self.service.patience.wake_up();
        let (care, timed) = self.service.relief.before(self.service.stats.messages, wake_up);
        match care {
            Care::LetRing if self.service.fall_asleep() => self.call(),
            Care::SetGuard => self.team.guard.set(GUARD),
            Care::LetRing | Care::Nothing => {}
        }
        timed
    }

    /// After a handler that was timed: wakes a thread if there is enough to do for one more.
    fn share_work(&mut self) {
        if self.asleep == 0 || self.service.relief.is_called() || self.are_others_free() {
            return;
        }
        let wake_up = self.service.patience.wake_up();
        // Most of the time not even a message in each lane were enough.
        if !self.service.relief.is_worth(self.service.active.len(), wake_up) {
            return;
        }
        let has_news = self.service.active_entries().filter(|e| e.lane.has_news(&e.inbox));
        // One message is this thread's own.
        let waiting = has_news.count().saturating_sub(1);
        if self.service.relief.is_worth(waiting, wake_up) {
            self.call();
        }
    }

    /// Wakes a thread.
    fn call(&mut self) {
        self.service.relief.call();
        self.team.bell.ring();
    }

    /// Whether a thread was woken by nothing, or by nothing but the guard, which found nothing wrong.
    fn sleeps_on(&mut self, events: &[Event]) -> bool {
        if events.is_empty() {
            return !self.is_over();
        }
        let called = self.service.relief.is_called();
        if self.is_over() || called || events.iter().any(|event| event.token != TEAM) {
            return false;
        }
        let left = self.busy > 0 && !self.service.active.is_empty() && !self.are_others_free();
        let again = self.service.relief.look(left, self.service.stats.messages);
        if again {
            self.team.guard.set(GUARD);
        }
        again
    }
}
