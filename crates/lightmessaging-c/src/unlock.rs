//! Names that this process has unlocked, before or after their services start, as RocketBootstrap did.
//!
//! A service that runs here is unlocked by its own loop, one of another process is asked, and a name
//! that nobody runs is kept for a service that starts here later.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use lightmessaging::{Error, Registry, Result, ServiceName};

use crate::{fork, lock, service};

/// How many names are kept: as many as rocketd lets one user unlock.
const MOST: usize = 1024;
/// How long another process's service may take to hear it.
const HEARD: Duration = Duration::from_secs(1);

/// What was unlocked here.
#[derive(Default)]
pub(crate) struct Names(HashSet<ServiceName>);

static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(fork::guarded);

pub(crate) fn table() -> MutexGuard<'static, Names> {
    lock(&NAMES)
}

impl Names {
    /// Whether this is news that there is room for.
    fn add(&mut self, name: &ServiceName) -> bool {
        self.0.len() < MOST && self.0.insert(name.clone())
    }
}

/// Whether a service of this name is to be unlocked.
pub(crate) fn is_unlocked(name: &[u8]) -> bool {
    ServiceName::new(name).is_ok_and(|name| table().0.contains(&name))
}

/// Unlocks a name. Returns `false` if it has no service and there is no room to keep it.
pub(crate) fn unlock(name: &[u8]) -> Result<bool> {
    let name = ServiceName::new(name)?;
    // Before its service is looked for: one that is just being started looks here afterwards.
    let is_news = table().add(&name);
    let heard = tell(&name);
    if is_news && heard.is_err() {
        table().0.remove(&name);
    }
    Ok(heard? || is_unlocked(name.as_bytes()))
}

/// Tells the services of a name. Returns whether there is one.
fn tell(name: &ServiceName) -> Result<bool> {
    let here = service::registries(name.as_bytes());
    for registry in &here {
        tell_own(registry, name)?;
    }
    if !here.is_empty() {
        return Ok(true);
    }
    let registry = Registry::from_env();
    if !runs(&registry, name)? {
        return Ok(false);
    }
    match registry.unlock(name, true, HEARD) {
        // It has just gone.
        Err(Error::NotFound { .. } | Error::NotDelivered { .. }) => Ok(false),
        done => done.map(|()| true),
    }
}

/// Tells a service of this process. Its loop, which may well be this thread's, hears it when it has its
/// turn.
pub(crate) fn tell_own(registry: &Registry, name: &ServiceName) -> Result<()> {
    match registry.unlock(name, true, Duration::ZERO) {
        Err(Error::TimedOut { delivered: true, .. }) => Ok(()),
        done => done,
    }
}

/// Whether a process runs the service: one that waits to be started on demand is not started for this.
fn runs(registry: &Registry, name: &ServiceName) -> Result<bool> {
    let own_uid = rustix::process::geteuid().as_raw();
    let known = registry.services()?.into_iter().find(|known| known.name == *name);
    // Of another user's the registry need not say more than that it is there.
    Ok(known.is_some_and(|known| known.pid.is_some() || known.uid != own_uid))
}
