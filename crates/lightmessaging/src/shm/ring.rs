//! The ring of one-way messages: dense records in the client's memory, one writer, one reader.
//!
//! Positions are byte counts that only grow; where a record lies is its position modulo the
//! ring's length. Each side keeps its own position to itself and publishes copies of it. A record
//! never wraps: one that does not fit before the end is preceded by a *skip*. When the ring runs
//! empty the writer skips back to the first pages, so that sparse traffic touches few of them.

use super::mapping::{Mapping, Span};

/// Records begin at multiples of this, so that a header always fits before the end.
const ALIGN: u64 = 16;
/// The length of a record's header.
const HEADER: usize = 16;
/// In place of a region: the rest of the ring is unused.
const SKIP: u32 = u32::MAX;
/// How far the writer walks before it looks whether it may return to the beginning.
const HOME: u64 = 16 * 1024;
/// How far it walks between two such looks.
const LOOK: u64 = 4 * 1024;

/// The header of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The low half of the lane's sequence number.
    pub(crate) seq: u32,
    pub(crate) id: i32,
    /// The length of the whole payload.
    pub(crate) len: u32,
    /// 0 if the payload follows; else a region's number plus one, and the loan follows.
    pub(crate) region: u32,
}

impl Record {
    fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..4].copy_from_slice(&self.seq.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.id.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.region.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; HEADER]) -> Record {
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        Record {
            seq: u32::from_ne_bytes(word(0)),
            id: i32::from_ne_bytes(word(4)),
            len: u32::from_ne_bytes(word(8)),
            region: u32::from_ne_bytes(word(12)),
        }
    }
}

/// The room that a record with so much behind its header takes.
const fn room(len: usize) -> u64 {
    (HEADER + len).next_multiple_of(ALIGN as usize) as u64
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Writer {
    base: usize,
    capacity: u64,
    tail: u64,
    /// The reader's position when we last looked.
    head: u64,
    /// The position from which it pays to look whether the ring is empty.
    look: u64,
}

/// The reader's position cannot be true.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadPosition;

impl Writer {
    /// A writer of an empty ring of `capacity` bytes, a power of two, at `base`.
    pub(crate) fn new(base: usize, capacity: usize) -> Writer {
        Writer { base, capacity: capacity as u64, tail: 0, head: 0, look: HOME }
    }

    /// The position behind the last record; publish it to let the reader see them.
    #[inline]
    pub(crate) fn tail(&self) -> u64 {
        self.tail
    }

    /// Writes a record, `payload` behind its header; `false` if there is no room. `claimed_head`
    /// reads the reader's position, only when it matters.
    #[inline]
    pub(crate) fn put(
        &mut self,
        memory: &Mapping,
        record: Record,
        payload: &[u8],
        claimed_head: impl Fn() -> u64,
    ) -> Result<bool, BadPosition> {
        let size = room(payload.len());
        let at = self.tail % self.capacity;
        let rest = self.capacity - at;
        let mut skip = if size > rest { rest } else { 0 };
        if at >= HOME && self.tail >= self.look {
            self.look = self.tail + LOOK;
            self.update_head(claimed_head())?;
            if self.head == self.tail {
                skip = rest;
            }
        }
        let end = self.tail + skip + size;
        if end - self.head > self.capacity {
            self.update_head(claimed_head())?;
            if end - self.head > self.capacity {
                return Ok(false);
            }
        }
        if skip > 0 {
            let marker = Record { seq: 0, id: 0, len: 0, region: SKIP };
            self.span(memory, at, HEADER).copy_in(&marker.to_bytes());
        }
        let at = (self.tail + skip) % self.capacity;
        let span = self.span(memory, at, size as usize);
        span.copy_in(&record.to_bytes());
        span.part(HEADER, payload.len()).copy_in(payload);
        self.tail = end;
        Ok(true)
    }

    /// Whether a record with so much behind its header would find room, the reader being at
    /// `claimed_head`; one that has to skip to the beginning counts in full.
    pub(crate) fn has_room(&self, len: usize, claimed_head: u64) -> bool {
        let size = room(len);
        let rest = self.capacity - self.tail % self.capacity;
        let skip = if size > rest { rest } else { 0 };
        // A position that cannot be true is for `put` to refuse.
        let is_true = (self.head..=self.tail).contains(&claimed_head);
        !is_true || self.tail + skip + size - claimed_head <= self.capacity
    }

    fn update_head(&mut self, claimed: u64) -> Result<(), BadPosition> {
        if claimed < self.head || claimed > self.tail {
            return Err(BadPosition);
        }
        self.head = claimed;
        Ok(())
    }

    fn span<'a>(&self, memory: &'a Mapping, at: u64, len: usize) -> Span<'a> {
        memory.span(self.base + at as usize, len).expect("the ring lies in our own memory")
    }

    /// Everything that a reader which stopped at `head` has not taken, in order.
    pub(crate) fn untaken(
        &self,
        memory: &Mapping,
        head: u64,
        mut each: impl FnMut(Record, Vec<u8>),
    ) -> Result<(), BadPosition> {
        if head < self.head || head > self.tail {
            return Err(BadPosition);
        }
        let mut reader = Reader { base: self.base, capacity: self.capacity, head };
        while let Some((record, span)) = reader.next(memory, self.tail).map_err(|_| BadPosition)? {
            let mut bytes = Vec::new();
            span.append_to(&mut bytes);
            each(record, bytes);
        }
        Ok(())
    }
}

