//! Regions: memory for payloads that are too large for a slot or a record.
//!
//! A region belongs to one lane and one direction for life. Its descriptor crosses the socket
//! once; messages then name the region and a *loan*, and the receiver hands the loan back by
//! writing it into its own memory. The upper half of a loan says which of the regions that had
//! the number one after the other it is of, so that a message which overtakes the socket's packets
//! is not read from the wrong one; the lower half counts. [`Pool`] is the sender's side, [`Known`] the receiver's.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::layout::{PAGE, REGIONS};
use super::lease::{Draft, Store};
use super::mapping::{Mapping, Span};
use crate::sys::memory;

/// The smallest region, in bytes.
const SMALLEST: usize = 64 * 1024;
/// Payloads of one length take turns in regions that hold so many bytes together: cache lines that are
/// written again sooner after the other side has read them cost nearly twice as much.
const TURNS: usize = 192 * 1024;
/// As many regions at most take turns; where it would take more, the payload stays in one.
const TURNS_MOST: usize = 4;
/// A region that was lent so often gets another to take turns with.
const OFTEN: u32 = 8;
/// Free regions beyond this many bytes are let go.
const KEEP: u64 = 64 * 1024 * 1024;
/// All regions of one direction together, in bytes: two of the largest payload.
const MOST: u64 = 8 << 30;

/// The regions that this side has made on a lane.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// By number, as far as there have ever been any: most lanes have few.
    regions: Vec<Option<Own>>,
    bytes: u64,
    /// How many regions there have been.
    made: u32,
    /// How many loans there have been.
    loans: u64,
}

#[derive(Debug)]
struct Own {
    memory: Store,
    len: usize,
    /// The last loan.
    last: u64,
    /// How many loans of all regions there had been before that.
    turn: u64,
    /// It is out under that loan: being written, named in a message, or read by this process still.
    is_out: bool,
}

impl Own {
    /// Whether another loan of so many bytes can be made.
    fn fits(&self, len: usize) -> bool {
        !self.is_out && self.len >= len && self.last as u32 != u32::MAX && self.memory.is_idle()
    }
}

/// How long a region is that is made for so many bytes: a little more, so that the next payload, a little
/// longer, fits too.
fn region_len(len: usize) -> usize {
    let step = (len.next_power_of_two() / 8).max(SMALLEST);
    len.max(1).next_multiple_of(step).next_multiple_of(PAGE)
}

/// Which of the regions that had a number one after the other a loan is of.
pub(crate) fn incarnation(loan: u64) -> u32 {
    (loan >> 32) as u32
}

/// What a message names: a region, and the loan that it is out under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lent {
    pub(crate) number: usize,
    pub(crate) loan: u64,
}

/// A region to be filled.
#[derive(Debug)]
pub(crate) struct Blank {
    pub(crate) lent: Lent,
    pub(crate) memory: Draft,
    /// To be sent before the first message that names the region.
    pub(crate) new: Option<OwnedFd>,
    /// Regions that are gone, which the peer may forget.
    pub(crate) gone: Vec<usize>,
}

impl Pool {
    /// Lends a region of at least `len` bytes; `None` while too much is out. `returned` reads the
    /// last loan that the peer has handed back of a region: one that is not out changes nothing.
    pub(crate) fn lend(
        &mut self,
        len: usize,
        returned: impl Fn(usize) -> u64,
    ) -> io::Result<Option<Blank>> {
        let fresh = region_len(len);
        let mut best = self.best(len);
        // What the peer has handed back lies in a line that it writes all the time.
        if best.and_then(|number| self.regions[number].as_ref()).is_none_or(|own| own.len != fresh)
        {
            self.collect(returned);
            best = self.best(len);
        }
        if best.is_some_and(|number| !self.wants_another(number, len)) {
            return Ok(self.lend_again(len));
        }
        match self.lend_new(len) {
            Ok(Some(blank)) => Ok(Some(blank)),
            // One more would have been nice to have.
            other => self.lend_again(len).map_or(other, |blank| Ok(Some(blank))),
        }
    }

