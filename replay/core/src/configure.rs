//! Bounds that change while a table is in use, and what they mean for batches.

use crate::items::Items;
use crate::selector::Slot;
use crate::steps::Steps;
use crate::table::Table;
use crate::{Error, RateLimiter, TableConfig};

/// Bounds that may change while the table is in use; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// [`TableConfig::samples_per_insert`].
    pub samples_per_insert: Option<f64>,
    /// [`TableConfig::min_size_to_sample`].
    pub min_size_to_sample: Option<usize>,
    /// [`TableConfig::error_buffer`].
    pub error_buffer: Option<f64>,
    /// [`TableConfig::max_size`].
    pub max_size: Option<usize>,
    /// [`TableConfig::max_bytes`].
    pub max_bytes: Option<u64>,
}

impl Table {
    /// Changes bounds, all or none; items beyond a smaller size leave, but a queue's are drawn first.
    ///
    /// # Errors
    /// The bounds cannot be used, or would block for ever a sampler that there is.
    pub fn configure(&mut self, changes: &Changes) -> Result<(), Error> {
        self.removed.clear();
        let mut config = self.config.clone();
        let Changes {
            samples_per_insert,
            min_size_to_sample,
            error_buffer,
            max_size,
            max_bytes,
        } = *changes;
        config.samples_per_insert = samples_per_insert.unwrap_or(config.samples_per_insert);
        config.min_size_to_sample = min_size_to_sample.unwrap_or(config.min_size_to_sample);
        config.error_buffer = error_buffer.or(config.error_buffer);
        config.max_size = max_size.unwrap_or(config.max_size);
        config.max_bytes = max_bytes.unwrap_or(config.max_bytes);
        config.validate()?;
        if let Some((_, rows)) = &self.contents {
            config.validate_bytes(rows.row_bytes())?;
        }
        let mut limiter = self.limiter.clone();
        limiter.reconfigure(&config);
        let (max, reason) = max_batch(&config, &limiter);
        if (self.largest_batch as u64) > max {
            return Err(Error::BatchSize {
                max,
                reason,
                got: self.largest_batch,
            });
        }
        self.limiter = limiter;
        self.config = config;
        self.shrink();
        self.log_removed();
        self.log_state();
        Ok(())
    }
}

impl Table {
    /// Empties the table: items, steps and signature go, and the limiter counts from nothing. All writers
    /// are disconnected; their numbers stay, as do the counters of what was ever inserted and sampled.
    pub fn reset(&mut self) {
        self.removed.clear();
        let sequences = self.config.sequence_length > 1;
        for slot in 0..self.items.slots() as Slot {
            if let Some(item) = self.items.get(slot) {
                self.removed.push(item.ordinal, item.times_sampled);
            }
        }
        self.contents = None;
        self.items = Items::new(&self.config);
        let logged = self.log.is_some();
        self.steps = sequences.then(|| Steps::new(self.config.sequence_length, logged));
        self.sampler = self.config.sampler.build(self.config.weights());
        self.remover = self.config.remover.build(self.config.weights());
        self.limiter.reset();
        self.writers.reset();
        self.max_priority = 1.0;
        self.draws_left = 0;
        if let Some(log) = &mut self.log {
            log.reset();
        }
        self.log_state();
    }
}

/// The largest batch that a sampler may ask for, and what bounds it.
pub(crate) fn max_batch(config: &TableConfig, limiter: &RateLimiter) -> (u64, &'static str) {
    let draws = match config.max_times_sampled {
        0 => u64::MAX,
        limit => config.max_size as u64 * u64::from(limit),
    };
    let limits = [
        (config.max_batch_size as u64, "max_batch_size"),
        limiter.max_batch(),
        (draws, "max_size * max_times_sampled"),
    ];
    limits.into_iter().min().expect("there are three")
}
