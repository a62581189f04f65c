//! Turns in proportion to weights: which shard the next batch is taken from.
//!
//! Smooth weighted round robin: every turn each candidate gains its weight, the one with the most is
//! chosen and pays the sum. So the shares are exact, not only on average, and evenly spread; a random
//! choice would add its noise to the shards' shares of each short stretch of training.

/// The candidates' credits.
#[derive(Debug)]
pub(crate) struct Balance {
    credits: Vec<f64>,
}

impl Balance {
    pub(crate) fn new(candidates: usize) -> Self {
        Self {
            credits: vec![0.0; candidates],
        }
    }

    /// Whose turn it is; `None` if every weight is 0. A candidate without weight loses its credit.
    pub(crate) fn next(&mut self, weights: impl Iterator<Item = u64>) -> Option<usize> {
        let mut sum = 0.0;
        let mut best: Option<usize> = None;
        for (i, weight) in weights.enumerate() {
            if weight == 0 {
                self.credits[i] = 0.0;
                continue;
            }
            sum += weight as f64;
            self.credits[i] += weight as f64;
            if best.is_none_or(|best| self.credits[i] > self.credits[best]) {
                best = Some(i);
            }
        }
        self.credits[best?] -= sum;
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(balance: &mut Balance, weights: [u64; 3], turns: usize) -> [usize; 3] {
        let mut counts = [0; 3];
        for _ in 0..turns {
            counts[balance.next(weights.into_iter()).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn shares_are_exact_at_every_prefix_to_within_a_turn() {
        let weights = [700_000, 200_000, 100_000];
        for length in 1..200 {
            let counts = turns(&mut Balance::new(3), weights, length);
            for (count, weight) in counts.into_iter().zip(weights) {
                let share = length as f64 * weight as f64 / 1e6;
                assert!(
                    (count as f64 - share).abs() <= 1.0,
                    "{counts:?} of {length}"
                );
            }
        }
    }

    #[test]
    fn who_was_left_out_comes_back_without_arrears() {
        let mut balance = Balance::new(3);
        assert_eq!(turns(&mut balance, [1, 1, 0], 100), [50, 50, 0]);
        assert_eq!(turns(&mut balance, [1, 1, 2], 8), [2, 2, 4]);
        assert_eq!(balance.next([0, 0, 0].into_iter()), None);
    }
}
