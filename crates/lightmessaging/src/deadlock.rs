//! Which services the calling thread itself runs: a two-way call to one would wait for ever.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use crate::{Registry, ServiceName};

thread_local! {
    /// Whether this thread has ever run a service: most have not, and need look no further.
    static HAS_RUN: Cell<bool> = const { Cell::new(false) };
}

static RUNNING: Mutex<Vec<Running>> = Mutex::new(Vec::new());

struct Running {
    folder: PathBuf,
    name: ServiceName,
    thread: ThreadId,
    /// Which of several services that had the name one after the other.
    service: u64,
}

fn running() -> std::sync::MutexGuard<'static, Vec<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes note that the calling thread runs a service, from its first turn on.
pub(crate) fn run_here(registry: &Registry, name: &ServiceName, service: u64) {
    HAS_RUN.set(true);
    let thread = thread::current().id();
    let mut running = running();
    match running.iter_mut().find(|r| r.service == service) {
        Some(known) => known.thread = thread,
        None => running.push(Running {
            folder: registry.path().to_owned(),
            name: name.clone(),
            thread,
            service,
        }),
    }
}

/// Forgets a service that has stopped.
pub(crate) fn forget(service: u64) {
    running().retain(|r| r.service != service);
}

/// Whether the calling thread runs that service.
#[inline]
pub(crate) fn is_run_here(registry: &Registry, name: &ServiceName) -> bool {
    HAS_RUN.get() && {
        let thread = thread::current().id();
        running()
            .iter()
            .any(|r| r.thread == thread && r.name == *name && r.folder == registry.path())
    }
}
