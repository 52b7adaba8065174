//! The same calls as futures.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use lightmessaging::{Connection, Events, Registry, Wait};
use tokio::runtime::{Builder, Runtime};

use crate::floors::{Floor, time};
use crate::ours::{ECHO, NAME, Ours};
use crate::place::Place;
use crate::stats::Block;

/// What polls the futures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// tokio's `current_thread`.
    OneThread,
    /// A task of tokio's `multi_thread`.
    Several,
    /// A loop of a few lines.
    None,
}

impl Scheduler {
    pub fn name(self) -> &'static str {
        match self {
            Scheduler::OneThread => "tokio (current_thread)",
            Scheduler::Several => "tokio (multi_thread)",
            Scheduler::None => "a loop of its own",
        }
    }
}

/// A service in another process, and what awaits its answers.
pub struct Awaiting {
    ours: Ours,
    runtime: Option<Runtime>,
    is_task: bool,
    connection: Connection,
    events: Events,
}

impl Awaiting {
    /// One call after the other.
    pub fn start(place: Place, scheduler: Scheduler, wait: Wait) -> Awaiting {
        let mut awaiting = Awaiting::start_many(place, 8, wait);
        awaiting.runtime = match scheduler {
            Scheduler::OneThread => Some(Builder::new_current_thread().enable_all().build()),
            Scheduler::Several => {
                Some(Builder::new_multi_thread().worker_threads(2).enable_all().build())
            }
            Scheduler::None => None,
        }
        .map(|runtime| runtime.expect("a runtime"));
        awaiting.is_task = scheduler == Scheduler::Several;
        awaiting
    }

    /// As many as that at once.
    pub fn start_many(place: Place, many: usize, wait: Wait) -> Awaiting {
        let ours = Ours::start(place, wait);
        let connection = Connection::builder(NAME)
            .registry(Registry::at(ours.folder()))
            .calls_in_flight(many)
            .wait(wait)
            .build()
            .expect("a name");
        let events = connection.events().expect("events");
        Awaiting { ours, runtime: None, is_task: false, connection, events }
    }

    /// Makes so many calls, always as many as that at once on one thread, and says how many a second.
    pub fn rate(&mut self, calls: usize, at_once: usize) -> f64 {
        let flag = Arc::new(Flag { is_up: AtomicBool::new(false), events: self.events.clone() });
        let waker = Waker::from(flag.clone());
        let mut context = Context::from_waker(&waker);
        let call = || self.connection.send_two_way_async(ECHO, [7; 64]);
        let mut flying: Vec<_> = (0..at_once).map(|_| call()).collect();
        let (mut made, mut ended) = (at_once, 0);
        let started = Instant::now();
        while ended < calls {
            flag.is_up.store(false, Ordering::SeqCst);
            flying.retain_mut(|flight| {
                while let Poll::Ready(answer) = Pin::new(&mut *flight).poll(&mut context) {
                    assert_eq!(answer.expect("an answer").data()[63], 7);
                    ended += 1;
                    if made == calls {
                        return false;
                    }
                    made += 1;
                    *flight = call();
                }
                true
            });
            if !flag.is_up.load(Ordering::SeqCst) && ended < calls {
                self.events.wait(std::time::Duration::from_secs(10)).expect("events");
            }
        }
        calls as f64 / started.elapsed().as_secs_f64()
    }
}

impl Floor for Awaiting {
    fn block(&mut self, calls: usize) -> Block {
        let _ = &self.ours;
        let connection = self.connection.clone();
        let echo = async move || {
            let answer = connection.send_two_way_async(ECHO, [7; 64]).await.expect("an answer");
            assert_eq!(answer.data()[63], 7);
        };
        let events = self.events.clone();
        match &self.runtime {
            Some(runtime) if self.is_task => {
                runtime.block_on(runtime.spawn(timed(calls, echo))).expect("a task")
            }
            Some(runtime) => runtime.block_on(timed(calls, echo)),
            None => {
                let flag = Arc::new(Flag { is_up: AtomicBool::new(false), events });
                time(calls, || block_on(&flag, echo()))
            }
        }
    }
}

/// As [`time`], in an executor.
async fn timed(calls: usize, call: impl AsyncFn()) -> Block {
    for _ in 0..crate::floors::WARM_UP.min(calls) {
        call().await;
    }
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let started = Instant::now();
        call().await;
        times.push(started.elapsed().as_nanos() as u64);
    }
    Block::of(times)
}

/// Says that something is to be polled, and has the thread look that waits.
struct Flag {
    is_up: AtomicBool,
    events: Events,
}

impl Wake for Flag {
    fn wake(self: Arc<Flag>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Flag>) {
        self.is_up.store(true, Ordering::SeqCst);
        self.events.notify();
    }
}

fn block_on<F: Future>(flag: &Arc<Flag>, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(flag.clone());
    loop {
        flag.is_up.store(false, Ordering::SeqCst);
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        if !flag.is_up.load(Ordering::SeqCst) {
            flag.events.wait(std::time::Duration::from_secs(10)).expect("events");
        }
    }
}
