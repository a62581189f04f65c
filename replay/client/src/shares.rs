//! How often batches come from each shard, and what a shard's items count for it.
//!
//! The shards' limiters decide how often that is, so it is not in proportion to their sizes: of two full
//! tables of one size, the one with twice the inserts gives twice the batches. Importance sampling makes
//! up for it. An item of shard `s`, with `N_s` items of `N` and a share of `q_s` of the batches, has the
//! probability `P = q_s p` in the whole, where `p` is what its shard states; so its importance
//! `(N P)^-1` is `(N_s p)^-1`, its importance within the shard, times `N_s / (N q_s)`.

/// Batches that shares are counted over: older ones count less and less.
const HORIZON: f64 = 1024.0;

/// Of an even share, what a shard must have for the others to count less beside it: one that gives next
/// to nothing would make what there is count nothing.
const LEAST_SHARE: f64 = 1.0 / 16.0;

/// The shards' shares of the batches of late.
#[derive(Debug)]
pub(crate) struct Shares(Vec<f64>);

impl Shares {
    pub(crate) fn new(shards: usize) -> Self {
        Self(vec![0.0; shards])
    }

    /// A batch was taken from a shard.
    pub(crate) fn taken(&mut self, shard: usize) {
        self.0[shard] += 1.0;
        let sum: f64 = self.0.iter().sum();
        if sum > HORIZON {
            let kept = HORIZON / sum;
            self.0.iter_mut().for_each(|count| *count *= kept);
        }
    }

    /// What the items of a shard that has been taken from count beside those of the others, which hold
    /// `sizes` items: `N_s / q_s` over the largest of the shards', 1 for the shard that is drawn from most
    /// rarely for its size.
    pub(crate) fn weight(&self, shard: usize, sizes: &[u64]) -> f64 {
        let sum: f64 = self.0.iter().sum();
        let least = LEAST_SHARE * sum / self.0.len() as f64;
        let importance = |s: usize| sizes[s].max(1) as f64 / self.0[s];
        let others = (0..sizes.len()).filter(|&s| self.0[s] >= least);
        let largest = others.map(importance).fold(importance(shard), f64::max);
        importance(shard) / largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(turns: &[usize], batches: usize) -> Shares {
        let mut shares = Shares::new(3);
        for &shard in turns.iter().cycle().take(batches) {
            shares.taken(shard);
        }
        shares
    }

    /// Drawn with probability `q_s / N_s` and weighed, an item of each shard counts the same.
    #[test]
    fn what_a_limiter_lets_out_more_often_counts_less() {
        let (turns, sizes) = ([0, 1, 0, 2, 0, 1], [100, 100, 50]);
        let shares = shares(&turns, 6_000);
        let weights = [0, 1, 2].map(|shard| shares.weight(shard, &sizes));
        let counted = [3.0, 2.0, 1.0].iter().zip(sizes).zip(weights);
        let counted: Vec<f64> = counted.map(|((q, n), w)| q / n as f64 * w).collect();
        for (one, other) in counted.iter().zip(&counted[1..]) {
            assert!((one / other - 1.0).abs() < 0.02, "{counted:?}");
        }
        assert_eq!(weights.iter().copied().fold(0.0, f64::max), 1.0);
    }

    #[test]
    fn a_shard_that_gives_next_to_nothing_does_not_silence_the_others() {
        let mut shares = shares(&[0], 10_000);
        assert_eq!(shares.weight(0, &[100, 100, 100]), 1.0);
        shares.taken(1);
        assert_eq!(shares.weight(0, &[100, 100, 100]), 1.0);
        assert_eq!(shares.weight(1, &[100, 100, 100]), 1.0);
    }

    #[test]
    fn alone_or_in_proportion_to_sizes_all_count_alike() {
        let mut alone = Shares::new(1);
        alone.taken(0);
        assert_eq!(alone.weight(0, &[0]), 1.0);
        let fair = shares(&[0, 0, 1, 0, 2, 0], 6_000);
        for shard in 0..3 {
            assert!((fair.weight(shard, &[400, 100, 100]) - 1.0).abs() < 0.02);
        }
    }
}
