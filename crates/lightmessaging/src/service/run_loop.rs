//! Several services on one thread.
//!
//! A run loop gives each of its services its turn, spins for all of them at once where that pays,
//! and sleeps in one epoll that holds theirs; with a single service it sleeps in that one's own,
//! so that it costs what [`Service::run`] costs. A service is taken out of the loop for its turn:
//! its handler may run the loop again, and is served all the others.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::turns::{Gap, LOOK_UP};
use super::{STOP, Service};
use crate::lane::lock;
use crate::sys::{Bell, Event, Poll, fork};
use crate::wait::{Clock, spin_for};
use crate::{Deadline, Error, Result, ServiceName};

/// What the loop's epoll calls its own bell; services have higher numbers.
const BELL: u64 = 0;

/// Runs several services on one thread.
///
/// ```no_run
/// use lightmessaging::{RunLoop, Service};
/// let services = RunLoop::new()?;
/// services.add(Service::start("com.example.clock", |request| drop(request.reply("late")))?)?;
/// services.add(Service::start("com.example.greeter", |request| drop(request.reply("hello")))?)?;
/// services.run()?; // until it is stopped, or none of its services is left
/// # Ok::<(), lightmessaging::Error>(())
/// ```
///
/// A handler may run the loop again, as a program does that waits for something else to happen;
/// that run serves all other services, but not the handler's own.
pub struct RunLoop {
    shared: Arc<Shared>,
    members: RefCell<Vec<Slot>>,
    /// How many runs are under way, one within the other.
    depth: Cell<usize>,
}

/// Adds services to a [`RunLoop`], and stops it, from any thread.
#[derive(Clone)]
pub struct RunLoopHandle {
    shared: Arc<Shared>,
}

/// Why [`RunLoop::run_within`] has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// There was no service, or none was left.
    Finished,
    /// It was stopped.
    Stopped,
    /// The deadline has passed.
    TimedOut,
    /// A message was handled, and no more was asked for.
    Handled,
}

struct Shared {
    poll: Poll,
    /// Wakes the loop's thread, wherever it sleeps: it is in the epoll of every service too.
    bell: Bell,
    /// Services on their way to the loop; `None` once the loop is gone.
    coming: Mutex<Option<Vec<Member>>>,
    has_coming: AtomicBool,
    stop: AtomicBool,
    /// How many runs are under way.
    running: AtomicUsize,
    numbers: AtomicU64,
    epoch: u64,
}

/// A place in the loop.
enum Slot {
    Here(Member),
    /// The service has its turn.
    Busy(Busy),
    Empty,
}

struct Member {
    service: Box<Service>,
    number: u64,
}

/// What stays in the place of a service that has its turn.
struct Busy {
    number: u64,
    poll: Arc<Poll>,
    /// It had news while its handler ran the loop: the epoll must not report it all the time.
    silenced: bool,
}

/// A service that is taken out of the loop, until this is dropped.
struct Taken<'a> {
    services: &'a RunLoop,
    at: usize,
    member: Option<Member>,
}

/// When the clock and the sockets were looked at last. Busy lanes must not keep the loop from them.
struct Looks {
    turns: u32,
    gathered: Instant,
}

/// A run that is under way.
struct Run<'a> {
    services: &'a RunLoop,
}

impl RunLoop {
    /// An empty loop.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] if there is no descriptor left.
    pub fn new() -> Result<RunLoop> {
        let make = || {
            let (poll, bell) = (Poll::new()?, Bell::new()?);
            poll.add_bell(&bell, BELL)?;
            // A new bell counts as rung once.
            poll.wait(&mut Vec::new(), Some(Duration::ZERO))?;
            Ok((poll, bell))
        };
        let (poll, bell) = make().map_err(os("make a run loop"))?;
        let shared = Shared {
            poll,
            bell,
            coming: Mutex::new(Some(Vec::new())),
            has_coming: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            numbers: AtomicU64::new(BELL + 1),
            epoch: fork::epoch(),
        };
        let (members, depth) = (RefCell::default(), Cell::default());
        Ok(RunLoop { shared: Arc::new(shared), members, depth })
    }

    /// Adds services to this loop, and stops it, from any thread.
    pub fn handle(&self) -> RunLoopHandle {
        RunLoopHandle { shared: self.shared.clone() }
    }

    /// Adds a service, which stays until it is stopped or the loop is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] if the system refuses; the service is stopped then.
    pub fn add(&self, service: Service) -> Result<()> {
        // A call from this thread could not be answered, whether the loop is being run or not.
        service.run_here()?;
        self.handle().add(service)
    }

    /// Serves until the loop is stopped or none of its services is left; at once if it has none.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] if the system refuses to let it wait, or in a forked child.
    pub fn run(&self) -> Result<Ended> {
        self.run_within(Deadline::Never, false)
    }

