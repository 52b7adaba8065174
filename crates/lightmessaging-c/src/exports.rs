//! The functions of the shared library. An unsafe room; each is a few lines.
//!
//! Every one turns its arguments into Rust values by `abi`, calls the room below once, and turns
//! what comes back into a number. No panic crosses: it becomes `KERN_FAILURE`. What the functions
//! mean is said in the headers, in the field's words; what they ask of their pointers is what C
//! asks: null where the header says so, or as much memory as the type has, for as long as the call
//! takes.
#![allow(unsafe_code)]
// The contracts are in the headers, for those who call.
#![allow(clippy::missing_safety_doc)]

use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use lightmessaging::{Ended, INLINE_MAX, Response, Result};

use crate::abi::{
    self, Buffer, Connection, Contents, DEAD, Envelope, IntroductionOut, Message, NULL, PeerOut,
    Port, View,
};
use crate::code::{self, Code, SUCCESS};
use crate::data::Bytes;
use crate::service::Choices;
use crate::{connection, data, memory, rights, run_loop, service, unlock};

/// Keeps a panic, which is a bug of ours, on this side of the border.
#[inline]
pub(crate) fn guard<T>(otherwise: T, act: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| {
        code::remember("a bug in LightMessaging: it panicked".into());
        otherwise
    })
}

#[inline]
pub(crate) fn code(act: impl FnOnce() -> Result<()>) -> Code {
    guard(code::FAILURE, || match act() {
        Ok(()) => SUCCESS,
        Err(error) => code::of(&error),
    })
}

pub(crate) fn invalid(what: &str) -> Code {
    code::remember(what.into());
    code::INVALID_ARGUMENT
}