    /// Lends one that the peer knows, if there is one that is free.
    pub(crate) fn lend_again(&mut self, len: usize) -> Option<Blank> {
        let number = self.best(len)?;
        let own = self.regions[number].as_mut()?;
        let memory = own.memory.draft()?;
        own.last += 1;
        own.turn = self.loans;
        own.is_out = true;
        self.loans += 1;
        let lent = Lent { number, loan: own.last };
        let mut gone = Vec::new();
        self.let_go(KEEP, &mut gone);
        Some(Blank { lent, memory, new: None, gone })
    }

    /// The smallest free region that is large enough; of several, the one that has rested longest.
    fn best(&self, len: usize) -> Option<usize> {
        (self.regions.iter().enumerate())
            .filter_map(|(number, own)| Some((number, own.as_ref().filter(|own| own.fits(len))?)))
            .min_by_key(|(_, own)| (own.len, own.turn))
            .map(|(number, _)| number)
    }

    /// Whether there are too few regions like this one for payloads of `len` bytes to take turns in.
    fn wants_another(&self, number: usize, len: usize) -> bool {
        let turns = TURNS.div_ceil(len.max(1));
        let Some(own) = self.regions[number].as_ref().filter(|_| (2..=TURNS_MOST).contains(&turns))
        else {
            return false;
        };
        let alike = self.regions.iter().flatten().filter(|other| other.len == own.len).count();
        own.last as u32 >= OFTEN && alike < turns && self.has_place()
    }

    fn has_place(&self) -> bool {
        self.regions.len() < REGIONS || self.regions.iter().any(Option::is_none)
    }

    /// Makes a region and lends it.
    fn lend_new(&mut self, len: usize) -> io::Result<Option<Blank>> {
        let mut gone = Vec::new();
        let len = region_len(len);
        self.let_go(KEEP.saturating_sub(len as u64), &mut gone);
        let vacant = self.regions.iter().position(Option::is_none);
        let another = (self.regions.len() < REGIONS).then_some(self.regions.len());
        let Some(number) = vacant.or(another).or_else(|| self.let_go_one(&mut gone)) else {
            return Ok(None);
        };
        if self.bytes + len as u64 > MOST {
            return Ok(None);
        }
        let fd = memory::create(len)?;
        let mut memory = Store::new(Mapping::own(&fd, len)?);
        memory::seal(&fd)?;
        memory.populate();
        let Some(draft) = memory.draft() else { return Ok(None) };
        self.bytes += len as u64;
        self.made = self.made.wrapping_add(1);
        let lent = Lent { number, loan: u64::from(self.made) << 32 };
        if number == self.regions.len() {
            self.regions.push(None);
        }
        let turn = self.loans;
        self.loans += 1;
        self.regions[number] = Some(Own { memory, len, last: lent.loan, turn, is_out: true });
        gone.retain(|n| *n != number);
        Ok(Some(Blank { lent, memory: draft, new: Some(fd), gone }))
    }

    /// Whether a region of at least `len` bytes could be lent now.
    pub(crate) fn can_lend(&mut self, len: usize, returned: impl Fn(usize) -> u64) -> bool {
        self.collect(returned);
        let free = |own: &Option<Own>| own.as_ref().is_none_or(|own| !own.is_out);
        let out: u64 =
            self.regions.iter().flatten().filter(|own| own.is_out).map(|own| own.len as u64).sum();
        (self.regions.len() < REGIONS || self.regions.iter().any(free)) && out + len as u64 <= MOST
    }

