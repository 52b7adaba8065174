//! One-way messages through a dense byte ring: a header of 16 bytes, then the payload.
//!
//! The tail is a word of its own; the producer swaps it and looks whether the consumer sleeps, as
//! anything must that may sleep; the consumer drains to the tail and backs off a little when there
//! is nothing.

use std::hint::spin_loop;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::peer::Peer;
use crate::place::Place;
use crate::shared::Shared;

const TAIL: usize = 0;
const HEAD: usize = 64;
const ASLEEP: usize = 128;
const COUNT: usize = 192;
const RING: usize = 4096;
const HEADER: usize = 16;

/// The sending end.
pub struct Ring {
    shared: Shared,
    peer: Peer,
    capacity: u64,
    size: usize,
    tail: u64,
}

impl Ring {
    /// A ring of so many bytes for messages of so many.
    pub fn start(place: Place, capacity: usize, size: usize) -> Ring {
        let shared = Shared::new(RING + capacity);
        let numbers = [shared.fd(), capacity as i32, size as i32];
        let mut arguments = vec!["ring".to_owned()];
        arguments.extend(numbers.map(|number| number.to_string()));
        let peer = Peer::start(place.far(), &arguments);
        Ring { shared, peer, capacity: capacity as u64, size, tail: 0 }
    }

    /// Sends so many messages, waits until all were taken, and says how many a second that was.
    pub fn rate(&mut self, messages: usize) -> f64 {
        self.peer.say(messages);
        let shared = &self.shared;
        let (tail_word, head_word) = (shared.word(TAIL), shared.word(HEAD));
        let asleep = shared.word(ASLEEP);
        let payload = vec![7; self.size];
        let record = (HEADER + self.size) as u64;
        let mut head = head_word.load(Ordering::Acquire);
        let started = Instant::now();
        for number in 0..messages as u64 {
            let at = self.tail % self.capacity;
            let skip = if self.capacity - at < record { self.capacity - at } else { 0 };
            let end = self.tail + skip + record;
            while end - head > self.capacity {
                spin_loop();
                head = head_word.load(Ordering::Acquire);
            }
            let at = RING + ((self.tail + skip) % self.capacity) as usize;
            let mut header = [0; HEADER];
            header[..8].copy_from_slice(&number.to_ne_bytes());
            header[8..].copy_from_slice(&self.size.to_ne_bytes());
            shared.write(at, &header);
            shared.write(at + HEADER, &payload);
            self.tail = end;
            tail_word.swap(end, Ordering::SeqCst);
            assert_eq!(asleep.load(Ordering::SeqCst), 0);
        }
        while shared.word(COUNT).load(Ordering::Acquire) != messages as u64 {
            spin_loop();
        }
        let rate = messages as f64 / started.elapsed().as_secs_f64();
        self.peer.line();
        shared.word(COUNT).store(0, Ordering::Release);
        rate
    }
}

pub fn responder(numbers: &[i32]) -> Box<dyn FnMut(u64)> {
    let (capacity, size) = (numbers[1] as u64, numbers[2] as usize);
    let shared = Shared::inherited(numbers[0], RING + capacity as usize);
    let record = (HEADER + size) as u64;
    let mut head = 0;
    let mut bytes = vec![0; size];
    Box::new(move |messages| {
        let (tail_word, head_word) = (shared.word(TAIL), shared.word(HEAD));
        let mut count = 0;
        while count < messages {
            let tail = tail_word.load(Ordering::Acquire);
            if tail == head {
                for _ in 0..8 {
                    spin_loop();
                }
                continue;
            }
            while head != tail {
                let at = head % capacity;
                if capacity - at < record {
                    head += capacity - at;
                }
                let at = RING + (head % capacity) as usize;
                let mut header = [0; HEADER];
                shared.read(at, &mut header);
                assert_eq!(header[..8], count.to_ne_bytes());
                shared.read(at + HEADER, &mut bytes);
                std::hint::black_box(&bytes);
                head += record;
                count += 1;
            }
            head_word.store(head, Ordering::Release);
        }
        shared.word(COUNT).store(count, Ordering::Release);
    })
}
