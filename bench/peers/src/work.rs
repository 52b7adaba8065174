//! The work that every peer does: payloads whose first word says what to do with them, and sums.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::floors::payload::{Form, make, sum_all};

/// What goes wrong in a peer; it becomes a line of the table.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long a one-way message is. The other rows name their length.
pub const SMALL: usize = 64;

/// What the first word of a message asks for: the kind in its lowest byte, a number above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The sum of one word a page.
    HandedOver,
    /// The sum of all words.
    Consumed,
    /// Nothing: a one-way message with this number.
    Count(u64),
    /// How many were counted, once this many were; the count starts anew.
    Counted(u64),
}

impl Ask {
    /// As the first word of a message.
    pub fn word(self) -> u64 {
        match self {
            Ask::HandedOver => 0,
            Ask::Consumed => 1,
            Ask::Count(number) => number << 8 | 2,
            Ask::Counted(number) => number << 8 | 3,
        }
    }

    /// What a message asks for.
    pub fn of(message: &[u8]) -> Option<Ask> {
        let word = u64::from_le_bytes(*message.first_chunk()?);
        Some(match word & 0xff {
            0 => Ask::HandedOver,
            1 => Ask::Consumed,
            2 => Ask::Count(word >> 8),
            3 => Ask::Counted(word >> 8),
            _ => return None,
        })
    }
}

/// A payload of so many bytes to be read in this form, and the sum that must come back.
pub fn payload(form: Form, len: usize) -> (Vec<u8>, u64) {
    let mut payload = make(len);
    let ask = if form == Form::Consumed { Ask::Consumed } else { Ask::HandedOver };
    payload[..8].copy_from_slice(&ask.word().to_le_bytes());
    let sum = form.sum(&payload);
    (payload, sum)
}

/// The one-way message with this number.
pub fn numbered(number: u64) -> [u8; SMALL] {
    let mut message = [7; SMALL];
    message[..8].copy_from_slice(&Ask::Count(number).word().to_le_bytes());
    message
}

/// The call that asks for the count.
pub fn counted(expected: u64) -> [u8; SMALL] {
    let mut message = [7; SMALL];
    message[..8].copy_from_slice(&Ask::Counted(expected).word().to_le_bytes());
    message
}

/// Where requests are served. It is shared by the connections of peers that do not keep one-way
/// messages and calls in order, and belongs to one connection elsewhere.
#[derive(Default)]
pub struct Desk {
    count: AtomicU64,
    numbers: AtomicU64,
}

impl Desk {
    /// Serves a message; a one-way message has no reply.
    pub fn serve(&self, message: &[u8]) -> Option<u64> {
        match Ask::of(message)? {
            Ask::HandedOver => Some(Form::HandedOver.sum(message)),
            Ask::Consumed => Some(sum_all(message)),
            Ask::Count(number) => {
                // One thread counts, so nothing has to be locked for it.
                let sum = self.numbers.load(Ordering::Relaxed).wrapping_add(number);
                self.numbers.store(sum, Ordering::Relaxed);
                self.count.store(self.count.load(Ordering::Relaxed) + 1, Ordering::Release);
                None
            }
            Ask::Counted(expected) => Some(self.counted(expected)),
        }
    }

    /// The count, once it is what was expected; `u64::MAX` if the numbers were not those that were
    /// sent, and the count so far if messages stay away for two seconds.
    pub fn counted(&self, expected: u64) -> u64 {
        let started = Instant::now();
        while self.count.load(Ordering::Acquire) < expected {
            if started.elapsed() > Duration::from_secs(2) {
                break;
            }
            std::thread::yield_now();
        }
        let count = self.count.swap(0, Ordering::AcqRel);
        let numbers = self.numbers.swap(0, Ordering::Relaxed);
        let sent = expected * expected.saturating_sub(1) / 2;
        if count == expected && numbers != sent { u64::MAX } else { count }
    }

    /// Whether everything that was expected has been counted, for peers that count on the thread
    /// that answers.
    pub fn has_counted(&self, expected: u64) -> bool {
        self.count.load(Ordering::Acquire) >= expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_counts_once() {
        let desk = Desk::default();
        (0..10).for_each(|number| assert_eq!(desk.serve(&numbered(number)), None));
        assert_eq!(desk.serve(&counted(10)), Some(10));
        assert_eq!(desk.serve(&counted(0)), Some(0));
    }

    #[test]
    fn a_message_that_came_twice_does_not_replace_a_lost_one() {
        let desk = Desk::default();
        [0, 1, 1].iter().for_each(|number| assert_eq!(desk.serve(&numbered(*number)), None));
        assert_eq!(desk.serve(&counted(3)), Some(u64::MAX));
    }

    #[test]
    fn a_payload_asks_for_its_own_sum() {
        for form in [Form::Consumed, Form::HandedOver] {
            let (payload, sum) = payload(form, 3 * 4096);
            assert_eq!(Desk::default().serve(&payload), Some(sum));
        }
    }
}
