//! The one waiting policy: when to spin, for how long, and what a deadline has left.
//!
//! Spinning pays only against a peer that is awake on another core, and only for about as long as
//! a wake-up costs; so it must never cost more than twice what blocking does. Time spun in vain is
//! paid from a credit, which is earned back by gaps that spinning bridged, or would have. See
//! ARCHITECTURE.md for the measurements. Knows nothing of messages.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::{Deadline, Wait};

/// The bounds of what a wake-up may be taken to cost, in nanoseconds. The figure comes in part
/// from the peer, which says when it rang.
const WAKE_UP_MIN: u64 = 2_000;
const WAKE_UP_MAX: u64 = 60_000;
/// How often one who spins looks before it asks the clock: a microsecond or two.
const LOOKS: u32 = 64;
/// How long one who never sleeps spins before it looks at whatever else there is.
pub(crate) const SPELL: Duration = Duration::from_micros(50);

/// What one side has learnt about how soon the other comes.
#[derive(Debug)]
pub(crate) struct Patience {
    /// What a wake-up costs here: a moving average, in nanoseconds.
    wake_up: u64,
    /// How much may yet be spun in vain, in nanoseconds.
    credit: u64,
    /// Whether the last gap was short enough to be spun through.
    short: bool,
    wait: Wait,
}

impl Patience {
    pub(crate) fn new(wait: Wait) -> Patience {
        Patience { wake_up: 50_000, credit: 200_000, short: true, wait }
    }

    /// How long to spin now; `None`: not at all. A peer that has yet to wake up comes later by
    /// that: two sides that both sleep find their way back only if one waits for the other once.
    pub(crate) fn spin(&self, peer_sleeps: bool) -> Option<Duration> {
        let limit = self.limit() + if peer_sleeps { self.wake_up } else { 0 };
        match self.wait {
            Wait::Adaptive if self.short && self.credit >= limit => {
                Some(Duration::from_nanos(limit))
            }
            Wait::Adaptive | Wait::Block => None,
            // The caller of this looks at its sockets, its clock and itself between two spins.
            Wait::Spin => Some(SPELL),
        }
    }

    /// Whether there is never to be a sleep.
    pub(crate) fn never_sleeps(&self) -> bool {
        self.wait == Wait::Spin
    }

    /// What a wake-up costs here, in nanoseconds.
    pub(crate) fn wake_up(&self) -> u64 {
        self.wake_up
    }

    /// How long a gap may be for spinning to be worth it: sleeping through it costs our wake-up,
    /// and often the other side's too, which sleeps because we do; and whoever has slept is slow for a
    /// while.
    fn limit(&self) -> u64 {
        self.wake_up * 5 / 2
    }

    /// The other side came while we spun.
    pub(crate) fn hit(&mut self) {
        self.short = true;
        self.earn();
    }

    /// It did not come while we spun for so long.
    pub(crate) fn missed(&mut self, spun: Duration) {
        self.credit = self.credit.saturating_sub(spun.as_nanos() as u64);
    }

    /// It came after we had gone to sleep; so many wake-ups, ours and its own, lay in the gap.
    pub(crate) fn slept(&mut self, gap: Duration, wake_ups: u32) {
        let gap = gap.as_nanos() as u64;
        self.short = gap.saturating_sub(self.wake_up * u64::from(wake_ups)) < self.limit();
        if self.short {
            self.earn();
        }
    }

    /// We were woken so long after the bell was rung on another core.
    pub(crate) fn woken_after(&mut self, nanoseconds: u64) {
        let sample = nanoseconds.clamp(WAKE_UP_MIN, WAKE_UP_MAX);
        self.wake_up = (self.wake_up * 7 + sample) / 8;
    }

    fn earn(&mut self) {
        self.credit = (self.credit + self.wake_up / 4).min(self.wake_up * 4);
    }
}

/// Looks again and again for as long as that; the clock is asked now and then.
pub(crate) fn spin_for(limit: Duration, mut came: impl FnMut() -> bool) -> bool {
    let mut look = |times: u32| {
        (0..times).any(|_| {
            let came = came();
            if !came {
                std::hint::spin_loop();
            }
            came
        })
    };
    if look(LOOKS) {
        return true;
    }
    let started = Instant::now();
    while started.elapsed() < limit {
        if look(16) {
            return true;
        }
    }
    false
}

/// Nanoseconds of CLOCK_MONOTONIC, which is the same for all processes.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Milliseconds of a coarse clock that costs next to nothing to read and moves every few.
pub(crate) fn coarse() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000
}

