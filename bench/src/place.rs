//! Where the two processes of a row run.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where the two processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Each on a core of its own.
    TwoCores,
    /// Both on the same core.
    OneCore,
    /// Wherever the system puts them.
    Unpinned,
}

impl Place {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Place::TwoCores => "two cores",
            Place::OneCore => "one core",
            Place::Unpinned => "unpinned",
        }
    }

    /// The core of the process that measures.
    pub fn near(self) -> Option<usize> {
        match self {
            Place::TwoCores => Some(1),
            Place::OneCore => Some(0),
            Place::Unpinned => None,
        }
    }

    /// The core of the other process.
    pub fn far(self) -> Option<usize> {
        (self != Place::Unpinned).then_some(0)
    }
}

/// Pins this process to one of the cores it may use, or to all of them.
pub fn pin(core: Option<usize>) {
    thread_local! {
        static ALLOWED: CpuSet = sched_getaffinity(None).expect("the cores of this process");
    }
    let allowed = ALLOWED.with(|set| *set);
    let mut set = allowed;
    if let Some(core) = core {
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        set = CpuSet::new();
        set.set(cores[core % cores.len()]);
    }
    sched_setaffinity(None, &set).expect("pinning to a core");
}
