//! Configuration of writers and samplers.

use std::time::Duration;

use pmpo_proto::replay::v1;
use pmpo_service::security::Credentials;
use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

/// Where and how a [`Writer`](crate::Writer) inserts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WriterConfig {
    /// Name of the table.
    pub table: String,
    /// Items, or where an item has several steps, steps pushed but not yet acknowledged, at which `push` blocks. This is how far an actor runs
    /// ahead of the rate limiter, and the memory a writer takes while the server is away. With several
    /// shards, each that was lost with items in flight keeps up to as many until it is back.
    pub max_in_flight_items: usize,
    /// The same bound in bytes; one step may be larger.
    pub max_in_flight_bytes: usize,
    /// Seconds that the rate limiter may hold a message back before the server has to say why, and from
    /// then on again and again; the message keeps its place.
    pub blocked_timeout_s: f64,
    /// Steps of an item, at most. No key of its own: whoever makes the items knows.
    #[serde(skip, default = "one")]
    pub sequence_length: usize,
    /// What it shows the service. No key of its own: a process has one set of credentials.
    #[serde(skip)]
    pub credentials: Credentials,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self {
            table: "replay".to_owned(),
            max_in_flight_items: 256,
            max_in_flight_bytes: 64 << 20,
            blocked_timeout_s: 30.0,
            sequence_length: 1,
            credentials: Credentials::default(),
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
        ConfigError::at_least_one("max_in_flight_items", self.max_in_flight_items as u64)?;
        ConfigError::at_least_one("max_in_flight_bytes", self.max_in_flight_bytes as u64)?;
        sequence_length(self.sequence_length)?;
        blocked_timeout(self.blocked_timeout_s)
    }

    pub(crate) fn blocked_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.blocked_timeout_s)
    }
}

/// How the columns of batches come over the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As they are: fastest on one machine and in a fast network.
    #[default]
    None,
    /// LZ4: little time, little gain.
    Lz4,
    /// Zstandard: more of both.
    Zstd,
}

impl Compression {
    pub(crate) fn to_wire(self) -> v1::Compression {
        match self {
            Self::None => v1::Compression::None,
            Self::Lz4 => v1::Compression::Lz4,
            Self::Zstd => v1::Compression::Zstd,
        }
    }
}

/// What and how a [`Sampler`](crate::Sampler) draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerConfig {
    /// Name of the table.
    pub table: String,
    /// Items in a batch.
    pub batch_size: usize,
    /// Batches asked for ahead of their use, of each shard; more hides latency, fewer are fresher.
    pub prefetch_batches: usize,
    /// How the columns come over the network.
    pub compression: Compression,
    /// Seconds that the rate limiter may hold a batch back before the server has to say why, and from
    /// then on again and again.
    pub blocked_timeout_s: f64,
    /// Steps of an item, at most. No key of its own: whoever uses the items knows.
    #[serde(skip, default = "one")]
    pub sequence_length: usize,
    /// Whether items have lengths of their own, as the table's `min_sequence_length` says.
    #[serde(skip)]
    pub ragged: bool,
    /// What it shows the service. No key of its own: a process has one set of credentials.
    #[serde(skip)]
    pub credentials: Credentials,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            table: "replay".to_owned(),
            batch_size: 256,
            prefetch_batches: 2,
            compression: Compression::None,
            blocked_timeout_s: 30.0,
            sequence_length: 1,
            ragged: false,
            credentials: Credentials::default(),
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
        ConfigError::at_least_one("batch_size", self.batch_size as u64)?;
        if u32::try_from(self.batch_size).is_err() {
            let expected = "at most 2^32 - 1";
            return Err(ConfigError::new("batch_size", expected, self.batch_size));
        }
        ConfigError::at_least_one("prefetch_batches", self.prefetch_batches as u64)?;
        if self.prefetch_batches > MAX_PREFETCH_BATCHES {
            let (expected, got) = ("at most 1024", self.prefetch_batches);
            return Err(ConfigError::new("prefetch_batches", expected, got));
        }
        sequence_length(self.sequence_length)?;
        blocked_timeout(self.blocked_timeout_s)
    }

    pub(crate) fn blocked_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.blocked_timeout_s)
    }
}

const MAX_PREFETCH_BATCHES: usize = 1024;

const MAX_SEQUENCE_LENGTH: usize = 1 << 20;

fn one() -> usize {
    1
}

fn sequence_length(steps: usize) -> Result<(), ConfigError> {
    if (1..=MAX_SEQUENCE_LENGTH).contains(&steps) {
        return Ok(());
    }
    Err(ConfigError::new(
        "sequence_length",
        "1 to 2^20 steps",
        steps,
    ))
}

fn blocked_timeout(seconds: f64) -> Result<(), ConfigError> {
    if (0.001..=86_400.0).contains(&seconds) {
        return Ok(());
    }
    let expected = "0.001 to 86400 seconds";
    Err(ConfigError::new("blocked_timeout_s", expected, seconds))
}

fn table_name(name: &str) -> Result<(), ConfigError> {
    if name.is_empty() {
        return Err(ConfigError::new("table", "a name", "an empty one"));
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
                writer(|c| c.blocked_timeout_s = f64::NAN),
                "blocked_timeout_s: expected 0.001 to 86400 seconds, got NaN",
            ),
            (
                sampler(|c| c.sequence_length = 0),
                "sequence_length: expected 1 to 2^20 steps, got 0",
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