/// The reading end. The memory and its tail are the peer's.
#[derive(Debug)]
pub(crate) struct Reader {
    base: usize,
    capacity: u64,
    head: u64,
}

impl Reader {
    /// A reader of a ring of `capacity` bytes, a power of two, at `base`.
    pub(crate) fn new(base: usize, capacity: usize) -> Reader {
        Reader { base, capacity: capacity as u64, head: 0 }
    }

    /// The position behind the last record taken.
    #[inline]
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// Whether the tail says that there is something to read.
    #[inline]
    pub(crate) fn has_next(&self, claimed_tail: u64) -> bool {
        self.head != claimed_tail
    }

    /// The next record and what follows its header, without taking it.
    #[inline]
    pub(crate) fn peek<'a>(
        &mut self,
        memory: &'a Mapping,
        claimed_tail: u64,
    ) -> Result<Option<(Record, Span<'a>)>, &'static str> {
        for _ in 0..2 {
            let Some(filled) = claimed_tail.checked_sub(self.head) else {
                return Err("a ring position that went back");
            };
            if filled > self.capacity || filled % ALIGN != 0 {
                return Err("a ring position out of range");
            }
            if filled == 0 {
                return Ok(None);
            }
            let at = self.head % self.capacity;
            let rest = self.capacity - at;
            let mut header = [0; HEADER];
            let span = memory
                .span(self.base + at as usize, rest.min(filled) as usize)
                .ok_or("a ring outside its memory")?;
            span.copy_out(&mut header);
            let record = Record::from_bytes(header);
            if record.region == SKIP {
                if at == 0 || rest > filled {
                    return Err("a skip out of range");
                }
                self.head += rest;
                continue;
            }
            let follows = if record.region == 0 { record.len as usize } else { 8 };
            if follows > crate::INLINE_MAX || room(follows) > span.len() as u64 {
                return Err("a record longer than its ring");
            }
            return Ok(Some((record, span.part(HEADER, follows))));
        }
        Err("a skip to a skip")
    }

    /// Takes the record that `peek` has shown.
    #[inline]
    pub(crate) fn advance(&mut self, record: Record) {
        let follows = if record.region == 0 { record.len as usize } else { 8 };
        self.head += room(follows);
    }

    fn next<'a>(
        &mut self,
        memory: &'a Mapping,
        tail: u64,
    ) -> Result<Option<(Record, Span<'a>)>, &'static str> {
        let next = self.peek(memory, tail)?;
        if let Some((record, _)) = next {
            self.advance(record);
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::sys::memory;

    const CAPACITY: usize = 64 * 1024;

    fn ring() -> (Mapping, Writer, Reader) {
        let memory = Mapping::own(memory::create(CAPACITY).unwrap(), CAPACITY).unwrap();
        (memory, Writer::new(0, CAPACITY), Reader::new(0, CAPACITY))
    }

    fn record(seq: u32, len: usize) -> Record {
        Record { seq, id: -(seq as i32), len: len as u32, region: 0 }
    }

    #[test]
    fn records_of_all_lengths_come_out_as_they_went_in() {
        let (memory, mut writer, mut reader) = ring();
        let head = Cell::new(0);
        for seq in 0..10_000u32 {
            let payload = vec![seq as u8; seq as usize * 7 % 4097];
            while !writer.put(&memory, record(seq, payload.len()), &payload, || head.get()).unwrap()
            {
                reader.next(&memory, writer.tail()).unwrap().unwrap();
                head.set(reader.head());
            }
            if seq % 3 == 0 {
                while let Some((found, span)) = reader.next(&memory, writer.tail()).unwrap() {
                    let mut bytes = Vec::new();
                    span.append_to(&mut bytes);
                    assert_eq!(found.len as usize, bytes.len());
                    assert!(bytes.iter().all(|b| *b == found.seq as u8));
                }
                head.set(reader.head());
            }
        }
    }

    #[test]
    fn an_empty_ring_returns_to_its_first_pages() {
        let (memory, mut writer, mut reader) = ring();
        for seq in 0..10_000 {
            let head = reader.head();
            assert!(writer.put(&memory, record(seq, 64), &[1; 64], || head).unwrap());
            reader.next(&memory, writer.tail()).unwrap().unwrap();
            assert!(reader.head() % (CAPACITY as u64) <= HOME + LOOK + 80);
        }
    }

    #[test]
    fn a_full_ring_takes_no_more_until_it_is_read() {
        let (memory, mut writer, mut reader) = ring();
        let mut count = 0;
        while writer.put(&memory, record(count, 1000), &[0; 1000], || 0).unwrap() {
            count += 1;
        }
        assert_eq!(count as usize, CAPACITY / 1024);
        reader.next(&memory, writer.tail()).unwrap().unwrap();
        assert!(writer.put(&memory, record(count, 1000), &[0; 1000], || reader.head()).unwrap());
    }

    #[test]
    fn what_was_not_taken_is_found_again() {
        let (memory, mut writer, mut reader) = ring();
        for seq in 0..5 {
            assert!(writer.put(&memory, record(seq, 3), &[seq as u8; 3], || 0).unwrap());
        }
        for _ in 0..2 {
            reader.next(&memory, writer.tail()).unwrap();
        }
        let mut found = Vec::new();
        writer.untaken(&memory, reader.head(), |r, bytes| found.push((r.seq, bytes[0]))).unwrap();
        assert_eq!(found, [(2, 2), (3, 3), (4, 4)]);
        assert_eq!(writer.untaken(&memory, 1 << 40, |_, _| ()), Err(BadPosition));
    }

    #[test]
    fn positions_and_lengths_out_of_range_are_refused() {
        let (memory, mut writer, _) = ring();
        let refused = |tail, head| {
            Reader { base: 0, capacity: CAPACITY as u64, head }.peek(&memory, tail).is_err()
        };
        assert!(refused(16, 32));
        assert!(refused(CAPACITY as u64 + 16, 0));
        assert!(refused(8, 0));
        assert!(writer.put(&memory, record(1, 4096), &[0; 64], || 0).unwrap());
        assert!(refused(80, 0), "a record that claims more than was published");
        memory.span(12, 4).unwrap().copy_in(&SKIP.to_ne_bytes());
        assert!(refused(CAPACITY as u64, 0), "a skip of the whole ring");
        assert!(writer.put(&memory, record(2, 0), &[0; 4096], || 1 << 50).is_ok());
        assert_eq!(writer.update_head(1 << 50), Err(BadPosition));
    }
}