    /// Takes back a loan that was never named in a message. A region that the peer has not been
    /// told of (`forget`) goes away.
    pub(crate) fn take_back(&mut self, lent: Lent, forget: bool) {
        let Some(place) = self.regions.get_mut(lent.number) else { return };
        let Some(own) = place.as_mut().filter(|own| own.last == lent.loan) else { return };
        own.is_out = false;
        if forget {
            self.bytes -= own.len as u64;
            *place = None;
        }
    }

    /// A copy of what a message says that names a region of ours, unless that was lent anew since.
    pub(crate) fn contents(&self, lent: Lent, len: usize) -> Option<Vec<u8>> {
        let own = self.regions.get(lent.number)?.as_ref()?;
        if own.last == lent.loan { own.memory.copy(len) } else { None }
    }

    /// Lets go of everything that is not out, and says what.
    pub(crate) fn trim(&mut self, returned: impl Fn(usize) -> u64) -> Vec<usize> {
        self.collect(returned);
        let mut gone = Vec::new();
        self.let_go(0, &mut gone);
        gone
    }

    fn collect(&mut self, returned: impl Fn(usize) -> u64) {
        for (number, own) in self.regions.iter_mut().enumerate() {
            if let Some(own) = own
                && own.is_out
                && returned(number) == own.last
                // The peer may say so of one that it was never told of.
                && own.memory.is_idle()
            {
                own.is_out = false;
            }
        }
    }

    /// Lets go of free regions until the pool is no larger than `most` bytes.
    fn let_go(&mut self, most: u64, gone: &mut Vec<usize>) {
        while self.bytes > most && self.let_go_one(gone).is_some() {}
    }

    /// Lets go of the largest free region.
    fn let_go_one(&mut self, gone: &mut Vec<usize>) -> Option<usize> {
        let free = |n: &usize| self.regions[*n].as_ref().is_some_and(|own| !own.is_out);
        let number = (0..self.regions.len())
            .filter(free)
            .max_by_key(|n| self.regions[*n].as_ref().map(|own| own.len))?;
        let own = self.regions[number].take()?;
        self.bytes -= own.len as u64;
        gone.push(number);
        Some(number)
    }
}

/// A region of the peer's.
#[derive(Debug)]
pub(crate) enum Region {
    /// Of the same user: mapped.
    Mapped(Mapping),
    /// Of somebody else: read through its descriptor, never mapped.
    File(OwnedFd),
}

impl Region {
    /// Copies bytes from `offset` on out; fewer only where the region ends.
    #[inline]
    pub(crate) fn read_at(&self, offset: usize, bytes: &mut [u8]) -> usize {
        match self {
            Region::Mapped(memory) => match memory.span(offset, bytes.len()) {
                Some(span) => span.copy_out(bytes),
                None => 0,
            },
            Region::File(fd) => read_file(fd, offset, bytes),
        }
    }

    /// The mapped bytes, where they are mapped.
    pub(crate) fn span(&self, len: usize) -> Option<Span<'_>> {
        match self {
            Region::Mapped(memory) => memory.span(0, len),
            Region::File(_) => None,
        }
    }
}

