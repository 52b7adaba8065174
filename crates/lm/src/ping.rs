//! `lm ping`: how long a two-way message takes.

use std::io::Write;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use lightmessaging::{Connection, ServiceName};
use serde::Serialize;

use crate::failure::Failure;

/// Calls that are made before the measurement, to connect and to warm up.
const WARM_UP: u64 = 200;

/// Arguments of `lm ping`.
#[derive(Args)]
pub struct Ping {
    /// The name of a service that echoes, such as that of `lm serve NAME --echo`.
    #[arg(value_parser = crate::name())]
    name: ServiceName,
    /// How many calls to time.
    #[arg(short, long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// The payload's length in bytes.
    #[arg(short, long, value_name = "B", default_value_t = 64)]
    size: u32,
    /// Give up on a call after so many milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was measured; times in nanoseconds.
#[derive(Serialize)]
pub struct Figures {
    /// The number of calls.
    pub count: u64,
    /// The payload's length in bytes.
    pub size: usize,
    min_ns: u64,
    /// The median.
    pub p50_ns: u64,
    /// The 99th percentile.
    pub p99_ns: u64,
    p99_9_ns: u64,
    mean_ns: f64,
    calls_per_s: f64,
}

/// Times calls to a service that answers `id` with the request's own bytes.
pub fn measure(
    connection: &Connection,
    id: i32,
    size: usize,
    count: u64,
) -> Result<Figures, Failure> {
    let payload: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
    // From a nanosecond to an hour with three digits of precision.
    let mut histogram =
        Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 3).expect("valid bounds");
    for _ in 0..WARM_UP.min(count) {
        connection.send_two_way(id, &payload)?;
    }
    for _ in 0..count {
        let started = Instant::now();
        let response = connection.send_two_way(id, &payload)?;
        let elapsed = started.elapsed();
        if response.data() != payload {
            let what = "it replied with something else than it was sent; is it an echo service?";
            return Err(Failure::about(connection.name(), what));
        }
        histogram.saturating_record(elapsed.as_nanos() as u64);
    }
    let mean = histogram.mean();
    Ok(Figures {
        count,
        size,
        min_ns: histogram.min(),
        p50_ns: histogram.value_at_quantile(0.5),
        p99_ns: histogram.value_at_quantile(0.99),
        p99_9_ns: histogram.value_at_quantile(0.999),
        mean_ns: mean,
        calls_per_s: 1e9 / mean,
    })
}

impl Ping {
    /// Measures and prints.
    pub fn run(self) -> Result<(), Failure> {
        let connection = Connection::builder(self.name.as_bytes())
            .deadline(Duration::from_millis(self.timeout))
            .build()?;
        let figures = measure(&connection, 0, self.size as usize, self.count)?;
        let text = if self.json {
            serde_json::to_string(&figures).expect("numbers can be written as JSON")
        } else {
            let Figures { count, size, min_ns, p50_ns, p99_ns, p99_9_ns, mean_ns, calls_per_s } =
                figures;
            format!(
                "{count} calls of {size} bytes to {}\n\
                 min {min_ns} ns  p50 {p50_ns} ns  p99 {p99_ns} ns  p99.9 {p99_9_ns} ns  \
                 mean {mean_ns:.0} ns  {calls_per_s:.0} calls/s",
                self.name
            )
        };
        writeln!(std::io::stdout(), "{text}").map_err(|error| Failure::output(&self.name, error))
    }
}