/// One call's deadline. The clock is first read when something has to be waited for, at most a
/// few microseconds into the call, so that a fast call reads none.
#[derive(Debug)]
pub(crate) struct Clock {
    deadline: Deadline,
    end: Cell<Option<Option<Instant>>>,
}

impl Clock {
    pub(crate) fn new(deadline: Deadline) -> Clock {
        Clock { deadline, end: Cell::new(None) }
    }

    /// A clock whose time has passed: nothing is waited for.
    pub(crate) fn over_now() -> Clock {
        Clock::new(Deadline::After(Duration::ZERO))
    }

    /// When the deadline is; `None` is never.
    pub(crate) fn end(&self) -> Option<Instant> {
        if let Some(end) = self.end.get() {
            return end;
        }
        let end = match self.deadline {
            // A moment beyond the clock's range is as good as never.
            Deadline::After(duration) => Instant::now().checked_add(duration),
            Deadline::Never => None,
        };
        self.end.set(Some(end));
        end
    }

    /// Tells the clock what time it is, near enough, and says what is left.
    pub(crate) fn left_at(&self, now: Instant) -> Option<Duration> {
        if self.end.get().is_none()
            && let Deadline::After(duration) = self.deadline
        {
            self.end.set(Some(now.checked_add(duration)));
        }
        self.end().map(|end| end.saturating_duration_since(now))
    }

    /// What is left, for a sleep: `None` is for ever.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.end().map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// Whether the deadline has passed.
    pub(crate) fn over(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// Waits a little before something is tried again, the longer the oftener it failed: not at all
    /// at first, then 1 ms to 64 ms, and no longer than there is time.
    pub(crate) fn pause(&self, attempts: u32) {
        if attempts > 0 {
            let pause = pause_of(attempts);
            std::thread::sleep(self.left().map_or(pause, |left| left.min(pause)));
        }
    }
}

/// How long to wait before something is tried again that failed so often, once at least.
pub(crate) fn pause_of(attempts: u32) -> Duration {
    Duration::from_millis(1 << attempts.min(6))
}

/// Wakes the calling thread from [`std::thread::park`].
pub(crate) fn unparker() -> Waker {
    struct Parked(Thread);
    impl Wake for Parked {
        fn wake(self: Arc<Parked>) {
            self.0.unpark();
        }
    }
    Waker::from(Arc::new(Parked(std::thread::current())))
}

/// Lets one thread at a time through, each waiting no longer than its own deadline.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    taken: Mutex<bool>,
    freed: Condvar,
}

/// The gate is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Pass<'a>(&'a Gate);

impl Gate {
    pub(crate) fn enter(&self, clock: &Clock) -> Option<Pass<'_>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            let left = clock.left();
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            taken = match left {
                Some(left) => {
                    self.freed.wait_timeout(taken, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner),
            };
        }
        *taken = true;
        Some(Pass(self))
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_millis(1);

    #[test]
    fn spinning_in_vain_ends_when_the_credit_is_spent() {
        let mut patience = Patience::new(Wait::Adaptive);
        let mut spins = 0;
        while let Some(time) = patience.spin(false) {
            patience.missed(time);
            spins += 1;
        }
        assert!((1..=4).contains(&spins));
    }

    #[test]
    fn sparse_traffic_is_not_spun_for_and_dense_traffic_is_again() {
        let mut patience = Patience::new(Wait::Adaptive);
        patience.slept(LONG, 2);
        assert!(patience.spin(false).is_none());
        patience.slept(Duration::from_micros(110), 2);
        assert!(patience.spin(false).is_some(), "both sides' wake-ups are no gap");
    }

    #[test]
    fn a_peer_that_pretends_cannot_make_us_spin_for_more_than_a_quarter() {
        let mut patience = Patience::new(Wait::Adaptive);
        let mut spun = Duration::ZERO;
        for _ in 0..1000 {
            if let Some(time) = patience.spin(false) {
                patience.missed(time);
                spun += time;
            }
            patience.slept(Duration::ZERO, 2);
        }
        assert!(spun <= Duration::from_nanos(50_000 * 1000 / 4 + 200_000));
    }

    #[test]
    fn blocking_never_spins() {
        assert!(Patience::new(Wait::Block).spin(false).is_none());
    }

    #[test]
    fn one_who_spins_goes_on_however_often_it_was_in_vain() {
        let mut patience = Patience::new(Wait::Spin);
        for _ in 0..1000 {
            patience.missed(SPELL);
            patience.slept(LONG, 2);
            assert!(patience.spin(false).is_some());
        }
    }
}
