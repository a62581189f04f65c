//! Configuration of the service.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use pmpo_replay_core::TableConfig;
use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

/// What the service serves, and its bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// The run's seed, from which the table's draws follow. No key of its own: whoever starts the
    /// service passes the run's on.
    #[serde(skip)]
    pub seed: u64,
    /// Commands that may wait for the table's thread; beyond it, streams wait to give theirs.
    pub command_queue: usize,
    /// Seconds a stream may take to send its first message.
    pub open_timeout_s: f64,
    /// Streams open at a time; more are refused. A stream takes the memory of a few messages in, or
    /// of two batches out, however slow its peer is.
    pub max_streams: usize,
    /// Tables that there may be; beyond it, no more are created while the service runs.
    pub max_tables: usize,
    /// Bytes of memory that each table takes beside the items it holds: half for the streams of its writers,
    /// 128 KiB each, beyond which more are refused; a quarter for their messages from their first byte
    /// until they are stored, an eighth for batches until they are sent, which wait where there is no room;
    /// and an eighth for steps kept for the next items of writers, beyond which the writer that has been
    /// away for longest is forgotten.
    pub table_budget_bytes: u64,
    /// Seconds that a writer which has disconnected is remembered: the number of its next step, and the
    /// steps that its next items may begin with. One that comes back later may store items twice.
    pub writer_timeout_s: f64,
    /// Seconds between the signs of life that are asked of each peer.
    pub keepalive_interval_s: f64,
    /// Seconds that a peer may take to give one; then its connection and its streams are closed, and what
    /// they held is freed.
    pub keepalive_timeout_s: f64,
    /// Seconds that connections may take to end when the service stops; the log is written in any case.
    pub shutdown_grace_s: f64,
    /// Where the tables outlive the process; without it they are in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// How they do.
    pub disk: DiskConfig,
    /// The table.
    pub table: TableConfig,
    /// Further tables beside it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableConfig>,
}

/// When written bytes are made safe from the loss of the machine. All survive the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// Before anything is acknowledged; what waits shares one sync.
    EachBatch,
    /// Every `fsync_interval_ms`.
    Interval,
    /// When the system likes to; what has filled a segment, when the next one begins.
    Never,
}

/// How tables are kept in the data directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskConfig {
    /// When written bytes are made safe from the loss of the machine.
    pub fsync: Fsync,
    /// Milliseconds between syncs, where they are at intervals.
    pub fsync_interval_ms: u64,
    /// Size at which a new segment of the log begins, in bytes. A table takes up to twice its size and
    /// two segments.
    pub segment_bytes: u64,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            fsync: Fsync::Interval,
            fsync_interval_ms: 100,
            segment_bytes: 32 << 20,
        }
    }
}

impl DiskConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let bounds = [
            ("fsync_interval_ms", self.fsync_interval_ms, 1, 3_600_000),
            ("segment_bytes", self.segment_bytes, 4 << 10, 1 << 30),
        ];
        for (field, value, min, max) in bounds {
            if !(min..=max).contains(&value) {
                let expected = format!("{min} to {max}");
                return Err(ConfigError::new(format!("disk.{field}"), expected, value));
            }
        }
        Ok(())
    }
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            command_queue: 1_024,
            open_timeout_s: 10.0,
            max_streams: 4_096,
            max_tables: 64,
            table_budget_bytes: 1 << 30,
            writer_timeout_s: 3_600.0,
            keepalive_interval_s: 10.0,
            keepalive_timeout_s: 20.0,
            shutdown_grace_s: 2.0,
            data_dir: None,
            disk: DiskConfig::default(),
            table: TableConfig::default(),
            tables: Vec::new(),
        }
    }
}

const MAX_TIMEOUT_S: f64 = 3_600.0;
/// A year.
const MAX_WRITER_TIMEOUT_S: f64 = 31_536_000.0;
/// Some streams, and messages and batches of small steps.
const MIN_BUDGET_BYTES: u64 = 1 << 20;

