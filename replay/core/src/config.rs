//! Configuration of a table.

use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

use crate::rate_limiter::{LimiterKind, Ratio};
use crate::selector::{SelectorKind, Weights};

/// What a table holds, how it is drawn from and when callers wait. The defaults are those of Acme's
/// agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableConfig {
    /// The table's name: 1 to 128 letters, digits, `-`, `_` and `.`, the first no dot.
    pub name: String,
    /// Steps of an item: 1 for transitions, more for sequences, which share their steps.
    pub sequence_length: usize,
    /// Fewest steps of an item, where writers give items lengths of their own. Absent: `sequence_length`, so
    /// that all items have as many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_sequence_length: Option<usize>,
    /// Items held; beyond it, each insert removes one. The bound of a queue.
    pub max_size: usize,
    /// Bytes of steps held, without the few an item takes beside them; beyond it, inserts remove
    /// items. 0: no bound.
    pub max_bytes: u64,
    /// Times an item is drawn before it is removed. 0: no bound.
    pub max_times_sampled: u32,
    /// How items are drawn.
    pub sampler: SelectorKind,
    /// How the item to remove from a full table is chosen.
    pub remover: SelectorKind,
    /// Of a prioritized selector: an item is drawn in proportion to its priority to this power.
    pub priority_exponent: f64,
    /// Of an age-weighted selector: what is left of an item's weight, 1 at first, with every newer item.
    pub age_decay: f64,
    /// Of an age-weighted selector: what is left of it at least.
    pub age_floor: f64,
    /// Who has to wait for whom.
    pub limiter: LimiterKind,
    /// Times an item is drawn for each item inserted, on average; of the limiter of this name.
    pub samples_per_insert: f64,
    /// Items needed before the first is drawn; until then inserts do not wait. Of the limiters
    /// `samples_per_insert` and `min_size`.
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
            sequence_length: 1,
            min_sequence_length: None,
            max_size: 1_000_000,
            max_bytes: 0,
            max_times_sampled: 0,
            sampler: SelectorKind::Uniform,
            remover: SelectorKind::Fifo,
            priority_exponent: 0.6,
            age_decay: 0.9999,
            age_floor: 0.1,
            limiter: LimiterKind::SamplesPerInsert,
            samples_per_insert: 16.0,
            min_size_to_sample: 1_000,
            error_buffer: None,
            max_batch_size: 4_096,
            max_writers: 16_384,
        }
    }
}

/// Longest name: it is a folder's, and a label of metrics.
const MAX_NAME_LENGTH: usize = 128;
/// Longest sequence.
pub(crate) const MAX_SEQUENCE_LENGTH: usize = 65_536;
/// Largest exponent of a priority; powers of the largest priority stay finite.
const MAX_PRIORITY_EXPONENT: f64 = 4.0;

fn refuse<T>(
    field: &str,
    expected: impl Into<String>,
    got: impl ToString,
) -> Result<T, ConfigError> {
    Err(ConfigError::new(field, expected, got))
}

impl TableConfig {
    /// The configured `error_buffer`, or the default derived from the other fields.
    pub fn error_buffer(&self) -> f64 {
        self.error_buffer.unwrap_or_else(|| {
            let tolerance = 0.1 * self.min_size_to_sample as f64 * self.samples_per_insert;
            tolerance.max(self.samples_per_insert + self.max_batch_size as f64)
        })
    }

    /// The configured `min_sequence_length`, or that all items have `sequence_length` steps.
    pub fn min_sequence_length(&self) -> usize {
        self.min_sequence_length.unwrap_or(self.sequence_length)
    }

    /// Whether items have lengths of their own.
    pub fn is_ragged(&self) -> bool {
        self.min_sequence_length() < self.sequence_length
    }

    pub(crate) fn weights(&self) -> Weights {
        Weights {
            priority_exponent: self.priority_exponent,
            age_decay: self.age_decay,
            age_floor: self.age_floor,
        }
    }

    /// Whether a selector of the table looks at priorities.
    pub fn uses_priorities(&self) -> bool {
        self.sampler.uses_priorities() || self.remover.uses_priorities()
    }

