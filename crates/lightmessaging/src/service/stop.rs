//! Stopping a service from any thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use crate::lane::lock;
use crate::registry::Claim;
use crate::sys::{Bell, fork};

/// Stops a service, from any thread.
#[derive(Clone)]
pub struct StopHandle {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    pub(super) bell: Bell,
    pub(super) claim: Mutex<Option<Claim>>,
    /// The threads that are in `run` or `dispatch`, each as often as it is there.
    pub(super) running: Mutex<Vec<ThreadId>>,
    pub(super) ended: Condvar,
    pub(super) epoch: u64,
}

/// A thread is in the service's loop until this is dropped. One may lie within another.
pub(super) struct Running {
    shared: Arc<Shared>,
}

impl Running {
    pub(super) fn new(shared: &Arc<Shared>) -> Running {
        lock(&shared.running).push(thread::current().id());
        Running { shared: shared.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let me = thread::current().id();
        let mut running = lock(&self.shared.running);
        if let Some(at) = running.iter().rposition(|thread| *thread == me) {
            running.swap_remove(at);
        }
        drop(running);
        self.shared.ended.notify_all();
    }
}

impl StopHandle {
    /// Stops the service: the name is free at once; the message whose handler runs is finished, and
    /// requests that are kept may still be answered; every other call learns that it was not
    /// delivered, with several [threads](crate::ServiceBuilder::threads) at once unless it is behind a message
    /// of its own connection whose handler runs.
    ///
    /// Returns when the service's loop has ended (in a [`RunLoop`](crate::RunLoop) of several: when its
    /// handler is not running; with several [threads](crate::ServiceBuilder::threads): when the last of
    /// them has left), or at once when called from within its handler or while no thread is in [`Service::run`](crate::Service::run) or
    /// [`Service::dispatch`](crate::Service::dispatch); then the clients are told by
    /// the next of those calls, or when the service is dropped.
    pub fn stop(&self) {
        if self.shared.epoch != fork::epoch() {
            return;
        }
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.claim).take());
        self.shared.bell.ring();
        let me = thread::current().id();
        let mut running = lock(&self.shared.running);
        while !running.is_empty() && !running.contains(&me) {
            running = self.shared.ended.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopHandle").finish_non_exhaustive()
    }
}
