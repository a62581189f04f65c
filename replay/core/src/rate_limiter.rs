//! Keeps sampling and inserting in step. Pure arithmetic over counters, after Reverb's
//! `SampleToInsertRatio` (Cassirer et al. 2021, section 3.4).
//!
//! With `diff = inserts * samples_per_insert - samples` and
//! `offset = min_size_to_sample * samples_per_insert`, once `min_size_to_sample` items are held
//!
//! ```text
//! offset - error_buffer <= diff <= offset + error_buffer
//! ```
//!
//! An insert that would pass the upper bound waits for samples, a batch that would pass the lower one
//! waits for inserts. Both wait at once only if some diff is above `max_diff - samples_per_insert` and
//! below `min_diff + batch`; there is none when `samples_per_insert + batch <= 2 * error_buffer`,
//! which bounds the batches a limiter can serve. Unlike Reverb's, the limiter knows batches: a batch is
//! drawn whole or waits whole, while of a batch of inserts as many are let in as fit.

use std::fmt;

use crate::TableConfig;

/// Counts are whole, their product with a fractional `samples_per_insert` is rounded. A thousandth of
/// a sample keeps rounding from blocking both sides at once, for 10^12 samples.
const ROUNDING: f64 = 1e-3;

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blocked {
    /// A sampler, for `min_size_to_sample` items.
    MinSize,
    /// A sampler, for inserts: samples are ahead by `error_buffer`.
    Inserts,
    /// A writer, for samples: inserts are ahead by `error_buffer`.
    Samples,
}

impl Blocked {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::MinSize, Self::Inserts, Self::Samples];

    /// Lower-case name, as in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MinSize => "min_size",
            Self::Inserts => "inserts",
            Self::Samples => "samples",
        }
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MinSize => "waiting for min_size_to_sample items",
            Self::Inserts => "waiting for inserts, samples are ahead by error_buffer",
            Self::Samples => "waiting for samples, inserts are ahead by error_buffer",
        })
    }
}

/// Counters and bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimiter {
    samples_per_insert: f64,
    min_size_to_sample: u64,
    min_diff: f64,
    max_diff: f64,
    inserts: u64,
    samples: u64,
    removals: u64,
}

impl RateLimiter {
    /// A limiter that has seen nothing, for a valid configuration.
    pub fn new(config: &TableConfig) -> Self {
        let offset = config.min_size_to_sample as f64 * config.samples_per_insert;
        let error_buffer = config.error_buffer();
        Self {
            samples_per_insert: config.samples_per_insert,
            min_size_to_sample: config.min_size_to_sample as u64,
            min_diff: offset - error_buffer,
            max_diff: offset + error_buffer,
            inserts: 0,
            samples: 0,
            removals: 0,
        }
    }

    /// The largest batch that cannot be blocked for ever.
    pub fn max_batch(&self) -> u64 {
        // Negative and NaN become 0.
        (self.max_diff - self.min_diff - self.samples_per_insert + ROUNDING) as u64
    }

    /// Items ever inserted.
    pub fn inserts(&self) -> u64 {
        self.inserts
    }

    /// Items ever sampled.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Items held.
    pub fn size(&self) -> u64 {
        self.inserts - self.removals
    }

    /// How many of `items` may be inserted now.
    pub fn insertable(&self, items: u64) -> u64 {
        let to_min_size = self.min_size_to_sample.saturating_sub(self.size());
        let most = (self.max_diff + self.samples as f64 + ROUNDING) / self.samples_per_insert;
        to_min_size
            .max((most as u64).saturating_sub(self.inserts))
            .min(items)
    }

    /// Whether `items` may be sampled now.
    ///
    /// # Errors
    /// What the sampler has to wait for.
    pub fn check_sample(&self, items: u64) -> Result<(), Blocked> {
        if self.size() < self.min_size_to_sample {
            return Err(Blocked::MinSize);
        }
        if self.diff() - (items as f64) < self.min_diff - ROUNDING {
            return Err(Blocked::Inserts);
        }
        Ok(())
    }

    /// Counts items that were inserted.
    pub fn inserted(&mut self, items: u64) {
        self.inserts += items;
    }

    /// Counts items that were sampled.
    pub fn sampled(&mut self, items: u64) {
        self.samples += items;
    }

    /// Counts items that were removed.
    pub fn removed(&mut self, items: u64) {
        self.removals += items;
    }

