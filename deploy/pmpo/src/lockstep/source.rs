//! What a run in lockstep learns from: its table, in this process, what comes to that from the stepper, and the
//! data set that there may be.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pmpo_actor::insertion::StepSink;
use pmpo_replay_client::ClientError;
use pmpo_replay_core::Table;
use pmpo_types::{EnvironmentSpec, Generator, StepBatch, WriterId, derive_seed, step};
use pmpo_update::{BatchSource, Drawn};

use crate::config::Config;
use crate::data::{DataSource, DataState};

/// The only writer of the table.
const WRITER: WriterId = WriterId(1);

/// What a stepper hands over, until it is inserted.
#[derive(Default)]
pub(super) struct Handed(pub(super) VecDeque<StepBatch>);

impl StepSink for Handed {
    fn push(&mut self, batch: &StepBatch) -> Result<(), ClientError> {
        self.0.push_back(batch.clone());
        Ok(())
    }

    fn flush(&mut self, _: Duration) -> Result<(), ClientError> {
        Ok(())
    }
}

/// A table in this process as a source of batches, and a data set that has a share in them.
pub(super) struct TableSource {
    pub(super) table: Table,
    pub(super) data: Option<DataSource>,
    /// Windows of a batch that come from the data set.
    data_windows: usize,
    batch_size: usize,
    next_sequence: u64,
}

impl TableSource {
    /// Of a fresh table, or of the `saved` one.
    pub(super) fn new(
        config: &Config,
        spec: &EnvironmentSpec,
        saved: Option<(&[u8], Option<DataState>)>,
    ) -> Result<Self> {
        let (saved, data_state) = saved.unzip();
        let replay = &config.replay;
        let tables = std::iter::once(&replay.table).chain(&replay.tables);
        let table = tables
            .into_iter()
            .find(|table| table.name == config.learner.table)
            .with_context(|| format!("learner.table: no table {}", config.learner.table))?;
        let seed = derive_seed(config.run.seed, Generator::Replay, 0);
        let mut table = match saved {
            Some(saved) => Table::load(table.clone(), saved)?,
            None => Table::new(table.clone(), seed)?,
        };
        let signature = step::signature(spec.observation_size(), spec.action_size());
        let rows = config.update.window().rows();
        let next_sequence = table.open_writer(WRITER, &signature, rows)?;
        table.open_sampler(config.update.batch_size, &signature, rows)?;
        let data = DataSource::open(config, spec, data_state.flatten())?;
        let batch_size = config.update.batch_size;
        Ok(Self {
            table,
            data_windows: config.data.windows(batch_size),
            data,
            batch_size,
            next_sequence,
        })
    }

    pub(super) fn insert(&mut self, batch: &StepBatch) -> Result<()> {
        let end = self.next_sequence + batch.len() as u64;
        let next = self.table.insert(WRITER, self.next_sequence, batch)?;
        ensure!(
            next == end,
            "the rate limiter holds inserts back ({:?}): samples_per_insert, batch size and error_buffer \
             of the table do not go together",
            self.table.insert_hold()
        );
        self.next_sequence = next;
        Ok(())
    }
}

impl BatchSource for TableSource {
    type Error = anyhow::Error;

    /// `None` where the rate limiter says that no learner step is due; of a data set alone, always one.
    fn next_batch(&mut self, _: Duration) -> Result<Option<Drawn>> {
        let batch = match &mut self.data {
            Some(data) if self.data_windows >= self.batch_size => Some(data.draw(self.batch_size)?),
            data => {
                let drawn = self.table.sample(self.batch_size).ok();
                match (data, drawn) {
                    (Some(data), Some(batch)) => Some(data.mix_into(batch, self.data_windows)?),
                    (_, drawn) => drawn,
                }
            }
        };
        Ok(batch.map(|batch| Drawn {
            batch,
            origin: 0,
            weight: 1.0,
            trace: None,
        }))
    }

    fn update_priorities(&mut self, _: usize, keys: &[u64], priorities: &[f64]) -> Result<()> {
        self.table.update_priorities(keys, priorities)?;
        Ok(())
    }
}
