//! One retry policy for every connection between our processes.

use std::time::Duration;

use backon::ExponentialBuilder;

/// Exponential backoff from 50 ms to 5 s with jitter, without an end: a process waits for its peers
/// until it is told to stop.
pub fn exponential() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(5))
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
}