fn read_file(fd: &OwnedFd, offset: usize, bytes: &mut [u8]) -> usize {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pread(fd, &mut bytes[done..], (offset + done) as u64) {
            Ok(0) => break,
            Ok(len) => done += len,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    done
}

/// The regions that the peer has made known on a lane.
#[derive(Debug, Default)]
pub(crate) struct Known {
    regions: [Option<Entry>; REGIONS],
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    region: Arc<Region>,
    len: u64,
    incarnation: u32,
    /// The least that the next loan of it may be.
    next: u64,
}

impl Known {
    /// Takes note of a region whose descriptor has come.
    pub(crate) fn add(
        &mut self,
        number: usize,
        incarnation: u32,
        fd: OwnedFd,
        map: bool,
    ) -> Result<(), &'static str> {
        if number >= REGIONS {
            return Err("a region number out of range");
        }
        let len = memory::check(&fd)?;
        self.remove(number);
        if len == 0 || self.bytes + len > MOST {
            return Err("a region too small or too large");
        }
        let region = if map {
            let len = usize::try_from(len).map_err(|_| "a region larger than our memory")?;
            Region::Mapped(
                Mapping::of_peer(&fd, len).map_err(|_| "a region that cannot be mapped")?,
            )
        } else {
            Region::File(fd)
        };
        self.bytes += len;
        let next = u64::from(incarnation) << 32;
        self.regions[number] = Some(Entry { region: Arc::new(region), len, incarnation, next });
        Ok(())
    }

    /// Forgets a region; a message that still reads it keeps it.
    pub(crate) fn remove(&mut self, number: usize) {
        if let Some(entry) = self.regions.get_mut(number).and_then(Option::take) {
            self.bytes -= entry.len;
        }
    }

    /// Gives the pages of the mapped regions back; they come again when touched.
    pub(crate) fn forget_pages(&self) {
        for entry in self.regions.iter().flatten() {
            if let Region::Mapped(memory) = &*entry.region {
                memory.forget_pages();
            }
        }
    }

    /// The region of a message, if it is known.
    pub(crate) fn has(&self, number: usize, loan: u64) -> bool {
        let entry = self.regions.get(number).and_then(Option::as_ref);
        entry.is_some_and(|entry| entry.incarnation == incarnation(loan))
    }

    /// Checks a loan of `len` bytes and takes note of it.
    pub(crate) fn borrow(
        &mut self,
        number: usize,
        loan: u64,
        len: usize,
    ) -> Result<Arc<Region>, &'static str> {
        let Some(Some(entry)) = self.regions.get_mut(number) else {
            return Err("a region that was never sent");
        };
        if incarnation(loan) != entry.incarnation {
            return Err("a region that was never sent");
        }
        if loan < entry.next {
            return Err("a loan that was made before");
        }
        if len as u64 > entry.len {
            return Err("a payload longer than its region");
        }
        entry.next = loan.saturating_add(1);
        Ok(entry.region.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A region that was filled and named in a message.
    fn lend(
        pool: &mut Pool,
        len: usize,
        returned: impl Fn(usize) -> u64,
    ) -> (Lent, Option<OwnedFd>) {
        let blank = pool.lend(len, returned).unwrap().unwrap();
        drop(blank.memory.finish());
        (blank.lent, blank.new)
    }

    #[test]
    fn a_region_that_is_being_written_is_not_lent_whatever_the_peer_says() {
        let mut pool = Pool::default();
        let mut first = pool.lend(5000, |_| 0).unwrap().unwrap();
        let says = |_| 1 << 32;
        assert_eq!(first.lent.loan, says(0));
        let second = pool.lend(5000, says).unwrap().unwrap();
        assert_ne!(first.lent.number, second.lent.number);
        first.memory.bytes_mut(5000).fill(7);
        assert!(pool.trim(says).is_empty());
        assert_eq!(pool.contents(first.lent, 5000), None);
        let written = first.memory.finish();
        assert_eq!(pool.contents(first.lent, 5000), Some(vec![7; 5000]));
        let third = pool.lend(5000, says).unwrap().unwrap();
        assert_ne!(first.lent.number, third.lent.number, "it is still read");
        drop(written);
        let (fourth, _) = lend(&mut pool, 5000, says);
        assert_eq!(fourth.number, first.lent.number);
        assert_eq!(pool.contents(first.lent, 5000), None, "another message's by now");
        assert_eq!(pool.contents(fourth, 5000), Some(vec![7; 5000]));
    }

    #[test]
    fn a_region_that_was_not_named_serves_again() {
        let mut pool = Pool::default();
        let (first, _) = lend(&mut pool, 5000, |_| 0);
        pool.take_back(first, false);
        let (second, is_new) = lend(&mut pool, 5000, |_| 0);
        assert_eq!(second.number, first.number);
        assert!(is_new.is_none());
        pool.take_back(first, true);
        assert!(pool.contents(second, 1).is_some(), "a loan that is over changes nothing");
        pool.take_back(second, true);
        assert!(pool.contents(second, 1).is_none());
        assert_eq!(pool.bytes, 0);
    }

    #[test]
    fn a_returned_region_serves_again() {
        let mut pool = Pool::default();
        let (first, is_new) = lend(&mut pool, 1 << 20, |_| 0);
        assert!(is_new.is_some());
        let (second, _) = lend(&mut pool, 1 << 20, |_| 0);
        assert_ne!(first.number, second.number);
        let back = |n| if n == first.number { first.loan } else { 0 };
        let (third, is_new) = lend(&mut pool, 1 << 20, back);
        assert_eq!(third.number, first.number);
        assert!(is_new.is_none());
        let (fourth, _) = lend(&mut pool, 1 << 20, back);
        assert_ne!(fourth.number, first.number, "an old loan's return is not a new loan's");
    }

    #[test]
    fn payloads_of_a_middling_length_take_turns() {
        let numbers = |len| {
            let mut pool = Pool::default();
            let mut numbers: Vec<usize> = Vec::new();
            let mut last = [0; REGIONS];
            for _ in 0..40 {
                let (lent, _) = lend(&mut pool, len, |number| last[number]);
                last[lent.number] = lent.loan;
                numbers.push(lent.number);
            }
            numbers
        };
        for len in [5000, 32 << 10, 192 << 10, 1 << 20] {
            assert_eq!(numbers(len), [0; 40]);
        }
        let turns = numbers(64 << 10);
        assert_eq!(turns[..8], [0; 8], "a few messages have one region");
        assert_eq!(turns.last_chunk(), Some(&[0, 1, 2, 0, 1, 2].map(|n| (n + turns[34]) % 3)));
        assert_eq!(numbers(128 << 10).iter().max(), Some(&1));
    }

    #[test]
    fn the_pool_is_bounded() {
        let mut pool = Pool::default();
        for _ in 0..REGIONS {
            assert!(pool.lend(5000, |_| 0).unwrap().is_some());
        }
        assert!(pool.lend(5000, |_| 0).unwrap().is_none());
    }

    #[test]
    fn a_message_that_overtakes_its_region_is_not_read_from_the_one_before() {
        let mut pool = Pool::default();
        let (first, fd) = lend(&mut pool, 40 << 20, |_| 0);
        let mut known = Known::default();
        known.add(0, incarnation(first.loan), fd.unwrap(), true).unwrap();
        assert!(known.borrow(0, first.loan, 5000).is_ok());
        let (second, fd) = lend(&mut pool, 50 << 20, |_| first.loan);
        assert_eq!((first.number, second.number), (0, 0), "the number is used again");
        assert!(!known.has(0, second.loan), "its packet has to be received first");
        assert!(known.borrow(0, second.loan, 5000).is_err());
        known.add(0, incarnation(second.loan), fd.unwrap(), true).unwrap();
        assert!(known.borrow(0, second.loan, 5000).is_ok());
        assert!(known.borrow(0, first.loan, 5000).is_err());
    }

    #[test]
    fn a_loan_cannot_be_made_twice() {
        let mut pool = Pool::default();
        let (lent, fd) = lend(&mut pool, 5000, |_| 0);
        let mut known = Known::default();
        let fd = fd.unwrap();
        let len = rustix::fs::fstat(&fd).unwrap().st_size as usize;
        known.add(lent.number, incarnation(lent.loan), fd, true).unwrap();
        assert!(known.borrow(lent.number, lent.loan, len + 1).is_err());
        assert!(known.borrow(lent.number, lent.loan, 5000).is_ok());
        assert!(known.borrow(lent.number, lent.loan, 5000).is_err());
        assert!(known.borrow(31, 1, 1).is_err());
        assert!(known.borrow(usize::MAX, 1, 1).is_err());
    }
}
