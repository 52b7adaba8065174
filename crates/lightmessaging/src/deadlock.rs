//! Which services the calling thread itself runs: a two-way call to one would wait for ever.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use crate::{Registry, ServiceName};

thread_local! {
    /// Whether this thread has ever run a service: most have not, and need look no further.
    static HAS_RUN: Cell<bool> = const { Cell::new(false) };
    /// How many handlers this thread is in, one within the other.
    static HANDLERS: Cell<u32> = const { Cell::new(0) };
}

static RUNNING: Mutex<Vec<Running>> = Mutex::new(Vec::new());

struct Running {
    folder: PathBuf,
    name: ServiceName,
    /// One, unless the service is one over several threads.
    threads: Vec<ThreadId>,
    /// Which of several services that had the name one after the other.
    service: u64,
}

fn running() -> std::sync::MutexGuard<'static, Vec<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes note that the calling thread runs a service, from its first turn on, and no other does.
pub(crate) fn run_here(registry: &Registry, name: &ServiceName, service: u64) {
    HAS_RUN.set(true);
    let thread = thread::current().id();
    let mut running = running();
    match running.iter_mut().find(|r| r.service == service) {
        Some(known) => {
            known.threads.clear();
            known.threads.push(thread);
        }
        None => running.push(Running {
            folder: registry.path().to_owned(),
            name: name.clone(),
            threads: vec![thread],
            service,
        }),
    }
}

/// Runs a handler, and lets the calling thread know that it is in one.
#[inline]
pub(crate) fn handle(handler: impl FnOnce()) {
    /// Also when it has panicked.
    struct Handling;
    impl Drop for Handling {
        fn drop(&mut self) {
            HANDLERS.set(HANDLERS.get() - 1);
        }
    }
    HANDLERS.set(HANDLERS.get() + 1);
    let _handling = Handling;
    handler();
}

/// Whether the calling thread runs that service, and is in a handler: it serves nobody until that
/// returns, while a thread that polls a future elsewhere does when it has its next turn.
pub(crate) fn is_handled_here(registry: &Registry, name: &ServiceName) -> bool {
    HANDLERS.get() > 0 && is_run_here(registry, name)
}

/// Takes note that the calling thread runs a service too.
pub(crate) fn help_here(service: u64) {
    HAS_RUN.set(true);
    if let Some(known) = running().iter_mut().find(|r| r.service == service) {
        known.threads.push(thread::current().id());
    }
}

/// The calling thread runs that service no more, while others may.
pub(crate) fn leave_here(service: u64) {
    let thread = thread::current().id();
    if let Some(known) = running().iter_mut().find(|r| r.service == service) {
        known.threads.retain(|helper| *helper != thread);
    }
}

/// Forgets a service that has stopped.
pub(crate) fn forget(service: u64) {
    running().retain(|r| r.service != service);
}

/// Whether the calling thread runs that service.
#[inline]
pub(crate) fn is_run_here(registry: &Registry, name: &ServiceName) -> bool {
    HAS_RUN.get() && is_among_them(registry, name)
}

#[cold]
fn is_among_them(registry: &Registry, name: &ServiceName) -> bool {
    let thread = thread::current().id();
    running()
        .iter()
        .any(|r| r.threads.contains(&thread) && r.name == *name && r.folder == registry.path())
}