    /// [`run`](RunLoop::run) no longer than until a deadline, or, if `once` is set, until a message
    /// was handled. A deadline of zero handles what is there already.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn run_within(&self, deadline: impl Into<Deadline>, once: bool) -> Result<Ended> {
        self.check_epoch()?;
        let clock = Clock::new(deadline.into());
        let _run = Run::new(self);
        let mut looks = Looks { turns: 0, gathered: Instant::now() };
        loop {
            self.admit()?;
            if self.shared.stop.swap(false, Ordering::SeqCst) {
                return Ok(Ended::Stopped);
            }
            self.remove_stopped();
            if self.is_empty() {
                return Ok(Ended::Finished);
            }
            if let Some(taken) = self.take_only() {
                if let Some(ended) = taken.run_alone(&clock, once, &mut looks)? {
                    return Ok(ended);
                }
                continue;
            }
            let handled = self.turn();
            if once && handled > 0 {
                return Ok(Ended::Handled);
            }
            let left = looks.left(handled, &clock);
            let is_over = left.is_some_and(|left| left.is_zero());
            if handled > 0 || is_over {
                // Services whose lanes are all asleep are heard of here only.
                let has_news = (is_over || looks.is_time_to_gather()) && self.gather()?;
                if is_over && (handled > 0 || !has_news) {
                    return Ok(Ended::TimedOut);
                }
            } else if !self.is_called() && !self.spin() {
                self.sleep(left)?;
            }
        }
    }

    /// Handles what is ready, a bounded number of messages of each service, without blocking, and
    /// returns how many it was. For a loop of somebody else's: call it when the descriptor is
    /// readable, which it stays if anything is left.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] if the system refuses to say what is ready, or in a forked child.
    pub fn dispatch(&self) -> Result<usize> {
        self.check_epoch()?;
        self.admit()?;
        let mut handled = 0;
        let mut end = Ok(());
        for event in self.look(Some(Duration::ZERO))? {
            if let Some(mut taken) = self.take_number(event.token) {
                let _running = taken.service().running();
                match taken.service().dispatch_some() {
                    Ok(count) => handled += count,
                    // The others have their turn all the same.
                    Err(error) => end = end.and(Err(error)),
                }
            }
        }
        self.remove_stopped();
        end.map(|()| handled)
    }

    /// Closes the services that were stopped, so that their clients are told, as runs and dispatches
    /// do by themselves. Handles no message.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] in a forked child.
    pub fn close_stopped(&self) -> Result<()> {
        self.check_epoch()?;
        self.admit()?;
        self.remove_stopped();
        Ok(())
    }

    /// Whether there is no service in it.
    pub fn is_empty(&self) -> bool {
        self.members.borrow().iter().all(|slot| matches!(slot, Slot::Empty))
            && lock(&self.shared.coming).as_ref().is_none_or(Vec::is_empty)
    }

    fn check_epoch(&self) -> Result<()> {
        if self.shared.epoch == fork::epoch() {
            return Ok(());
        }
        let source = std::io::Error::other("it belongs to the process that forked this one");
        Err(os("run a run loop")(source))
    }

    /// Takes in the services that were added.
    #[inline]
    fn admit(&self) -> Result<()> {
        if !self.shared.has_coming.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.shared.has_coming.store(false, Ordering::Relaxed);
        let coming = lock(&self.shared.coming).as_mut().map(std::mem::take).unwrap_or_default();
        for member in coming {
            member.service.run_here()?;
            let mut members = self.members.borrow_mut();
            match members.iter().position(|slot| matches!(slot, Slot::Empty)) {
                Some(at) => members[at] = Slot::Here(member),
                None => members.push(Slot::Here(member)),
            }
        }
        Ok(())
    }

    /// Lets go of the services that were stopped.
    fn remove_stopped(&self) {
        let is_stopped = |slot: &Slot| matches!(slot, Slot::Here(m) if m.service.is_stopped());
        loop {
            let at = self.members.borrow().iter().position(is_stopped);
            let Some(at) = at else { break };
            let slot = std::mem::replace(&mut self.members.borrow_mut()[at], Slot::Empty);
            if let Slot::Here(mut member) = slot {
                let _ = self.shared.poll.remove(&*member.service);
                member.service.close();
            }
        }
        let mut members = self.members.borrow_mut();
        while matches!(members.last(), Some(Slot::Empty)) {
            members.pop();
        }
    }

    fn take(&self, at: usize) -> Option<Taken<'_>> {
        let mut members = self.members.borrow_mut();
        let slot = members.get_mut(at).filter(|slot| matches!(slot, Slot::Here(_)))?;
        let Slot::Here(member) = std::mem::replace(slot, Slot::Empty) else { return None };
        let poll = member.service.poll.clone();
        *slot = Slot::Busy(Busy { number: member.number, poll, silenced: false });
        Some(Taken { services: self, at, member: Some(member) })
    }

    /// The only service there is, unless it has its turn already.
    fn take_only(&self) -> Option<Taken<'_>> {
        let at = {
            let members = self.members.borrow();
            let mut all = members.iter().enumerate().filter(|(_, s)| !matches!(s, Slot::Empty));
            match (all.next(), all.next()) {
                (Some((at, Slot::Here(_))), None) => at,
                _ => return None,
            }
        };
        self.take(at)
    }

    /// The service that the epoll has reported, unless it has its turn already: then it is not
    /// reported again before that has ended.
    fn take_number(&self, number: u64) -> Option<Taken<'_>> {
        let at = {
            let mut members = self.members.borrow_mut();
            members.iter_mut().position(|slot| match slot {
                Slot::Here(member) => member.number == number,
                Slot::Busy(busy) if busy.number == number => {
                    busy.silenced = self.shared.poll.enable(&*busy.poll, number, false).is_ok();
                    false
                }
                _ => false,
            })?
        };
        self.take(at)
    }

    /// Gives each service its turn.
    fn turn(&self) -> usize {
        let mut handled = 0;
        let mut at = 0;
        // The handlers may add services meanwhile.
        while at < self.members.borrow().len() && !self.is_called() {
            if let Some(mut taken) = self.take(at) {
                let _running = taken.service().running();
                handled += taken.service().turn();
            }
            at += 1;
        }
        handled
    }

    /// Whether somebody wants the loop's attention.
    #[inline]
    fn is_called(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed) || self.shared.has_coming.load(Ordering::Relaxed)
    }

    /// Spins for the next message, whichever service's, if that is likely to pay.
    fn spin(&self) -> bool {
        let mut members = self.members.borrow_mut();
        let mut limit = None;
        for slot in members.iter() {
            if let Slot::Here(member) = slot {
                limit = limit.max(member.service.patience());
            }
        }
        let Some(limit) = limit else { return false };
        let came = spin_for(limit, || {
            self.is_called()
                || members
                    .iter()
                    .any(|slot| matches!(slot, Slot::Here(member) if member.service.has_news()))
        });
        for slot in members.iter_mut() {
            if let Slot::Here(member) = slot
                && member.service.patience().is_some()
                && (!came || member.service.has_news())
            {
                member.service.spun(limit, came);
            }
        }
        came
    }

    /// Sleeps until there is something to do, or no time is left; not at all for a service that never
    /// does.
    fn sleep(&self, left: Option<Duration>) -> Result<()> {
        let never = |slot: &Slot| matches!(slot, Slot::Here(m) if m.service.never_sleeps());
        if self.members.borrow().iter().any(never) {
            return self.gather().map(drop);
        }
        let mut gaps = Vec::new();
        for slot in self.members.borrow_mut().iter_mut() {
            if let Slot::Here(member) = slot {
                gaps.push((member.number, member.service.gap()));
                if member.service.fall_asleep() {
                    return Ok(());
                }
            }
        }
        self.hear(left, gaps)
    }

    /// Waits for news of the services, whose gaps they end, and has each gather its own.
    fn hear(&self, left: Option<Duration>, mut gaps: Vec<(u64, Option<Gap>)>) -> Result<()> {
        for event in self.look(left)? {
            if let Some(mut taken) = self.take_number(event.token) {
                let _running = taken.service().running();
                taken.service().gather(Some(Duration::ZERO))?;
                let gap = gaps.iter().position(|(number, _)| *number == event.token);
                taken.service().learn(gap.and_then(|at| gaps.swap_remove(at).1));
            }
        }
        Ok(())
    }

    /// Gathers what is there, without waiting. Returns whether there is anything to handle.
    fn gather(&self) -> Result<bool> {
        self.hear(Some(Duration::ZERO), Vec::new())?;
        let members = self.members.borrow();
        let mut has_news = false;
        for slot in members.iter() {
            if let Slot::Here(member) = slot {
                member.service.say_core();
                has_news |= member.service.has_news();
            }
        }
        Ok(has_news)
    }

    fn look(&self, left: Option<Duration>) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        self.shared.poll.wait(&mut events, left).map_err(os("wait for messages"))?;
        Ok(events)
    }
}

