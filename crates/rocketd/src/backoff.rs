//! How long to leave a service alone that cannot be started, or does not stay. Pure bookkeeping: the
//! caller brings the time.

use std::time::{Duration, Instant};

/// The first delay.
const FIRST: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST: Duration = Duration::from_secs(60);
/// Whoever lived this long did not fail to start.
const STEADY: Duration = Duration::from_secs(2);

/// The delay before a service's next start: none at first, then 0.5 s, doubled with every failure in
/// a row, up to 60 s.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
    started: Option<Instant>,
    until: Option<Instant>,
}

impl Backoff {
    /// It could not be started.
    pub fn failed(&mut self, now: Instant) {
        let delay = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.started = None;
        self.until = Some(now + delay);
    }

    /// It was started.
    pub fn started(&mut self, now: Instant) {
        self.started = Some(now);
        self.until = None;
    }

    /// It has ended, with success or without, and after taking a message or without: one that ends
    /// well but leaves the messages where they are would be started again for ever.
    pub fn ended(&mut self, now: Instant, success: bool, had_served: bool) {
        let was_steady =
            self.started.is_some_and(|then| now.saturating_duration_since(then) >= STEADY);
        if was_steady || (success && had_served) {
            *self = Backoff::default();
        } else {
            self.failed(now);
        }
    }

    /// The moment before which it is not to be started again, if there is one.
    pub fn wait_until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_delay_doubles_up_to_a_minute() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.wait_until(), None);
        for delay in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            backoff.failed(now);
            assert_eq!(backoff.wait_until(), Some(now + Duration::from_secs_f64(delay)));
        }
        for _ in 0..100 {
            backoff.failed(now);
        }
        assert_eq!(backoff.wait_until(), Some(now + 60 * SECOND));
    }

    #[test]
    fn a_service_that_ends_at_once_has_failed_however_it_ends() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        for (delay, success, had_served) in
            [(0.5, true, false), (1.0, false, true), (2.0, false, false)]
        {
            backoff.started(now);
            assert_eq!(backoff.wait_until(), None);
            backoff.ended(now + SECOND, success, had_served);
            let until = now + SECOND + Duration::from_secs_f64(delay);
            assert_eq!(backoff.wait_until(), Some(until));
        }
    }

    #[test]
    fn failures_are_forgotten_once_a_service_lived_or_served() {
        let now = Instant::now();
        for (lived, success, had_served) in [(SECOND, true, true), (10 * SECOND, false, false)] {
            let mut backoff = Backoff::default();
            backoff.failed(now);
            backoff.failed(now);
            backoff.started(now);
            backoff.ended(now + lived, success, had_served);
            assert_eq!(backoff.wait_until(), None);
            backoff.failed(now);
            assert_eq!(backoff.wait_until(), Some(now + SECOND / 2));
        }
    }

    #[test]
    fn one_that_was_never_started_cannot_have_lived() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.ended(now + 60 * SECOND, false, false);
        assert!(backoff.wait_until().is_some());
    }
}
