//! Run loops behind `CFRunLoopRef`: one per thread, made when it is first asked for.
//!
//! A `CFRunLoopRef` is a number that looks like a pointer, so that one whose thread has ended leads
//! nowhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use lightmessaging::{Deadline, Ended, Error, Result, RunLoop, RunLoopHandle, Service};

use crate::{fork, lock};

/// What a `CFRunLoopRef` is; 0 for none.
pub(crate) type Number = usize;

struct Known {
    handle: RunLoopHandle,
    /// The main thread's loop, until that thread asks for it.
    unclaimed: Option<RunLoop>,
    /// A loop of somebody else's polls it.
    is_watched: bool,
    epoch: u64,
}

#[derive(Default)]
pub(crate) struct Loops {
    numbers: Number,
    all: HashMap<Number, Known>,
    main: Number,
}

static LOOPS: LazyLock<Mutex<Loops>> = LazyLock::new(fork::guarded);

pub(crate) fn table() -> MutexGuard<'static, Loops> {
    lock(&LOOPS)
}

impl Loops {
    fn add(&mut self, handle: RunLoopHandle, unclaimed: Option<RunLoop>) -> Number {
        // Not a pointer: nothing is mapped at the lowest addresses.
        self.numbers += 2;
        let known = Known { handle, unclaimed, is_watched: false, epoch: fork::epoch() };
        self.all.insert(self.numbers, known);
        self.numbers
    }

    /// The loop of a number, if it is this process's.
    fn get(&mut self, number: Number) -> Option<&mut Known> {
        self.all.get_mut(&number).filter(|known| known.epoch == fork::epoch())
    }
}

/// The calling thread's loop.
struct Current {
    number: Number,
    epoch: u64,
    run_loop: Rc<RunLoop>,
}

impl Drop for Current {
    fn drop(&mut self) {
        let known = table().all.remove(&self.number);
        drop(known);
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

fn is_main_thread() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}

/// The calling thread's loop, made if need be.
fn here() -> Result<(Number, Rc<RunLoop>)> {
    let ended = |_| Error::Os {
        service: lightmessaging::ServiceName::new("*").expect("a name"),
        doing: "run a loop",
        source: std::io::Error::other("the thread is ending"),
    };
    CURRENT
        .try_with(|current| {
            let mut current = current.borrow_mut();
            if let Some(current) = &*current
                && current.epoch == fork::epoch()
            {
                return Ok((current.number, current.run_loop.clone()));
            }
            let (number, run_loop) = if is_main_thread() {
                let number = main()?;
                let unclaimed = table().get(number).and_then(|known| known.unclaimed.take());
                match unclaimed {
                    Some(run_loop) => (number, run_loop),
                    None => make()?,
                }
            } else {
                make()?
            };
            let run_loop = Rc::new(run_loop);
            let new = Current { number, epoch: fork::epoch(), run_loop: run_loop.clone() };
            // A forked child leaves its parent's loop alone.
            drop(current.replace(new));
            Ok((number, run_loop))
        })
        .map_err(ended)?
}

fn make() -> Result<(Number, RunLoop)> {
    let run_loop = RunLoop::new()?;
    Ok((table().add(run_loop.handle(), None), run_loop))
}

/// The number of the calling thread's loop.
pub(crate) fn current() -> Result<Number> {
    Ok(here()?.0)
}

/// The number of the main thread's loop, whoever asks.
pub(crate) fn main() -> Result<Number> {
    let known = |loops: &mut Loops| {
        let main = loops.main;
        loops.get(main).map(|_| main)
    };
    if let Some(main) = known(&mut table()) {
        return Ok(main);
    }
    // Made without the lock; another thread may be quicker.
    let fresh = RunLoop::new()?;
    let mut loops = table();
    if let Some(main) = known(&mut loops) {
        drop(loops);
        return Ok(main);
    }
    let number = loops.add(fresh.handle(), Some(fresh));
    loops.main = number;
    Ok(number)
}

/// Adds a service to a loop; to the calling thread's for none. `false` if there is no such loop.
pub(crate) fn add(number: Number, service: Service) -> Result<bool> {
    // On the thread's own loop it is known at once that this thread cannot call it.
    if number == 0 || here().is_ok_and(|(here, _)| here == number) {
        here()?.1.add(service)?;
        return Ok(true);
    }
    match handle(number) {
        Some(handle) => handle.add(service).map(|()| true),
        None => Ok(false),
    }
}

fn handle(number: Number) -> Option<RunLoopHandle> {
    table().get(number).map(|known| known.handle.clone())
}

/// Whether it is the number of a loop.
pub(crate) fn is_known(number: Number) -> bool {
    table().all.contains_key(&number)
}

/// Runs the calling thread's loop.
pub(crate) fn run(deadline: Deadline, once: bool) -> Result<Ended> {
    here()?.1.run_within(deadline, once)
}

/// Stops a loop, if it is run.
pub(crate) fn stop(number: Number) {
    if let Some(handle) = handle(number) {
        handle.stop();
    }
}

/// Whether a loop is being run.
pub(crate) fn is_running(number: Number) -> bool {
    handle(number).is_some_and(|handle| handle.is_running())
}

/// Closes what was stopped on the calling thread's loop, if it has one.
pub(crate) fn close_stopped() {
    let run_loop = CURRENT.try_with(|current| {
        let current = current.borrow();
        let current = current.as_ref().filter(|current| current.epoch == fork::epoch())?;
        Some(current.run_loop.clone())
    });
    if let Ok(Some(run_loop)) = run_loop {
        // It is this process's, so there is no error.
        let _ = run_loop.close_stopped();
    }
}

/// What to poll instead of running a loop; -1 if there is no such loop.
pub(crate) fn descriptor(number: Number) -> i32 {
    handle(number).map_or(-1, |handle| handle.as_fd().as_raw_fd())
}

/// Notes whether a loop of somebody else's polls this one. Returns whether that is news.
pub(crate) fn watch(number: Number, watched: bool) -> bool {
    let mut loops = table();
    let Some(known) = loops.get(number) else { return false };
    std::mem::replace(&mut known.is_watched, watched) != watched
}

/// Handles what is ready on the calling thread's loop.
pub(crate) fn dispatch() -> Result<usize> {
    here()?.1.dispatch()
}

/// Seconds, as CoreFoundation counts them, as a deadline: beyond a century is for ever.
pub(crate) fn seconds(seconds: f64) -> Deadline {
    const CENTURY: f64 = 3.2e9;
    if seconds >= CENTURY {
        return Deadline::Never;
    }
    Deadline::After(Duration::from_secs_f64(if seconds > 0.0 { seconds } else { 0.0 }))
}
