//! Connections behind `LMConnection`.
//!
//! All connections of a process to one name share a lane, whoever made, copied or kept them, as
//! they shared a send right in Mach. The number in `serverPort` counts only together with the name
//! beside it: anything else means that the service has yet to be looked up.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lightmessaging::{Deadline, Error, Result};

use crate::abi::{self, NULL, Port};
use crate::rights;

/// The timeout that means none, as `MACH_MSG_TIMEOUT_NONE` does.
const NONE: u32 = 0;
/// `LM_TIMEOUT_DEFAULT`: what the calling translation unit says.
const DEFAULT: u32 = !0;
/// `LM_TIMEOUT_EXACT`: goes before what was set for the connection.
const EXACT: u32 = 1 << 31;
/// How long a look-up may take that nobody has given a timeout.
const LOOK_UP: Duration = Duration::from_secs(1);
/// How many connections a thread finds again without a lock.
const RECENT: usize = 8;

/// A name that was looked up, and how long calls on it may take.
pub(crate) struct Entry {
    name: Arc<[u8]>,
    /// In milliseconds, where it was set for the connection.
    timeout: Option<u32>,
    pub(crate) connection: lightmessaging::Connection,
    /// How often it was looked up and not released yet. Changed under the table's lock.
    references: AtomicUsize,
}

thread_local! {
    static RECENTLY: RefCell<[(Port, Weak<Entry>); RECENT]> =
        const { RefCell::new([const { (NULL, Weak::new()) }; RECENT]) };
}

/// A timeout in milliseconds as a deadline.
fn deadline(timeout: u32) -> Deadline {
    match timeout {
        NONE => Deadline::Never,
        timeout => Deadline::After(Duration::from_millis(timeout.into())),
    }
}

impl Entry {
    fn deadline(&self, timeout: u32) -> Deadline {
        if timeout & EXACT != 0 {
            return deadline(timeout & !EXACT);
        }
        deadline(self.timeout.unwrap_or(timeout))
    }
}

/// The connection of a number, if that is a connection to this name.
#[inline]
fn find(port: Port, name: &[u8]) -> Option<Arc<Entry>> {
    if port == NULL {
        return None;
    }
    let place = port as usize % RECENT;
    let recent = RECENTLY.try_with(|recent| {
        let (known, entry) = &recent.borrow()[place];
        if *known == port { entry.upgrade() } else { None }
    });
    if let Ok(Some(entry)) = recent
        && *entry.name == *name
    {
        return Some(entry);
    }
    let entry = rights::table().connections.get(&port).filter(|e| *e.name == *name).cloned()?;
    let weak = Arc::downgrade(&entry);
    let _ = RECENTLY.try_with(|recent| recent.borrow_mut()[place] = (port, weak));
    Some(entry)
}

/// Finds or makes the connection to a name; it is held until it is [released](release).
fn hold(name: &[u8], timeout: Option<u32>) -> Result<(Port, Arc<Entry>)> {
    // Checks the name; no I/O.
    let fresh = lightmessaging::Connection::new(name)?;
    let mut table = rights::table();
    let name: Arc<[u8]> = name.into();
    if let Some(port) = table.known.get(&(name.clone(), timeout))
        && let Some(entry) = table.connections.get(port)
    {
        entry.references.fetch_add(1, Ordering::Relaxed);
        return Ok((*port, entry.clone()));
    }
    // One lane for all timeouts.
    let connection = table.connections.values().find(|entry| entry.name == name);
    let connection = connection.map_or(fresh, |entry| entry.connection.clone());
    let port = table.number();
    let entry = Entry { name: name.clone(), timeout, connection, references: AtomicUsize::new(1) };
    let entry = Arc::new(entry);
    table.known.insert((name, timeout), port);
    table.connections.insert(port, entry.clone());
    Ok((port, entry))
}

/// Lets go of a connection; the last one closes it. Returns whether the number was one.
pub(crate) fn release(port: Port) -> bool {
    let mut table = rights::table();
    let Some(entry) = table.connections.get(&port).cloned() else { return false };
    if entry.references.fetch_sub(1, Ordering::Relaxed) == 1 {
        table.connections.remove(&port);
        table.known.remove(&(entry.name.clone(), entry.timeout));
    }
    // Closing takes system calls: not under the lock.
    drop(table);
    true
}

/// Does something with the connection behind a `LMConnection`, which is looked up if need be.
#[inline]
pub(crate) fn with<T>(
    connection: &abi::Connection,
    timeout: u32,
    act: impl FnOnce(&lightmessaging::Connection, Deadline) -> Result<T>,
) -> Result<T> {
    let name = connection.name();
    let known = connection.server_port.load(Ordering::Relaxed);
    match find(known, name) {
        Some(entry) => act(&entry.connection, entry.deadline(timeout)),
        None => look_up(connection, known, timeout, act),
    }
}

#[cold]
fn look_up<T>(
    connection: &abi::Connection,
    known: Port,
    timeout: u32,
    act: impl FnOnce(&lightmessaging::Connection, Deadline) -> Result<T>,
) -> Result<T> {
    let (port, entry) = hold(connection.name(), None)?;
    let acted = act(&entry.connection, entry.deadline(timeout));
    let found = !matches!(
        &acted,
        Err(Error::NotFound { .. } | Error::NotStarted { .. } | Error::Denied { .. })
    );
    if !found || !keep(connection, known, port) {
        release(port);
    }
    acted
}

/// Notes the number in a `LMConnection`, unless another thread was quicker.
fn keep(connection: &abi::Connection, known: Port, port: Port) -> bool {
    let order = Ordering::Relaxed;
    connection.server_port.compare_exchange(known, port, order, order).is_ok()
}

/// Sets how long calls on a connection may take, whatever the translation unit says.
pub(crate) fn set_timeout(connection: &abi::Connection, timeout: u32) -> Result<()> {
    let known = connection.server_port.load(Ordering::Relaxed);
    let is_held = find(known, connection.name()).is_some();
    let (port, _) = hold(connection.name(), (timeout != DEFAULT).then_some(timeout))?;
    if !keep(connection, known, port) {
        release(port);
    } else if is_held {
        release(known);
    }
    Ok(())
}

/// Looks a name up, without sending anything, and holds it.
pub(crate) fn find_service(name: &[u8]) -> Result<Port> {
    let (port, entry) = hold(name, None)?;
    match entry.connection.look_up(LOOK_UP) {
        Ok(()) => Ok(port),
        Err(error) => {
            release(port);
            Err(error)
        }
    }
}

/// Whether a living process runs the service.
pub(crate) fn is_alive(connection: &abi::Connection) -> bool {
    with(connection, NONE, |it, _| it.look_up(LOOK_UP)).is_ok()
}
