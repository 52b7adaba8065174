//! A payload in a reused shared buffer, read there by the other process, and eight bytes back.
//!
//! The signal is the spinning slot's. The reader of a *handed over* payload reads one word a page,
//! that of a *consumed* one sums all of it. A payload of one page is copied out first in both
//! forms, as an inline message always is.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::Ordering;

use super::{Floor, time, with_warm_up};
use crate::peer::Peer;
use crate::place::Place;
use crate::shared::Shared;
use crate::stats::Block;

const ASK: usize = 0;
const ANSWER: usize = 64;
const SUM: usize = 128;
const PAYLOAD: usize = 4096;

/// What the reader does with a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Reads one word a page.
    HandedOver,
    /// Sums every byte, as 64-bit words.
    Consumed,
}

impl Form {
    pub fn name(self) -> &'static str {
        match self {
            Form::HandedOver => "handed over",
            Form::Consumed => "consumed",
        }
    }

    /// The sum that the reader arrives at.
    pub fn sum(self, bytes: &[u8]) -> u64 {
        match self {
            Form::HandedOver => bytes.chunks(4096).fold(0, add),
            Form::Consumed => sum_all(bytes),
        }
    }
}

fn add(sum: u64, bytes: &[u8]) -> u64 {
    let word = bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    sum.wrapping_add(word)
}

/// The sum of all words; payloads are whole numbers of them.
pub fn sum_all(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

/// The payload that both floor and ours send.
pub fn make(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i ^ (i >> 7)) as u8).collect()
}

/// The measuring end.
pub struct Payload {
    shared: Shared,
    peer: Peer,
    seq: u64,
    payload: Vec<u8>,
    in_place: bool,
    sum: u64,
}

impl Payload {
    /// `in_place`: the payload is already there, nothing is copied in.
    pub fn start(place: Place, form: Form, len: usize, in_place: bool) -> Payload {
        let shared = Shared::new(PAYLOAD + len);
        let payload = make(len);
        shared.write(PAYLOAD, &payload);
        let numbers = [shared.fd(), len as i32, i32::from(form == Form::Consumed)];
        let mut arguments = vec!["payload".to_owned()];
        arguments.extend(numbers.map(|number| number.to_string()));
        let sum = form.sum(&payload);
        Payload {
            shared,
            peer: Peer::start(place.far(), &arguments),
            seq: 0,
            payload,
            in_place,
            sum,
        }
    }
}

impl Floor for Payload {
    fn block(&mut self, calls: usize) -> Block {
        self.peer.say(with_warm_up(calls));
        let (shared, seq) = (&self.shared, &mut self.seq);
        let (ask, answer, sum) = (shared.word(ASK), shared.word(ANSWER), shared.word(SUM));
        let block = time(calls, || {
            *seq += 1;
            if !self.in_place {
                shared.write(PAYLOAD, &self.payload);
            }
            ask.swap(*seq, Ordering::SeqCst);
            while answer.load(Ordering::Acquire) != *seq {
                spin_loop();
            }
            assert_eq!(sum.load(Ordering::Relaxed), self.sum);
        });
        self.peer.line();
        block
    }
}

pub fn responder(numbers: &[i32]) -> Box<dyn FnMut(u64)> {
    let len = numbers[1] as usize;
    let shared = Shared::inherited(numbers[0], PAYLOAD + len);
    let form = if numbers[2] == 1 { Form::Consumed } else { Form::HandedOver };
    let mut seq = 0;
    Box::new(move |calls| {
        let (ask, answer, sum) = (shared.word(ASK), shared.word(ANSWER), shared.word(SUM));
        for _ in 0..calls {
            seq += 1;
            while ask.load(Ordering::Acquire) != seq {
                spin_loop();
            }
            let total = if len <= 4096 {
                let mut copy = [0; 4096];
                shared.read(PAYLOAD, &mut copy[..len]);
                form.sum(&black_box(copy)[..len])
            } else {
                form.sum(shared.bytes(PAYLOAD, len))
            };
            sum.store(total, Ordering::Relaxed);
            answer.swap(seq, Ordering::SeqCst);
        }
    })
}
