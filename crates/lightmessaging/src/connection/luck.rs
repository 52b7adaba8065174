//! Whether it pays for a future to look for its answer before it sleeps.
//!
//! A busy service answers within a microsecond, and then neither side needs a system call. One that
//! takes longer would cost an executor that time with every call, so looks that were in vain are not
//! repeated for a while. Knows no clock.

use std::sync::atomic::{AtomicU32, Ordering};

/// After bad luck so many calls at most are made without a look, as a power of two.
const LEVELS: u32 = 6;

/// What the last calls have come to. Threads may overwrite what others have learnt: it is a guess.
#[derive(Debug, Default)]
pub(super) struct Luck {
    /// How often the looks were in vain, one time after the other.
    level: AtomicU32,
    /// How many calls are yet to be made without a look.
    skip: AtomicU32,
}

impl Luck {
    /// Whether to look this time.
    pub(super) fn is_tried(&self) -> bool {
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
        }
        skip == 0
    }

    /// The answer came while we looked.
    pub(super) fn hit(&self) {
        if self.level.load(Ordering::Relaxed) != 0 {
            self.level.store(0, Ordering::Relaxed);
        }
    }

    /// It did not.
    pub(super) fn missed(&self) {
        let level = (self.level.load(Ordering::Relaxed) + 1).min(LEVELS);
        self.level.store(level, Ordering::Relaxed);
        self.skip.store(1 << level, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_slow_is_hardly_ever_looked_for_and_a_fast_one_always() {
        let luck = Luck::default();
        let mut tried = 0;
        for _ in 0..6400 {
            if luck.is_tried() {
                luck.missed();
                tried += 1;
            }
        }
        assert!((90..=110).contains(&tried), "{tried}");
        while !luck.is_tried() {}
        luck.hit();
        assert!((0..1000).all(|_| luck.is_tried()));
    }
}
