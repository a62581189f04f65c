//! Configuration of a table.

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::rate_limiter::RateLimiter;
use crate::selector::SelectorKind;

/// What a table holds, how it is drawn from and when callers wait. The defaults are those of Acme's
/// agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableConfig {
    /// The table's name.
    pub name: String,
    /// Items held; beyond it, each insert removes one.
    pub max_size: usize,
    /// How items are drawn.
    pub sampler: SelectorKind,
    /// How the item to remove from a full table is chosen.
    pub remover: SelectorKind,
    /// Times an item is drawn for each item inserted, on average.
    pub samples_per_insert: f64,
    /// Items needed before the first is drawn; until then inserts do not wait.
    pub min_size_to_sample: usize,
    /// How many samples either side may run ahead of `samples_per_insert` before it waits. Absent: a
    /// tenth of `min_size_to_sample * samples_per_insert`, but enough for a batch of
    /// `max_batch_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_buffer: Option<f64>,
    /// Largest batch a sampler may ask for.
    pub max_batch_size: usize,
    /// Writers whose sequence numbers are remembered. The least recently used of those that are
    /// disconnected is forgotten first; one that comes back after that may store items twice.
    pub max_writers: usize,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            name: "replay".to_owned(),
            max_size: 1_000_000,
            sampler: SelectorKind::Uniform,
            remover: SelectorKind::Fifo,
            samples_per_insert: 64.0,
            min_size_to_sample: 1_000,
            error_buffer: None,
            max_batch_size: 4_096,
            max_writers: 16_384,
        }
    }
}

impl TableConfig {
    /// The configured `error_buffer`, or the default derived from the other fields.
    pub fn error_buffer(&self) -> f64 {
        self.error_buffer.unwrap_or_else(|| {
            let tolerance = 0.1 * self.min_size_to_sample as f64 * self.samples_per_insert;
            tolerance.max(self.samples_per_insert + self.max_batch_size as f64)
        })
    }

    /// Refuses values that contradict each other or would leave inserting and sampling waiting for
    /// one another.
    ///
    /// # Errors
    /// [`Error::Config`] names the field, what was expected and the value.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |field, expected: String, got: String| {
            Err(Error::Config {
                field,
                expected,
                got,
            })
        };
        if self.name.is_empty() {
            return refuse("name", "a name".to_owned(), "an empty one".to_owned());
        }
        let counts = [
            ("max_size", self.max_size),
            ("min_size_to_sample", self.min_size_to_sample),
            ("max_batch_size", self.max_batch_size),
            ("max_writers", self.max_writers),
        ];
        for (field, count) in counts {
            if count == 0 || u32::try_from(count).is_err() {
                return refuse(field, format!("1 to {}", u32::MAX), count.to_string());
            }
        }
        if self.min_size_to_sample > self.max_size {
            return refuse(
                "min_size_to_sample",
                format!(
                    "at most max_size = {}, or nothing could be sampled",
                    self.max_size
                ),
                self.min_size_to_sample.to_string(),
            );
        }
        let spi = self.samples_per_insert;
        if !(spi.is_finite() && spi > 0.0) {
            return refuse(
                "samples_per_insert",
                "a positive number".to_owned(),
                spi.to_string(),
            );
        }
        let error_buffer = self.error_buffer();
        if !error_buffer.is_finite() || RateLimiter::new(self).max_batch() == 0 {
            return refuse(
                "error_buffer",
                format!(
                    "at least {} (half of samples_per_insert + 1), or inserting and sampling could \
                     block each other for ever",
                    (spi + 1.0) / 2.0
                ),
                error_buffer.to_string(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_error_buffer_is_a_tenth_of_the_offset_and_fits_the_largest_batch() {
        let config = TableConfig::default();
        assert_eq!(config.error_buffer(), 6_400.0);
        let small = TableConfig {
            min_size_to_sample: 1,
            samples_per_insert: 1.0,
            ..config
        };
        assert_eq!(small.error_buffer(), 4_097.0);
        assert!(RateLimiter::new(&small).max_batch() >= small.max_batch_size as u64);
    }

    #[test]
    fn refuses_what_cannot_work_and_quotes_it() {
        let refused = |change: fn(&mut TableConfig)| {
            let mut config = TableConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let cases = [
            (
                refused(|c| c.name.clear()),
                "name: expected a name, got an empty one",
            ),
            (
                refused(|c| c.max_size = 0),
                "max_size: expected 1 to 4294967295, got 0",
            ),
            (
                refused(|c| c.max_size = 999),
                "min_size_to_sample: expected at most max_size = 999, or nothing could be sampled, \
                 got 1000",
            ),
            (
                refused(|c| c.samples_per_insert = f64::NAN),
                "samples_per_insert: expected a positive number, got NaN",
            ),
            (
                refused(|c| c.samples_per_insert = 0.0),
                "samples_per_insert: expected a positive number, got 0",
            ),
            (
                refused(|c| c.error_buffer = Some(32.0)),
                "error_buffer: expected at least 32.5 (half of samples_per_insert + 1), or \
                 inserting and sampling could block each other for ever, got 32",
            ),
            (
                refused(|c| c.error_buffer = Some(f64::INFINITY)),
                "error_buffer: expected at least 32.5 (half of samples_per_insert + 1), or \
                 inserting and sampling could block each other for ever, got inf",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
        assert_eq!(TableConfig::default().validate(), Ok(()));
        let tight = TableConfig {
            error_buffer: Some(32.5),
            ..TableConfig::default()
        };
        assert_eq!(tight.validate(), Ok(()));
    }
}