impl Taken<'_> {
    fn service(&mut self) -> &mut Service {
        &mut self.member.as_mut().expect("it is here until this is dropped").service
    }

    /// Serves a single service as [`Service::run`] does, until the loop is wanted for something
    /// else (`None`) or ends.
    fn run_alone(mut self, clock: &Clock, once: bool, looks: &mut Looks) -> Result<Option<Ended>> {
        let services = self.services;
        let service = self.service();
        let _running = service.running();
        while !services.is_called() {
            if service.is_stopped() {
                // Before whoever stopped it goes on.
                service.close();
                break;
            }
            let handled = service.turn();
            if once && handled > 0 {
                return Ok(Some(Ended::Handled));
            }
            let left = looks.left(handled, clock);
            if left.is_some_and(|left| left.is_zero()) {
                service.gather(left)?;
                if handled > 0 || !service.has_news() {
                    return Ok(Some(Ended::TimedOut));
                }
            }
            if handled > 0 || service.spin(|| services.is_called()) {
                service.look_around_in_time(handled)?;
            } else if !services.is_called() {
                service.sleep(left)?;
            }
        }
        Ok(None)
    }
}

impl Drop for Taken<'_> {
    /// Also when a handler has panicked.
    fn drop(&mut self) {
        let Some(member) = self.member.take() else { return };
        let mut members = self.services.members.borrow_mut();
        if let Some(slot) = members.get_mut(self.at) {
            if let Slot::Busy(Busy { silenced: true, .. }) = slot {
                let _ = self.services.shared.poll.enable(&*member.service, member.number, true);
            }
            *slot = Slot::Here(member);
        }
    }
}

