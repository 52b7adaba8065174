//! Out-of-line payloads in memory that is the C program's own for a while.
//!
//! Each has an address and a token that is not used again soon; both must be right for it to be
//! freed, so that freeing twice, or a copy, does nothing. Freed memory is kept for the next
//! payload: fresh memory costs a page fault, more than copying a page does.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard};

use lightmessaging::{Loan, Payload};

use crate::abi::OutOfLine;
use crate::{fork, lock};

/// Bytes that are kept for the next payloads, all together.
const KEPT: usize = 32 << 20;
/// How many pieces of memory are kept, at most.
const PIECES: usize = 16;

/// What lies at an address.
enum Held {
    /// A copy, which may be written.
    Copy(Vec<u8>),
    /// A message whose payload is read in place, held so that it stays.
    InPlace { _it: Box<dyn Send> },
    /// Memory to be filled and sent.
    Loan(Loan),
}

#[derive(Default)]
pub(crate) struct Memory {
    tokens: u32,
    held: HashMap<usize, (u32, Held)>,
    /// Free memory, the most recently used last.
    kept: Vec<Vec<u8>>,
}

static MEMORY: LazyLock<Mutex<Memory>> = LazyLock::new(fork::guarded);

pub(crate) fn table() -> MutexGuard<'static, Memory> {
    lock(&MEMORY)
}

impl Memory {
    fn token(&mut self) -> u32 {
        self.tokens = self.tokens.wrapping_add(1);
        // Not to be met by chance in memory that nobody has set; and zero is no token.
        (self.tokens.wrapping_mul(0x85eb_ca6b) ^ 0x5a4c_4d21) | 1
    }

    fn hold(&mut self, address: usize, len: usize, held: Held) -> OutOfLine {
        let token = self.token();
        self.held.insert(address, (token, held));
        OutOfLine { address, len, token }
    }

    /// Memory that has room, or none that is kept.
    fn reuse(&mut self, room: usize) -> Vec<u8> {
        let fits = |bytes: &Vec<u8>| bytes.capacity() >= room;
        match self.kept.iter().rposition(fits) {
            Some(at) => self.kept.remove(at),
            None => Vec::new(),
        }
    }

    /// Keeps memory for later, and returns what is too much to be kept, to be freed without the lock.
    fn keep(&mut self, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
        if bytes.capacity() > KEPT / 2 {
            return vec![bytes];
        }
        bytes.clear();
        self.kept.push(bytes);
        let mut total: usize = self.kept.iter().map(Vec::capacity).sum();
        let mut too_much = Vec::new();
        while self.kept.len() > PIECES || total > KEPT {
            let oldest = self.kept.remove(0);
            total -= oldest.capacity();
            too_much.push(oldest);
        }
        too_much
    }
}

/// Copies a payload into memory of its own, with a zero byte behind it; `None` if there is none.
pub(crate) fn copy(payload: Payload<'_>) -> Option<OutOfLine> {
    let len = payload.len();
    let mut bytes = table().reuse(len + 1);
    bytes.try_reserve_exact(len + 1).ok()?;
    payload.copy_to(&mut bytes);
    bytes.push(0);
    Some(table().hold(bytes.as_ptr() as usize, len, Held::Copy(bytes)))
}

/// Holds a response or a request's message, whose bytes are read in place; `place` says where.
pub(crate) fn hold<T: Send + 'static>(it: T, place: fn(&T) -> (usize, usize)) -> OutOfLine {
    // Small payloads lie in what is held, which must not move any more.
    let it = Box::new(it);
    let (address, len) = place(&it);
    table().hold(address, len, Held::InPlace { _it: it })
}

/// Frees a payload, if it is there and is this one. Returns whether it was.
pub(crate) fn free(claimed: OutOfLine) -> bool {
    let mut memory = table();
    if memory.held.get(&claimed.address).is_none_or(|(token, _)| *token != claimed.token) {
        return false;
    }
    let freed = memory.held.remove(&claimed.address);
    // Handing a region back, or much memory, takes system calls: not under the lock.
    match freed {
        Some((_, Held::Copy(bytes))) => {
            let too_much = memory.keep(bytes);
            drop(memory);
            drop(too_much);
        }
        freed => {
            drop(memory);
            drop(freed);
        }
    }
    true
}

/// Holds memory for the program to fill.
pub(crate) fn lend(mut loan: Loan) -> OutOfLine {
    let (address, len) = (loan.as_mut_ptr().expose_provenance(), loan.len());
    table().hold(address, len, Held::Loan(loan))
}

/// Takes such memory back, cut to the length that the program claims, to be sent. Nothing happens to
/// what is none, or has not as many bytes: in a forked child a loan of the parent's has none.
pub(crate) fn take_loan(claimed: OutOfLine) -> Option<Loan> {
    let mut memory = table();
    match memory.held.get(&claimed.address)? {
        (token, Held::Loan(loan)) if *token == claimed.token && claimed.len <= loan.len() => {}
        _ => return None,
    }
    let Some((_, Held::Loan(mut loan))) = memory.held.remove(&claimed.address) else {
        return None;
    };
    loan.truncate(claimed.len);
    Some(loan)
}

/// Gives a payload a new token, so that whoever knew the old one cannot free it any more.
pub(crate) fn take_over(claimed: OutOfLine) -> Option<OutOfLine> {
    let mut memory = table();
    let token = memory.token();
    let (known, _) = memory.held.get_mut(&claimed.address)?;
    if *known != claimed.token {
        return None;
    }
    *known = token;
    Some(OutOfLine { token, ..claimed })
}

/// Makes zeroed memory of the same kind, for a payload that has to move.
pub(crate) fn make(len: usize) -> Option<OutOfLine> {
    let mut bytes = table().reuse(len.max(1));
    bytes.try_reserve_exact(len.max(1)).ok()?;
    bytes.resize(len.max(1), 0);
    Some(table().hold(bytes.as_ptr() as usize, len, Held::Copy(bytes)))
}