impl ReplayConfig {
    /// How long a writer that has disconnected is remembered.
    pub(crate) fn writer_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.writer_timeout_s)
    }

    /// How long a stream may take to send its first message.
    pub(crate) fn open_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.open_timeout_s)
    }

    /// Interval and timeout.
    pub(crate) fn keepalive(&self) -> [Duration; 2] {
        [self.keepalive_interval_s, self.keepalive_timeout_s].map(Duration::from_secs_f64)
    }

    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// The message names the field, what was expected and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, value) in [
            ("command_queue", self.command_queue),
            ("max_streams", self.max_streams),
            ("max_tables", self.max_tables),
        ] {
            ConfigError::at_least_one(field, value as u64)?;
        }
        for (field, timeout) in [
            ("open_timeout_s", self.open_timeout_s),
            ("keepalive_interval_s", self.keepalive_interval_s),
            ("keepalive_timeout_s", self.keepalive_timeout_s),
            ("shutdown_grace_s", self.shutdown_grace_s),
        ] {
            if !(timeout > 0.0 && timeout <= MAX_TIMEOUT_S) {
                let expected = format!("more than 0 and at most {MAX_TIMEOUT_S}");
                return Err(ConfigError::new(field, expected, timeout));
            }
        }
        let seconds = self.writer_timeout_s;
        if !(1.0..=MAX_WRITER_TIMEOUT_S).contains(&seconds) {
            let expected = format!("1 to {MAX_WRITER_TIMEOUT_S} seconds");
            return Err(ConfigError::new("writer_timeout_s", expected, seconds));
        }
        if self.table_budget_bytes < MIN_BUDGET_BYTES {
            let (expected, got) = (
                format!("at least {MIN_BUDGET_BYTES}"),
                self.table_budget_bytes,
            );
            return Err(ConfigError::new("table_budget_bytes", expected, got));
        }
        self.disk.validate()?;
        self.table
            .validate()
            .map_err(|error| error.within("table"))?;
        let mut names = HashSet::from([self.table.name.as_str()]);
        for (i, table) in self.tables.iter().enumerate() {
            table
                .validate()
                .map_err(|error| error.within(&format!("tables[{i}]")))?;
            if !names.insert(&table.name) {
                let (field, name) = (format!("tables[{i}].name"), &table.name);
                let expected = format!("another than `{name}`");
                return Err(ConfigError::new(field, expected, "it"));
            }
        }
        Ok(())
    }

    /// All tables.
    pub(crate) fn all_tables(&self) -> impl Iterator<Item = &TableConfig> {
        std::iter::once(&self.table).chain(&self.tables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_work_and_names_it() {
        assert!(ReplayConfig::default().validate().is_ok());
        let refused = |change: fn(&mut ReplayConfig)| {
            let mut config = ReplayConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let cases = [
            (
                refused(|c| c.command_queue = 0),
                "command_queue: expected at least 1, got 0",
            ),
            (
                refused(|c| c.open_timeout_s = 0.0),
                "open_timeout_s: expected more than 0 and at most 3600, got 0",
            ),
            (
                refused(|c| c.max_streams = 0),
                "max_streams: expected at least 1, got 0",
            ),
            (
                refused(|c| c.table_budget_bytes = 1),
                "table_budget_bytes: expected at least 1048576, got 1",
            ),
            (
                refused(|c| c.writer_timeout_s = 0.0),
                "writer_timeout_s: expected 1 to 31536000 seconds, got 0",
            ),
            (
                refused(|c| c.disk.fsync_interval_ms = 0),
                "disk.fsync_interval_ms: expected 1 to 3600000, got 0",
            ),
            (
                refused(|c| c.tables = vec![TableConfig::default()]),
                "tables[0].name: expected another than `replay`, got it",
            ),
            (
                refused(|c| {
                    let table = TableConfig {
                        name: "other".to_owned(),
                        max_size: 0,
                        ..TableConfig::default()
                    };
                    c.tables = vec![table];
                }),
                "tables[0].max_size: expected 1 to 4294967295, got 0",
            ),
            (
                refused(|c| c.table.name.clear()),
                "table.name: expected 1 to 128 letters, digits, `-`, `_` and `.`, the first no dot, \
                 got ``",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
    }
}