    /// Refuses values that contradict each other or would leave inserting and sampling waiting for
    /// one another.
    ///
    /// # Errors
    /// [`ConfigError`] names the field, what was expected and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_fields()?;
        match self.limiter {
            LimiterKind::SamplesPerInsert => self.validate_ratio()?,
            LimiterKind::MinSize => self.validate_min_size()?,
            LimiterKind::Queue if self.max_times_sampled == 0 => refuse(
                "max_times_sampled",
                "at least 1 with limiter `queue`, or a full queue would never have room".to_owned(),
                0,
            )?,
            LimiterKind::Queue | LimiterKind::None => {}
        }
        self.validate_for_files()
    }

    /// Refuses what a file could not say, whether or not the limiter looks at it: the log has
    /// configurations as JSON, which knows no NaN, and TOML's integers have a sign.
    fn validate_for_files(&self) -> Result<(), ConfigError> {
        let error_buffer = self.error_buffer.unwrap_or_default();
        for (field, value) in [
            ("samples_per_insert", self.samples_per_insert),
            ("error_buffer", error_buffer),
        ] {
            if !value.is_finite() {
                return refuse(field, "a finite number", value);
            }
        }
        if i64::try_from(self.max_bytes).is_err() {
            let expected = format!("0, no bound, to {}", i64::MAX);
            return refuse("max_bytes", expected, self.max_bytes);
        }
        Ok(())
    }

    fn validate_fields(&self) -> Result<(), ConfigError> {
        let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name = &self.name;
        let length = 1..=MAX_NAME_LENGTH;
        if !length.contains(&name.len()) || name.starts_with('.') || !name.chars().all(letter) {
            let expected = format!(
                "1 to {MAX_NAME_LENGTH} letters, digits, `-`, `_` and `.`, the first no dot"
            );
            return refuse("name", expected, format!("`{name}`"));
        }
        let counts = [
            ("max_size", self.max_size),
            ("min_size_to_sample", self.min_size_to_sample),
            ("max_batch_size", self.max_batch_size),
            ("max_writers", self.max_writers),
        ];
        for (field, count) in counts {
            if count == 0 || u32::try_from(count).is_err() {
                return refuse(field, format!("1 to {}", u32::MAX), count);
            }
        }
        if !(1..=MAX_SEQUENCE_LENGTH).contains(&self.sequence_length) {
            let expected = format!("1 to {MAX_SEQUENCE_LENGTH}");
            return refuse("sequence_length", expected, self.sequence_length);
        }
        let least = self.min_sequence_length();
        if !(1..=self.sequence_length).contains(&least) {
            let expected = format!("1 to sequence_length = {}", self.sequence_length);
            return refuse("min_sequence_length", expected, least);
        }
        // Steps are counted in 32 bits.
        let most = u32::MAX as usize / self.sequence_length;
        if self.max_size > most {
            let expected = format!("at most {most} items of {} steps", self.sequence_length);
            return refuse("max_size", expected, self.max_size);
        }
        if !(0.0..=MAX_PRIORITY_EXPONENT).contains(&self.priority_exponent) {
            let expected = format!("0 to {MAX_PRIORITY_EXPONENT}");
            return refuse("priority_exponent", expected, self.priority_exponent);
        }
        ConfigError::share("age_decay", self.age_decay)?;
        ConfigError::positive("age_decay", self.age_decay)?;
        ConfigError::share("age_floor", self.age_floor)?;
        Ok(())
    }

    fn validate_min_size(&self) -> Result<(), ConfigError> {
        if self.min_size_to_sample > self.max_size {
            return refuse(
                "min_size_to_sample",
                format!(
                    "at most max_size = {}, or nothing could be sampled",
                    self.max_size
                ),
                self.min_size_to_sample,
            );
        }
        Ok(())
    }

    fn validate_ratio(&self) -> Result<(), ConfigError> {
        self.validate_min_size()?;
        let spi = self.samples_per_insert;
        if !(spi.is_finite() && spi > 0.0) {
            return refuse("samples_per_insert", "a positive number".to_owned(), spi);
        }
        if self.max_times_sampled > 0 && f64::from(self.max_times_sampled) < spi {
            return refuse(
                "max_times_sampled",
                format!("0 or at least samples_per_insert = {spi}, which could not be reached"),
                self.max_times_sampled,
            );
        }
        let error_buffer = self.error_buffer();
        if !error_buffer.is_finite() || Ratio::new(self).max_batch() == 0 {
            return refuse(
                "error_buffer",
                format!(
                    "at least {} (half of samples_per_insert + 1), or inserting and sampling could \
                     block each other for ever",
                    (spi + 1.0) / 2.0
                ),
                error_buffer,
            );
        }
        Ok(())
    }

    /// Refuses a `max_bytes` that too few items of `step_bytes` a step would fit.
    ///
    /// # Errors
    /// [`ConfigError`] names the field, what was expected and the value.
    pub(crate) fn validate_bytes(&self, step_bytes: usize) -> Result<(), ConfigError> {
        let items = match self.limiter {
            LimiterKind::SamplesPerInsert | LimiterKind::MinSize => self.min_size_to_sample as u64,
            LimiterKind::Queue | LimiterKind::None => 1,
        };
        let least = items * self.sequence_length as u64 * step_bytes as u64;
        if self.max_bytes == 0 || self.max_bytes >= least {
            return Ok(());
        }
        refuse(
            "max_bytes",
            format!(
                "0 or at least {least}, as {items} items may take, or nothing could be sampled"
            ),
            self.max_bytes,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_error_buffer_is_a_tenth_of_the_offset_and_fits_the_largest_batch() {
        let config = TableConfig {
            samples_per_insert: 64.0,
            ..TableConfig::default()
        };
        assert_eq!(config.error_buffer(), 6_400.0);
        let small = TableConfig {
            min_size_to_sample: 1,
            samples_per_insert: 1.0,
            ..config
        };
        assert_eq!(small.error_buffer(), 4_097.0);
        assert!(Ratio::new(&small).max_batch() >= small.max_batch_size as u64);
    }

    #[test]
    fn refuses_what_cannot_work_and_quotes_it() {
        let refused = |change: fn(&mut TableConfig)| {
            let mut config = TableConfig {
                samples_per_insert: 64.0,
                ..TableConfig::default()
            };
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let cases = [
            (
                refused(|c| c.name.clear()),
                "name: expected 1 to 128 letters, digits, `-`, `_` and `.`, the first no dot, got ``",
            ),
            (
                refused(|c| {
                    c.limiter = LimiterKind::None;
                    c.samples_per_insert = f64::NAN;
                }),
                "samples_per_insert: expected a finite number, got NaN",
            ),
            (
                refused(|c| c.max_bytes = 1 << 63),
                "max_bytes: expected 0, no bound, to 9223372036854775807, got 9223372036854775808",
            ),
            (
                refused(|c| c.name = "../up".to_owned()),
                "name: expected 1 to 128 letters, digits, `-`, `_` and `.`, the first no dot, got \
                 `../up`",
            ),
            (
                refused(|c| c.sequence_length = 0),
                "sequence_length: expected 1 to 65536, got 0",
            ),
            (
                refused(|c| {
                    c.sequence_length = 1 << 16;
                    c.max_size = 1 << 16;
                }),
                "max_size: expected at most 65535 items of 65536 steps, got 65536",
            ),
            (
                refused(|c| c.min_sequence_length = Some(2)),
                "min_sequence_length: expected 1 to sequence_length = 1, got 2",
            ),
            (
                refused(|c| c.min_sequence_length = Some(0)),
                "min_sequence_length: expected 1 to sequence_length = 1, got 0",
            ),
            (
                refused(|c| c.priority_exponent = f64::NAN),
                "priority_exponent: expected 0 to 4, got NaN",
            ),
            (
                refused(|c| c.age_decay = 0.0),
                "age_decay: expected a finite number above 0, got 0",
            ),
            (
                refused(|c| c.age_decay = 1.001),
                "age_decay: expected a number in [0, 1], got 1.001",
            ),
            (
                refused(|c| c.age_floor = -0.1),
                "age_floor: expected a number in [0, 1], got -0.1",
            ),
            (
                refused(|c| c.max_times_sampled = 63),
                "max_times_sampled: expected 0 or at least samples_per_insert = 64, which could \
                 not be reached, got 63",
            ),
            (
                refused(|c| c.limiter = LimiterKind::Queue),
                "max_times_sampled: expected at least 1 with limiter `queue`, or a full queue would \
                 never have room, got 0",
            ),
            (
                refused(|c| {
                    c.limiter = LimiterKind::MinSize;
                    c.max_size = 999;
                }),
                "min_size_to_sample: expected at most max_size = 999, or nothing could be sampled, \
                 got 1000",
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

    #[test]
    fn a_bound_in_bytes_must_hold_the_items_that_sampling_waits_for() {
        let config = TableConfig {
            sequence_length: 4,
            min_size_to_sample: 10,
            max_bytes: 4_000,
            ..TableConfig::default()
        };
        assert_eq!(config.validate_bytes(100), Ok(()));
        assert_eq!(
            config.validate_bytes(101).unwrap_err().to_string(),
            "max_bytes: expected 0 or at least 4040, as 10 items may take, or nothing could be \
             sampled, got 4000"
        );
        let unlimited = TableConfig {
            limiter: LimiterKind::None,
            ..config
        };
        assert_eq!(unlimited.validate_bytes(1_000), Ok(()));
        assert!(unlimited.validate_bytes(1_001).is_err());
    }
}
