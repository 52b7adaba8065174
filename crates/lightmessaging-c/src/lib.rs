//! The C library: the original names of LightMessaging over the Rust one.
//!
//! This crate has no logic of its own. It turns C's pointers and numbers into owned Rust values and
//! back: [`exports`] has the functions, [`abi`] the layout of what C programs see; behind them are
//! the tables that make numbers and pointers safe to use wrongly ([`rights`], [`memory`], [`data`],
//! [`run_loop`], [`unlock`]). The headers under `include/` are the documents.
//!
//! # What C programs may do wrong
//!
//! Pass any number as a port, free a message twice or a copy of it, reply twice or from two threads
//! at once, keep what a callback was given: the tables tell, and the call returns an error code or
//! does nothing. What they must not do: pass pointers that lead nowhere, or lengths that are not
//! true.

mod abi;
mod code;
mod connection;
mod data;
mod exports;
mod fork;
mod loans;
mod memory;
mod rights;
mod run_loop;
mod service;
mod unlock;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a table. A panic elsewhere leaves it consistent: no lock is held across a callback.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
