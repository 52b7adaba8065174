//! Who looks at the other lanes while a thread is in a handler.
//!
//! A lane that is polled does not ring. So whoever goes into a handler, when nobody else is awake to
//! poll and somebody sleeps, must see to it that the others are looked at in time. To wake a thread
//! costs more than a short handler takes, and letting every lane ring more still; a long handler must not be
//! waited for. Which they are is learnt, of those alone where it matters:
//!
//! - Before a long one the lanes are let ring, and a thread is woken if one of them has a message.
//! - During short ones a guard, a timer, wakes a thread now and then, which takes over only if the same
//!   handler still runs that ran when it looked last.
//! - While short ones leave behind more work than waking a thread costs, one is woken.
//!
//! Knows no lanes and wakes nobody; `threads` does.

use std::time::Duration;

/// How often the guard looks: a handler that is unexpectedly long delays others for twice as long.
pub(super) const GUARD: Duration = Duration::from_millis(1);
/// Of so many short handlers, one is timed.
const TIMED: u32 = 8;
/// What a handler counts for at most, in nanoseconds.
const LONGEST: u64 = 1_000_000;

/// What is known of the handlers' work.
#[derive(Debug)]
pub(super) struct Relief {
    /// How long a handler takes: a moving average, in nanoseconds.
    work: u64,
    /// How many were short.
    count: u32,
    /// How many messages had been taken when the guard was set, if it is.
    guard: Option<u64>,
    /// A thread was woken to look at the lanes, and has not come yet.
    called: bool,
}

/// What to do before a handler runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// The lanes are let ring.
    LetRing,
    /// The guard is set.
    SetGuard,
    /// The guard is set already.
    Nothing,
}

impl Relief {
    /// Handlers are long until they are known to be short: that costs least where it is wrong.
    pub(super) fn new() -> Relief {
        Relief { work: LONGEST, count: 0, guard: None, called: false }
    }

    fn are_long(&self, wake_up: u64) -> bool {
        self.work >= wake_up
    }

    /// Somebody goes into a handler and leaves lanes behind; so many messages were taken until now. Says
    /// what to do about it, and whether to time the handler.
    pub(super) fn before(&mut self, messages: u64, wake_up: u64) -> (Care, bool) {
        if self.are_long(wake_up) {
            return (Care::LetRing, true);
        }
        self.count = self.count.wrapping_add(1);
        let care = if self.guard.is_none() {
            self.guard = Some(messages);
            Care::SetGuard
        } else {
            Care::Nothing
        };
        (care, self.count.is_multiple_of(TIMED))
    }

    /// A handler that was timed has taken so long.
    pub(super) fn learn(&mut self, took: Duration) {
        let took = (took.as_nanos().min(u128::from(LONGEST))) as u64;
        self.work = (self.work * 7 + took) / 8;
    }

    /// Whether so many messages are worth waking a thread for.
    pub(super) fn is_worth(&self, messages: usize, wake_up: u64) -> bool {
        self.work.saturating_mul(messages as u64) >= wake_up
    }

    /// A thread is to be woken.
    pub(super) fn call(&mut self) {
        self.called = true;
    }

    /// Whether one was, and has yet to come.
    pub(super) fn is_called(&self) -> bool {
        self.called
    }

    /// Somebody has come who was asleep, or has taken the news that was to wake one. Who does that is
    /// awake to look at the lanes, and to care for its own relief.
    pub(super) fn came(&mut self) {
        self.called = false;
        self.guard = None;
    }

    /// The guard may have fired. `left` says that lanes are left to a thread that is in a handler. Returns
    /// whether the guard is to be set again, and its thread to sleep on.
    pub(super) fn look(&mut self, left: bool, messages: u64) -> bool {
        match self.guard.take() {
            Some(before) if left && before != messages => {
                self.guard = Some(messages);
                true
            }
            Some(_) if left => {
                self.work = LONGEST;
                false
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAKE_UP: u64 = 50_000;

    fn after(took: Duration) -> Relief {
        let mut relief = Relief::new();
        (0..100).for_each(|_| relief.learn(took));
        relief
    }

    #[test]
    fn what_is_not_known_to_be_short_is_long() {
        assert_eq!(Relief::new().before(1, WAKE_UP), (Care::LetRing, true));
        assert_eq!(after(Duration::from_millis(1)).before(1, WAKE_UP), (Care::LetRing, true));
    }

    #[test]
    fn short_handlers_are_guarded_and_timed_now_and_then() {
        let mut relief = after(Duration::from_nanos(100));
        assert_eq!(relief.before(1, WAKE_UP), (Care::SetGuard, false));
        let timed = (0..80).filter(|_| relief.before(2, WAKE_UP) == (Care::Nothing, true)).count();
        assert_eq!(timed, 10);
    }

    #[test]
    fn the_guard_takes_over_from_a_handler_that_it_has_seen_before() {
        let mut relief = after(Duration::from_nanos(100));
        relief.before(7, WAKE_UP);
        assert!(relief.look(true, 9), "another one runs by now");
        assert!(!relief.look(true, 9), "this one again");
        assert_eq!(relief.before(10, WAKE_UP), (Care::LetRing, true), "long it was");
    }

    #[test]
    fn a_guard_that_nobody_needs_any_more_is_let_go() {
        let mut relief = after(Duration::from_nanos(100));
        relief.before(7, WAKE_UP);
        assert!(!relief.look(false, 9));
        assert!(!relief.look(true, 9), "it is not set");
        assert_eq!(relief.before(10, WAKE_UP).0, Care::SetGuard);
    }

    #[test]
    fn a_thread_is_woken_for_as_much_work_as_that_costs() {
        let relief = after(Duration::from_micros(20));
        assert!(!relief.is_worth(2, WAKE_UP));
        assert!(relief.is_worth(3, WAKE_UP));
    }
}