impl Looks {
    /// How much time is left, if it was looked at; `None` is for ever.
    fn left(&mut self, handled: usize, clock: &Clock) -> Option<Duration> {
        self.turns = self.turns.wrapping_add(1);
        if handled == 0 || self.turns.is_multiple_of(64) { clock.left() } else { None }
    }

    fn is_time_to_gather(&mut self) -> bool {
        let now = Instant::now();
        let is_time = now.duration_since(self.gathered) >= Duration::from_nanos(LOOK_UP);
        if is_time {
            self.gathered = now;
        }
        is_time
    }
}

impl<'a> Run<'a> {
    fn new(services: &'a RunLoop) -> Run<'a> {
        let shared = &services.shared;
        if services.depth.replace(services.depth.get() + 1) == 0 {
            shared.stop.store(false, Ordering::SeqCst);
        }
        shared.running.fetch_add(1, Ordering::SeqCst);
        Run { services }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let shared = &self.services.shared;
        shared.running.fetch_sub(1, Ordering::SeqCst);
        let depth = self.services.depth.get() - 1;
        self.services.depth.set(depth);
        if depth > 0 {
            return;
        }
        // From now on the descriptor has to say whether there is something to do: every lane rings,
        // and the loop's own bell counts as heard.
        let _ = self.services.look(Some(Duration::ZERO));
        for slot in self.services.members.borrow_mut().iter_mut() {
            if let Slot::Here(member) = slot
                && member.service.fall_asleep()
            {
                member.service.shared.bell.ring();
            }
        }
        if self.services.is_called() {
            shared.bell.ring();
        }
    }
}

impl RunLoopHandle {
    /// Adds a service, which stays until it is stopped or the loop is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] if the system refuses, or the loop was dropped; the service is stopped then.
    pub fn add(&self, service: Service) -> Result<()> {
        let shared = &self.shared;
        let number = shared.numbers.fetch_add(1, Ordering::Relaxed);
        let member = Member { service: Box::new(service), number };
        let os = |source| os("add a service to a run loop")(source);
        member.service.poll.add_bell(&shared.bell, STOP).map_err(os)?;
        let mut coming = lock(&shared.coming);
        let Some(coming) = &mut *coming else {
            return Err(os(std::io::Error::other("the loop has ended")));
        };
        shared.poll.add(&*member.service, number).map_err(os)?;
        coming.push(member);
        shared.has_coming.store(true, Ordering::SeqCst);
        shared.bell.ring();
        Ok(())
    }

    /// Ends the innermost run that is under way, if there is one, once the handler that runs has
    /// returned.
    pub fn stop(&self) {
        if self.is_running() {
            self.shared.stop.store(true, Ordering::SeqCst);
            self.shared.bell.ring();
        }
    }

    /// Whether the loop is being run.
    pub fn is_running(&self) -> bool {
        self.shared.epoch == fork::epoch() && self.shared.running.load(Ordering::SeqCst) > 0
    }
}

impl AsFd for RunLoop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.poll.as_fd()
    }
}

impl AsFd for RunLoopHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.poll.as_fd()
    }
}

impl Drop for RunLoop {
    fn drop(&mut self) {
        // Dropped when the lock is free again: what a handler holds may use the loop's handle.
        let coming = lock(&self.shared.coming).take();
        drop(coming);
    }
}

fn os(doing: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| {
        let service = ServiceName::new("*").expect("a name");
        Error::Os { service, doing, source }
    }
}

impl fmt::Debug for RunLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunLoop").field("depth", &self.depth.get()).finish_non_exhaustive()
    }
}

impl fmt::Debug for RunLoopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunLoopHandle").field("running", &self.is_running()).finish_non_exhaustive()
    }
}
