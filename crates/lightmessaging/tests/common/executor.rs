//! An executor of a few lines, for futures without any runtime.
#![allow(dead_code)]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use lightmessaging::Events;

use super::HANG;

/// Says that a future is to be polled, and has the thread that waits look.
struct Flag {
    is_up: AtomicBool,
    events: Events,
}

impl Wake for Flag {
    fn wake(self: Arc<Flag>) {
        self.is_up.store(true, Ordering::SeqCst);
        self.events.notify();
    }
}

/// Futures that one thread polls, each only when it was woken.
pub struct Set<F: Future> {
    events: Events,
    tasks: Vec<Task<F>>,
}

struct Task<F: Future> {
    future: Option<Pin<Box<F>>>,
    output: Option<F::Output>,
    flag: Arc<Flag>,
}

impl<F: Future> Set<F> {
    pub fn new(events: &Events, futures: impl IntoIterator<Item = F>) -> Set<F> {
        let task = |future| Task {
            future: Some(Box::pin(future)),
            output: None,
            flag: Arc::new(Flag { is_up: AtomicBool::new(true), events: events.clone() }),
        };
        Set { events: events.clone(), tasks: futures.into_iter().map(task).collect() }
    }

    /// With other events, all to be polled.
    pub fn with_events(mut self, events: &Events) -> Set<F> {
        self.events = events.clone();
        for task in &mut self.tasks {
            let (is_up, events) = (AtomicBool::new(true), events.clone());
            task.flag = Arc::new(Flag { is_up, events });
        }
        self
    }

    /// Polls those that were woken, once; whether there was one.
    pub fn turn(&mut self) -> bool {
        let mut any = false;
        for task in &mut self.tasks {
            let Some(future) = &mut task.future else { continue };
            if !task.flag.is_up.swap(false, Ordering::SeqCst) {
                continue;
            }
            any = true;
            let waker = Waker::from(task.flag.clone());
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                (task.future, task.output) = (None, Some(output));
            }
        }
        any
    }

    /// How many are ready.
    pub fn ready(&self) -> usize {
        self.tasks.iter().filter(|task| task.future.is_none()).count()
    }

    /// Polls until so many are ready.
    pub fn run_until(&mut self, ready: usize) {
        let end = Instant::now() + HANG;
        while self.ready() < ready {
            if !self.turn() {
                self.events.wait(HANG).unwrap();
                assert!(Instant::now() < end, "{} of {} are ready", self.ready(), self.tasks.len());
            }
        }
    }

    /// Polls until none was woken for a while.
    pub fn run_until_it_sleeps(&mut self) {
        let mut idle = 0;
        while idle < 3 {
            if self.turn() {
                idle = 0;
            } else {
                self.events.wait(Duration::from_millis(5)).unwrap();
                idle += 1;
            }
        }
    }

    /// Polls until all are ready, and gives what they have come to.
    pub fn join(mut self) -> Vec<F::Output> {
        self.run_until(self.tasks.len());
        self.tasks.into_iter().map(|task| task.output.unwrap()).collect()
    }

    /// Drops one.
    pub fn cancel(&mut self, at: usize) {
        self.tasks[at].future = None;
    }
}

/// Polls one future until it is ready.
pub fn block_on<F: Future>(events: &Events, future: F) -> F::Output {
    Set::new(events, [future]).join().pop().unwrap()
}

/// Polls a future once.
pub fn poll_once<F: Future + Unpin>(events: &Events, future: &mut F) -> Poll<F::Output> {
    let waker = Waker::from(Arc::new(events.clone()));
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}