// Clients

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_send(
    connection: *mut Connection,
    id: i32,
    data: *const c_void,
    length: usize,
    timeout: u32,
) -> Code {
    // SAFETY: as the header asks.
    let Some(connection) = (unsafe { abi::connection(connection) }) else {
        return invalid("the connection is NULL");
    };
    // SAFETY: as the header asks.
    let data = unsafe { abi::payload(data, length) };
    code(|| {
        connection::with(connection, timeout, |it, deadline| {
            it.send_one_way_within(id, data, deadline)
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_call(
    connection: *mut Connection,
    id: i32,
    data: *const c_void,
    length: usize,
    timeout: u32,
    buffer: *mut Buffer,
) -> Code {
    if buffer.is_null() {
        return invalid("the response buffer is NULL");
    }
    // SAFETY: as the header asks.
    let called = match unsafe { abi::connection(connection) } {
        None => invalid("the connection is NULL"),
        Some(connection) => {
            // SAFETY: as the header asks. The data may lie in the buffer, which is written only
            // when the call is over.
            let data = unsafe { abi::payload(data, length) };
            guard(code::FAILURE, || {
                let response = connection::with(connection, timeout, |it, deadline| {
                    it.send_two_way_within(id, data, deadline)
                });
                // SAFETY: as the header asks, and not null.
                unsafe { put_response(buffer, response) }
            })
        }
    };
    if called != SUCCESS {
        // SAFETY: as the header asks.
        unsafe { abi::clear(buffer) };
    }
    called
}

/// Writes a response into the program's buffer.
///
/// # Safety
///
/// `buffer` leads to a whole response buffer of the caller's.
#[inline]
pub(crate) unsafe fn put_response(buffer: *mut Buffer, response: Result<Response>) -> Code {
    let response = match response {
        Ok(response) => response,
        Err(error) => return code::of(&error),
    };
    let contents = if response.len() <= INLINE_MAX {
        Contents::Inline(response.payload())
    } else {
        let Some(large) = memory::copy(response.payload()) else {
            code::remember("no memory for the reply".into());
            return code::SHORTAGE;
        };
        Contents::OutOfLine(large)
    };
    // SAFETY: by the caller's word.
    unsafe { abi::write(buffer, Envelope::default(), &contents, None) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_call_in_place(
    connection: *mut Connection,
    id: i32,
    data: *const c_void,
    length: usize,
    timeout: u32,
    view: *mut View,
) -> Code {
    // SAFETY: as the header asks.
    unsafe { abi::put(view, View { data: std::ptr::null(), length: 0, token: 0 }) };
    // SAFETY: as the header asks.
    let Some(connection) = (unsafe { abi::connection(connection) }) else {
        return invalid("the connection is NULL");
    };
    // SAFETY: as the header asks.
    let data = unsafe { abi::payload(data, length) };
    code(|| {
        let response = connection::with(connection, timeout, |it, deadline| {
            it.send_two_way_within(id, data, deadline)
        })?;
        if response.is_empty() {
            return Ok(());
        }
        let held = memory::hold(response, abi::in_place_of_response);
        let data = std::ptr::with_exposed_provenance(held.address);
        let seen = View { data, length: held.len as u32, token: held.token };
        if view.is_null() {
            memory::free(held);
        }
        // SAFETY: as the header asks.
        unsafe { abi::put(view, seen) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_view_release(view: *mut View) {
    guard((), || {
        if view.is_null() {
            return;
        }
        // SAFETY: as the header asks.
        let View { data, length, token } = unsafe { view.read_unaligned() };
        memory::free(abi::OutOfLine { address: data.addr(), len: length as usize, token });
        // SAFETY: as above.
        unsafe { abi::put(view, View { data: std::ptr::null(), length: 0, token: 0 }) };
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_connection_set_timeout(
    connection: *mut Connection,
    milliseconds: u32,
) -> Code {
    // SAFETY: as the header asks.
    let Some(connection) = (unsafe { abi::connection(connection) }) else {
        return invalid("the connection is NULL");
    };
    code(|| connection::set_timeout(connection, milliseconds))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_connection_is_alive(connection: *mut Connection) -> bool {
    // SAFETY: as the header asks.
    let Some(connection) = (unsafe { abi::connection(connection) }) else { return false };
    guard(false, || connection::is_alive(connection))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_connection_peer(
    connection: *mut Connection,
    timeout: u32,
    peer: *mut PeerOut,
) -> Code {
    // SAFETY: as the header asks.
    let Some(connection) = (unsafe { abi::connection(connection) }) else {
        return invalid("the connection is NULL");
    };
    code(|| {
        let found = connection::with(connection, timeout, |it, deadline| it.peer(deadline))?;
        // SAFETY: as the header asks.
        unsafe { abi::put(peer, PeerOut::new(&found, -1)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_look_up(name: *const c_char, port: *mut Port) -> Code {
    // SAFETY: as the header asks.
    unsafe { abi::put(port, NULL) };
    // SAFETY: as the header asks.
    let name = unsafe { abi::name(name) };
    code(|| {
        let found = connection::find_service(name)?;
        if port.is_null() {
            connection::release(found);
        }
        // SAFETY: as the header asks.
        unsafe { abi::put(port, found) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_port_release(port: Port) -> Code {
    guard(code::FAILURE, || {
        if [NULL, DEAD].contains(&port) || connection::release(port) {
            return SUCCESS;
        }
        // Bound, so that the table is free again before the caller is told.
        let owed = rights::table().redeem(port);
        if owed.is_some() {
            return SUCCESS;
        }
        // KERN_INVALID_NAME
        code::remember("the port is none, or was released before".into());
        code::INVALID_NAME
    })
}

// Memory of messages

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_message_free(message: *mut Message) {
    guard((), || {
        if message.is_null() {
            return;
        }
        // SAFETY: as the header asks.
        if let Some(claimed) = unsafe { abi::claimed(message) }
            && memory::free(claimed)
        {
            // SAFETY: as above.
            unsafe { abi::disclaim(message) };
        }
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_message_take(message: *mut Message, view: *mut View) -> bool {
    guard(false, || {
        if message.is_null() || view.is_null() {
            return false;
        }
        // SAFETY: as the header asks.
        let Some(taken) = unsafe { abi::claimed(message) }.and_then(memory::take_over) else {
            return false;
        };
        // SAFETY: as above.
        unsafe { abi::disclaim(message) };
        let data = std::ptr::with_exposed_provenance(taken.address);
        // SAFETY: as the header asks.
        unsafe { abi::put(view, View { data, length: taken.len as u32, token: taken.token }) };
        true
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_memory_make(length: u32, view: *mut View) -> bool {
    guard(false, || {
        let Some(made) = memory::make(length as usize) else { return false };
        let data = std::ptr::with_exposed_provenance(made.address);
        // SAFETY: as the header asks.
        unsafe { abi::put(view, View { data, length, token: made.token }) };
        true
    })
}

// Services

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_start(
    name: *const c_char,
    run_loop: *mut c_void,
    callback: Option<abi::Callback>,
    info: *mut c_void,
    options: u32,
    port: *mut Port,
) -> Code {
    const CHECK_IN: u32 = 1;
    const IN_PLACE: u32 = 2;
    const UNLOCKED: u32 = 4;
    const TAKE_OVER: u32 = 8;
    // SAFETY: as the header asks.
    unsafe { abi::put(port, NULL) };
    let Some(callback) = callback else { return invalid("the callback is NULL") };
    // SAFETY: as the header asks.
    let name = unsafe { abi::name(name) };
    let choices = Choices {
        callback,
        info: info.expose_provenance(),
        in_place: options & IN_PLACE != 0,
        check_in: options & CHECK_IN != 0,
        unlocked: options & UNLOCKED != 0,
        take_over: options & TAKE_OVER != 0,
    };
    guard(code::FAILURE, || match service::start(name, run_loop.addr(), choices) {
        Ok(Some(started)) => {
            // SAFETY: as the header asks.
            unsafe { abi::put(port, started) };
            SUCCESS
        }
        Ok(None) => invalid("there is no such run loop, or its thread has ended"),
        Err(error) => code::of(&error),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_stop(name: *const c_char) -> Code {
    // SAFETY: as the header asks.
    let name = unsafe { abi::name(name) };
    guard(code::FAILURE, || {
        if service::stop(|_, started| *started.name == *name) {
            return SUCCESS;
        }
        code::remember(format!(
            "this process has not started a service \"{}\", or has stopped it",
            name.escape_ascii()
        ));
        code::UNKNOWN_SERVICE
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_stop_port(port: Port) -> Code {
    guard(code::FAILURE, || {
        if service::stop(|its, _| its == port) {
            return SUCCESS;
        }
        code::remember("the port is not a service's, or that was stopped".into());
        code::UNKNOWN_SERVICE
    })
}

/// Unlocks a name that the caller has set.
fn unlock(name: &[u8]) -> Code {
    guard(code::FAILURE, || match unlock::unlock(name) {
        Ok(true) => SUCCESS,
        Ok(false) => {
            code::remember("no service of that name runs, and too many names are unlocked here to keep another".into());
            code::SHORTAGE
        }
        Err(error) => code::of(&error),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_unlock(name: *const c_char) -> Code {
    if name.is_null() {
        return invalid("the name is NULL");
    }
    // SAFETY: as the header asks.
    unlock(unsafe { abi::name(name) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_register(name: *const c_char, port: Port) -> Code {
    if name.is_null() || [NULL, DEAD].contains(&port) {
        return invalid("the name is NULL, or the port is none");
    }
    // SAFETY: as the header asks.
    let name = unsafe { abi::name(name) };
    match guard(None, || service::name(port)) {
        Some(its) if its.as_bytes() == name => unlock(name),
        Some(its) => {
            code::remember(format!(
                "the port is that of service \"{its}\", not of \"{}\"",
                name.escape_ascii()
            ));
            code::INVALID_NAME
        }
        None => SUCCESS,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_reply(port: Port, data: *const c_void, length: usize) -> Code {
    if port == NULL {
        return SUCCESS;
    }
    // SAFETY: as the header asks.
    let data = unsafe { abi::payload(data, length) };
    guard(code::FAILURE, || {
        // Bound, so that the table is not locked while the reply is sent.
        let owed = rights::table().redeem(port);
        let Some(owed) = owed else {
            code::remember(
                "the reply port is none, was replied to before, or its client is gone".into(),
            );
            return code::SEND_INVALID_DEST;
        };
        match owed.reply.reply(data) {
            Ok(()) => SUCCESS,
            Err(error) => code::of_reply(&error),
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_reply_is_wanted(port: Port) -> bool {
    guard(false, || rights::table().is_wanted(port).unwrap_or(false))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_request_peer(request: *const c_void, peer: *mut PeerOut) -> bool {
    guard(false, || {
        let Some((found, pidfd)) = service::peer(request) else { return false };
        // SAFETY: as the header asks.
        unsafe { abi::put(peer, PeerOut::new(&found, pidfd)) };
        true
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_request_introduction(
    request: *const c_void,
    introduction: *mut IntroductionOut,
) -> bool {
    guard(false, || {
        let texts = service::introduction(request);
        let [application, cgroup, label] = texts.unwrap_or([std::ptr::null(); 3]);
        // SAFETY: as the header asks.
        unsafe { abi::put(introduction, IntroductionOut { application, cgroup, label }) };
        texts.is_some()
    })
}

// Run loops

fn loop_pointer(number: Result<run_loop::Number>) -> *mut c_void {
    match number {
        Ok(number) => std::ptr::without_provenance_mut(number),
        Err(error) => {
            code::of(&error);
            std::ptr::null_mut()
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_loop_current() -> *mut c_void {
    guard(std::ptr::null_mut(), || loop_pointer(run_loop::current()))
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_loop_main() -> *mut c_void {
    guard(std::ptr::null_mut(), || loop_pointer(run_loop::main()))
}

/// The numbers are `kCFRunLoopRunFinished` and so on.
#[unsafe(no_mangle)]
pub extern "C" fn lm_loop_run(seconds: f64, once: bool) -> i32 {
    guard(1, || match run_loop::run(run_loop::seconds(seconds), once) {
        Ok(Ended::Finished) => 1,
        Ok(Ended::Stopped) => 2,
        Ok(Ended::TimedOut) => 3,
        Ok(Ended::Handled) => 4,
        Err(error) => {
            code::of(&error);
            1
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_loop_stop(run_loop: *mut c_void) {
    guard((), || run_loop::stop(run_loop.addr()));
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_loop_is_running(run_loop: *mut c_void) -> bool {
    guard(false, || run_loop::is_running(run_loop.addr()))
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_loop_descriptor(run_loop: *mut c_void) -> i32 {
    guard(-1, || run_loop::descriptor(run_loop.addr()))
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_loop_watch(run_loop: *mut c_void, watched: bool) -> bool {
    guard(false, || run_loop::watch(run_loop.addr(), watched))
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_loop_dispatch() -> i32 {
    guard(-1, || match run_loop::dispatch() {
        Ok(handled) => handled.min(i32::MAX as usize) as i32,
        Err(error) => {
            code::of(&error);
            -1
        }
    })
}

// Words

#[unsafe(no_mangle)]
pub extern "C" fn lm_error_string(code: Code) -> *const c_char {
    code::words(code).as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_last_error() -> *const c_char {
    code::last()
}

// Data

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_data_create(
    bytes: *const u8,
    length: usize,
    owner: i32,
) -> *mut c_void {
    guard(std::ptr::null_mut(), || {
        let length = if bytes.is_null() { 0 } else { length };
        let bytes = match owner {
            1 => Bytes::Borrowed(bytes.expose_provenance(), length),
            2 => Bytes::Malloced(bytes.expose_provenance(), length),
            // SAFETY: as the header asks.
            _ => Bytes::Copied(unsafe { abi::payload(bytes.cast(), length) }.to_vec()),
        };
        data::create(bytes)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_data_bytes(data: *const c_void) -> *const u8 {
    guard(std::ptr::null(), || data::bytes(data).0)
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_data_length(data: *const c_void) -> usize {
    guard(0, || data::bytes(data).1)
}

/// Whether an object is a run loop or a service's port, which are nobody's to free.
fn is_handle(object: *const c_void) -> bool {
    let number = object.addr();
    run_loop::is_known(number)
        || Port::try_from(number).is_ok_and(|port| rights::table().services.contains_key(&port))
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_retain(object: *const c_void) -> bool {
    guard(false, || data::retain(object) || is_handle(object))
}

#[unsafe(no_mangle)]
pub extern "C" fn lm_release(object: *const c_void) -> bool {
    guard(false, || data::release(object) || is_handle(object))
}