    fn diff(&self) -> f64 {
        self.inserts as f64 * self.samples_per_insert - self.samples as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limiter(
        samples_per_insert: f64,
        min_size_to_sample: usize,
        error_buffer: f64,
    ) -> RateLimiter {
        let config = TableConfig {
            samples_per_insert,
            min_size_to_sample,
            error_buffer: Some(error_buffer),
            ..TableConfig::default()
        };
        config.validate().unwrap();
        RateLimiter::new(&config)
    }

    #[test]
    fn inserts_are_free_until_min_size_then_bounded_above() {
        // offset 20, max_diff 24: after 10 inserts, 2 more of 2 samples each fit.
        let mut limiter = limiter(2.0, 10, 4.0);
        assert_eq!(limiter.insertable(100), 12);
        limiter.inserted(12);
        assert_eq!(limiter.insertable(100), 0);
        limiter.sampled(1);
        assert_eq!(limiter.insertable(100), 0);
        limiter.sampled(1);
        assert_eq!(limiter.insertable(100), 1);
        assert_eq!(limiter.insertable(0), 0);
    }

    #[test]
    fn samples_wait_for_min_size_then_are_bounded_below() {
        // offset 20, min_diff 16: after 10 inserts, 4 samples fit.
        let mut limiter = limiter(2.0, 10, 4.0);
        limiter.inserted(9);
        assert_eq!(limiter.check_sample(1), Err(Blocked::MinSize));
        limiter.inserted(1);
        assert_eq!(limiter.check_sample(4), Ok(()));
        assert_eq!(limiter.check_sample(5), Err(Blocked::Inserts));
        limiter.sampled(4);
        assert_eq!(limiter.check_sample(1), Err(Blocked::Inserts));
        limiter.inserted(1);
        assert_eq!(limiter.check_sample(2), Ok(()));
        assert_eq!(limiter.check_sample(3), Err(Blocked::Inserts));
    }

    #[test]
    fn removals_lower_the_size_but_not_the_ratio() {
        let mut limiter = limiter(1.0, 2, 2.0);
        limiter.inserted(2);
        limiter.removed(1);
        assert_eq!(limiter.size(), 1);
        assert_eq!(limiter.check_sample(1), Err(Blocked::MinSize));
        assert_eq!(limiter.insertable(9), 2);
    }

    #[test]
    fn the_largest_batch_leaves_room_for_one_insert() {
        for (samples_per_insert, error_buffer, expected) in [
            (64.0, 6_400.0, 12_736),
            (1.0, 1.0, 1),
            (0.1, 1.0, 1),
            (0.5, 1.25, 2),
            (256.0, 256.0, 256),
        ] {
            let limiter = limiter(samples_per_insert, 10, error_buffer);
            assert_eq!(
                limiter.max_batch(),
                expected,
                "{samples_per_insert} {error_buffer}"
            );
        }
    }

    proptest! {
        /// Whatever is asked in whatever order: the bounds hold once `min_size_to_sample` is reached,
        /// and as long as the batch is one the limiter can serve, someone can always go on.
        #[test]
        fn bounds_hold_and_nobody_waits_for_ever(
            samples_per_insert in prop_oneof![(1u32..100).prop_map(f64::from), 0.01f64..100.0],
            min_size in 1usize..50,
            slack in 0.0f64..200.0,
            asks in prop::collection::vec((any::<bool>(), 1u64..40), 1..200),
        ) {
            let mut limiter =
                limiter(samples_per_insert, min_size, (samples_per_insert + 1.0) / 2.0 + slack);
            let max_batch = limiter.max_batch();
            for (insert, items) in asks {
                let batch = items.min(max_batch);
                if insert {
                    let inserted = limiter.insertable(items);
                    prop_assert!(inserted <= items);
                    limiter.inserted(inserted);
                } else if limiter.check_sample(batch).is_ok() {
                    limiter.sampled(batch);
                }
                prop_assert!(limiter.size() <= min_size as u64 || limiter.diff() <= limiter.max_diff + 2.0 * ROUNDING);
                prop_assert!(limiter.samples() == 0 || limiter.diff() >= limiter.min_diff - 2.0 * ROUNDING);
                prop_assert!(limiter.samples() == 0 || limiter.size() >= min_size as u64);
                prop_assert!(limiter.insertable(1) == 1 || limiter.check_sample(max_batch).is_ok());
            }
        }
    }
}
