//! The functions of the shared library that lend memory to be filled in place and sent. An unsafe room,
//! as `exports` is and by the same rules.
#![allow(unsafe_code)]
// The contracts are in the headers, for those who call.
#![allow(clippy::missing_safety_doc)]

use lightmessaging::{Loan, Result};

use crate::abi::{self, Buffer, Connection, NULL, OutOfLine, Port, View};
use crate::code::{self, Code, SUCCESS};
use crate::exports::{code, guard, invalid, put_response};
use crate::{connection, memory, rights};

const NOTHING: View = View { data: std::ptr::null(), length: 0, token: 0 };

/// Shows a loan to the program.
///
/// # Safety
///
/// `view` leads to a view of the caller's.
unsafe fn show(view: *mut View, loan: Loan) {
    let OutOfLine { address, len, token } = memory::lend(loan);
    let data = std::ptr::with_exposed_provenance(address);
    // SAFETY: by the caller's word.
    unsafe { abi::put(view, View { data, length: len as u32, token }) };
}

/// The loan that a view shows, which shows nothing then; it is no longer the program's.
///
/// # Safety
///
/// `view` is null or leads to a view of the caller's.
unsafe fn take(view: *mut View) -> Option<Loan> {
    if view.is_null() {
        return None;
    }
    // SAFETY: by the caller's word, and not null.
    let View { data, length, token } = unsafe { view.read_unaligned() };
    let loan = memory::take_loan(OutOfLine { address: data.addr(), len: length as usize, token })?;
    // SAFETY: as above.
    unsafe { abi::put(view, NOTHING) };
    Some(loan)
}

fn none() -> Code {
    invalid(
        "the view shows no memory that was allocated to be sent, or was sent or released before",
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_allocate(
    connection: *mut Connection,
    length: usize,
    timeout: u32,
    view: *mut View,
) -> Code {
    if view.is_null() {
        return invalid("the view is NULL");
    }
    // SAFETY: as the header asks.
    unsafe { abi::put(view, NOTHING) };
    // SAFETY: as the header asks.
    let Some(connection) = (unsafe { abi::connection(connection) }) else {
        return invalid("the connection is NULL");
    };
    code(|| {
        let lent = |it: &lightmessaging::Connection, deadline| it.alloc_within(length, deadline);
        let loan = connection::with(connection, timeout, lent)?;
        // SAFETY: as the header asks.
        unsafe { show(view, loan) };
        Ok(())
    })
}

/// Sends what a view shows in some way.
///
/// # Safety
///
/// As the header asks of both pointers.
unsafe fn send<T>(
    connection: *mut Connection,
    timeout: u32,
    view: *mut View,
    act: impl FnOnce(&lightmessaging::Connection, Loan, lightmessaging::Deadline) -> Result<T>,
) -> std::result::Result<Result<T>, Code> {
    // SAFETY: by the caller's word.
    let connection = unsafe { abi::connection(connection) };
    let connection = connection.ok_or_else(|| invalid("the connection is NULL"))?;
    // SAFETY: as above.
    let loan = unsafe { take(view) }.ok_or_else(none)?;
    Ok(connection::with(connection, timeout, |it, deadline| act(it, loan, deadline)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_send_view(
    connection: *mut Connection,
    id: i32,
    view: *mut View,
    timeout: u32,
) -> Code {
    guard(code::FAILURE, || {
        // SAFETY: as the header asks.
        let sent = unsafe {
            send(connection, timeout, view, |it, loan, deadline| {
                it.send_one_way_within(id, loan, deadline)
            })
        };
        match sent {
            Ok(sent) => code(|| sent),
            Err(code) => code,
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_call_view(
    connection: *mut Connection,
    id: i32,
    view: *mut View,
    timeout: u32,
    buffer: *mut Buffer,
) -> Code {
    if buffer.is_null() {
        return invalid("the response buffer is NULL");
    }
    let called = guard(code::FAILURE, || {
        // SAFETY: as the header asks.
        let called = unsafe {
            send(connection, timeout, view, |it, loan, deadline| {
                it.send_two_way_within(id, loan, deadline)
            })
        };
        match called {
            // SAFETY: as the header asks, and not null.
            Ok(response) => unsafe { put_response(buffer, response) },
            Err(code) => code,
        }
    });
    if called != SUCCESS {
        // SAFETY: as the header asks.
        unsafe { abi::clear(buffer) };
    }
    called
}

fn unknown_port() -> Code {
    code::remember("the reply port is none, was replied to before, or its client is gone".into());
    code::SEND_INVALID_DEST
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_reply_allocate(port: Port, length: usize, view: *mut View) -> Code {
    if view.is_null() {
        return invalid("the view is NULL");
    }
    // SAFETY: as the header asks.
    unsafe { abi::put(view, NOTHING) };
    guard(code::FAILURE, || match rights::table().alloc(port, length) {
        None => unknown_port(),
        Some(Err(error)) => code::of_reply(&error),
        Some(Ok(loan)) => {
            // SAFETY: as the header asks.
            unsafe { show(view, loan) };
            SUCCESS
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_reply_view(port: Port, view: *mut View) -> Code {
    guard(code::FAILURE, || {
        // SAFETY: as the header asks.
        let Some(loan) = (unsafe { take(view) }) else { return none() };
        if port == NULL {
            return SUCCESS;
        }
        // Bound, so that the table is not locked while the reply is sent.
        let owed = rights::table().redeem(port);
        let Some(owed) = owed else { return unknown_port() };
        match owed.reply.reply(loan) {
            Ok(()) => SUCCESS,
            Err(error) => code::of_reply(&error),
        }
    })
}
