//! Medians and spreads.

use serde::Serialize;

/// One block of calls: its quantiles, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Block {
    pub p50: f64,
    pub p99: f64,
}

impl Block {
    /// Of a block's times in nanoseconds.
    pub fn of(mut times: Vec<u64>) -> Block {
        times.sort_unstable();
        let at = |quantile: f64| times[((times.len() - 1) as f64 * quantile) as usize] as f64;
        Block { p50: at(0.5), p99: at(0.99) }
    }
}

/// A median with the least and the greatest value.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
}

impl Spread {
    /// Of some values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let median = values[values.len() / 2];
        Spread { median, least: values[0], greatest: values[values.len() - 1] }
    }
}
