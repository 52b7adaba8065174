//! What was measured, as it is written to a file and read again.

use serde::{Deserialize, Serialize};

use crate::stats::Spread;

/// The figures of one block.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Quantiles of a call's time, in nanoseconds.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    /// Messages or calls a second.
    pub rate: Option<f64>,
    /// Processor time of both sides: microseconds a call, or milliseconds a second while idle.
    pub cpu: Option<f64>,
}

/// One contest of ours against somebody.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    pub ours: Vec<Figures>,
    pub theirs: Vec<Figures>,
    /// Why there is nothing.
    pub failed: Option<String>,
}

/// One of a block's figures.
pub type Which = fn(&Figures) -> Option<f64>;

impl Entry {
    /// The median of theirs.
    pub fn theirs(&self, which: Which) -> Option<f64> {
        median(self.theirs.iter().filter_map(which))
    }

    /// Block by block, how many times more theirs is than ours.
    pub fn ratio(&self, which: Which) -> Option<Spread> {
        let pairs = self.ours.iter().zip(&self.theirs);
        let ratios: Vec<f64> =
            pairs.filter_map(|(ours, theirs)| Some(which(theirs)? / which(ours)?)).collect();
        (!ratios.is_empty()).then(|| Spread::of(ratios))
    }

    /// How many times faster ours is: in time, or else in rate.
    pub fn advantage(&self) -> Option<Spread> {
        self.ratio(|figures| figures.p50.or(figures.rate.map(|rate| 1e9 / rate)))
    }
}

pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| Spread::of(values).median)
}

/// One row with everybody in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub row: String,
    pub entries: Vec<Entry>,
}

impl Outcome {
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// The median of ours over all contests of the row.
    pub fn ours(&self, which: Which) -> Option<f64> {
        median(self.entries.iter().flat_map(|entry| &entry.ours).filter_map(which))
    }

    /// Those who are compared with: neither ours in another setting nor a floor.
    pub fn rivals(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| is_rival(&entry.name))
    }
}

/// Whether this is neither ours nor a floor.
pub fn is_rival(name: &str) -> bool {
    !name.starts_with("LightMessaging") && !name.starts_with("floor")
}

/// A run, or several.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The machine, the kernel and the compiler.
    pub machine: String,
    /// Those that were measured, as several runs may be of several.
    pub commits: Vec<String>,
    pub date: String,
    pub blocks: u32,
    pub is_quick: bool,
    pub versions: Vec<String>,
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// What all this was taken on.
    pub fn origin(&self) -> String {
        format!("{}; commit {}; {}", self.machine, self.commits.join(" and "), self.date)
    }

    /// Takes in another run: what both have is the other's.
    pub fn take_in(&mut self, other: Report) {
        self.is_quick |= other.is_quick;
        if !self.machine.contains(&other.machine) {
            self.machine = format!("{} and {}", self.machine, other.machine);
        }
        for commit in other.commits {
            if !self.commits.contains(&commit) {
                self.commits.push(commit);
            }
        }
        self.date = other.date;
        self.blocks = self.blocks.min(other.blocks);
        for outcome in other.outcomes {
            let Some(mine) = self.outcomes.iter_mut().find(|mine| mine.row == outcome.row) else {
                self.outcomes.push(outcome);
                continue;
            };
            for entry in outcome.entries {
                mine.entries.retain(|mine| mine.name != entry.name);
                mine.entries.push(entry);
            }
        }
    }

    pub fn outcome(&self, row: &str) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.row == row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, ours: &[f64], theirs: &[f64]) -> Entry {
        let times = |times: &[f64]| {
            times.iter().map(|time| Figures { p50: Some(*time), ..Figures::default() }).collect()
        };
        Entry { name: name.to_owned(), ours: times(ours), theirs: times(theirs), failed: None }
    }

    #[test]
    fn ratios_are_those_of_neighbouring_blocks() {
        let entry = entry("peer", &[1.0, 10.0, 100.0], &[3.0, 20.0, 400.0]);
        let Spread { median, least, greatest } = entry.advantage().unwrap();
        assert_eq!((median, least, greatest), (3.0, 2.0, 4.0));
    }

    #[test]
    fn a_higher_rate_is_an_advantage_too() {
        let rate = |rate| Figures { rate: Some(rate), ..Figures::default() };
        let mut entry = entry("peer", &[], &[]);
        (entry.ours, entry.theirs) = (vec![rate(8e6)], vec![rate(2e6)]);
        assert!((entry.advantage().unwrap().median - 4.0).abs() < 1e-9);
    }

    #[test]
    fn a_later_run_replaces_the_peers_that_it_measured_again() {
        let report = |entries| Report {
            machine: "here".to_owned(),
            commits: vec!["abc".to_owned()],
            date: "today".to_owned(),
            blocks: 1,
            is_quick: false,
            versions: Vec::new(),
            outcomes: vec![Outcome { row: "row".to_owned(), entries }],
        };
        let mut first = report(vec![entry("a", &[1.0], &[1.0]), entry("b", &[1.0], &[2.0])]);
        let later = report(vec![entry("b", &[1.0], &[5.0])]);
        first.take_in(Report { commits: vec!["def".to_owned()], ..later });
        assert_eq!(first.origin(), "here; commit abc and def; today");
        let row = first.outcome("row").unwrap();
        assert_eq!(row.entries.len(), 2);
        assert_eq!(row.entry("b").unwrap().theirs(|figures| figures.p50), Some(5.0));
    }
}
