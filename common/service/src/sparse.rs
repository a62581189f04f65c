//! Log lines that others cause: at most one a second, which says how many were left out.

use std::sync::Mutex;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(1);

/// One kind of line.
#[derive(Debug, Default)]
pub struct Sparse(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl Sparse {
    /// How many lines were left out since the last one; `None` where this one is left out too.
    pub fn line(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().expect("holders of the lock do not panic");
        if state.last.is_some_and(|last| now < last + PERIOD) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_second() {
        let (sparse, start) = (Sparse::default(), Instant::now());
        assert_eq!(sparse.line(start), Some(0));
        for _ in 0..1000 {
            assert_eq!(sparse.line(start), None);
        }
        assert_eq!(sparse.line(start + PERIOD), Some(1000));
    }
}
