//! Where a thread's time goes: a counter of whole seconds by `state`. The threads of a process that
//! count into the same metric add up.

use std::time::{Duration, Instant};

use ::metrics::{Counter, counter};

const SECOND: Duration = Duration::from_secs(1);

/// One thread's account. A lap costs one reading of the clock.
pub struct WorkerTime<const N: usize> {
    last: Instant,
    /// Not counted yet, for each state less than a second.
    rest: [Duration; N],
    counters: [Counter; N],
}

impl<const N: usize> WorkerTime<N> {
    /// Begins now. `metric` is a counter of seconds; `states` are the values of its label `state`.
    pub fn new(metric: &'static str, states: [&'static str; N]) -> Self {
        Self {
            last: Instant::now(),
            rest: [Duration::ZERO; N],
            counters: states.map(|state| counter!(metric, "state" => state)),
        }
    }

    /// The time since the last lap was spent in the state number `state`.
    ///
    /// # Panics
    /// If there is no such state.
    pub fn lap(&mut self, state: usize) {
        let now = Instant::now();
        self.spend(state, now - self.last);
        self.last = now;
    }

    fn spend(&mut self, state: usize, time: Duration) {
        let rest = &mut self.rest[state];
        *rest += time;
        if *rest >= SECOND {
            self.counters[state].increment(rest.as_secs());
            *rest = Duration::from_nanos(rest.subsec_nanos().into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn whole_seconds_are_counted_and_the_rest_is_kept() {
        let counted = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let mut time = WorkerTime::new("seconds", ["a", "b"]);
        time.counters = counted.clone().map(Counter::from_arc);
        for _ in 0..10 {
            time.spend(0, Duration::from_millis(350));
            time.spend(1, Duration::from_millis(90));
        }
        let counts = counted.map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts, [3, 0]);
        assert_eq!(time.rest, [500, 900].map(Duration::from_millis));
    }
}
