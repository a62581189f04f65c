//! Configuration of writers and samplers.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: expected {expected}, got {got}")]
pub struct ConfigError {
    field: &'static str,
    expected: &'static str,
    got: String,
}

/// Where and how a [`Writer`](crate::Writer) inserts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WriterConfig {
    /// Name of the table.
    pub table: String,
    /// Items pushed but not yet acknowledged, at which `push` blocks. This is how far an actor runs
    /// ahead of the rate limiter, and the memory a writer takes while the server is away.
    pub max_in_flight_items: usize,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self {
            table: "replay".to_owned(),
            max_in_flight_items: 256,
        }
    }
}

impl WriterConfig {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        table_name(&self.table)?;
        positive("max_in_flight_items", self.max_in_flight_items)
    }
}

/// What and how a [`Sampler`](crate::Sampler) draws.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerConfig {
    /// Name of the table.
    pub table: String,
    /// Items in a batch.
    pub batch_size: usize,
    /// Batches asked for ahead of their use; more hides latency, fewer are fresher.
    pub prefetch_batches: usize,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            table: "replay".to_owned(),
            batch_size: 256,
            prefetch_batches: 2,
        }
    }
}

impl SamplerConfig {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        table_name(&self.table)?;
        positive("batch_size", self.batch_size)?;
        if u32::try_from(self.batch_size).is_err() {
            let got = self.batch_size.to_string();
            return Err(ConfigError {
                field: "batch_size",
                expected: "at most 2^32 - 1",
                got,
            });
        }
        positive("prefetch_batches", self.prefetch_batches)?;
        if self.prefetch_batches > MAX_PREFETCH_BATCHES {
            let got = self.prefetch_batches.to_string();
            return Err(ConfigError {
                field: "prefetch_batches",
                expected: "at most 1024",
                got,
            });
        }
        Ok(())
    }
}

const MAX_PREFETCH_BATCHES: usize = 1024;

fn table_name(name: &str) -> Result<(), ConfigError> {
    if name.is_empty() {
        let got = "an empty one".to_owned();
        return Err(ConfigError {
            field: "table",
            expected: "a name",
            got,
        });
    }
    Ok(())
}

fn positive(field: &'static str, value: usize) -> Result<(), ConfigError> {
    if value == 0 {
        return Err(ConfigError {
            field,
            expected: "at least 1",
            got: value.to_string(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_work_and_quotes_it() {
        assert_eq!(WriterConfig::default().validate(), Ok(()));
        assert_eq!(SamplerConfig::default().validate(), Ok(()));
        let writer = |change: fn(&mut WriterConfig)| {
            let mut config = WriterConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let sampler = |change: fn(&mut SamplerConfig)| {
            let mut config = SamplerConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let cases = [
            (
                writer(|c| c.table.clear()),
                "table: expected a name, got an empty one",
            ),
            (
                writer(|c| c.max_in_flight_items = 0),
                "max_in_flight_items: expected at least 1, got 0",
            ),
            (
                sampler(|c| c.batch_size = 0),
                "batch_size: expected at least 1, got 0",
            ),
            (
                sampler(|c| c.prefetch_batches = 4096),
                "prefetch_batches: expected at most 1024, got 4096",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
    }
}
