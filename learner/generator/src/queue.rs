//! The learner's side of the queue: groups are taken once, the oldest first, and those of policies that lie too far
//! behind are dropped.

use std::time::{Duration, Instant};

use ::metrics::{counter, gauge};
use backon::Retryable;
use pmpo_language::{Group, LmConfig};
use pmpo_proto::replay::v1::replay_client::ReplayClient;
use pmpo_proto::replay::v1::{CreateTableRequest, Limiter, Selector, TableConfig};
use pmpo_replay_client::{ClientError, Sampler, SamplerConfig};
use pmpo_service::security::Credentials;
use pmpo_service::{backoff, grpc};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::layout::Layout;
use crate::{GeneratorError, metrics};

/// The table that a run's groups go through.
pub const TABLE: &str = "language";

/// How long a learner waits without a group before it says so again.
const QUIET: Duration = Duration::from_secs(30);

/// The table: a queue whose items are read once.
fn table(config: &LmConfig) -> TableConfig {
    TableConfig {
        name: TABLE.to_owned(),
        sequence_length: Some(1),
        max_size: Some(config.queue_groups()),
        max_times_sampled: Some(1),
        sampler: Selector::Fifo.into(),
        remover: Selector::Fifo.into(),
        limiter: Limiter::Queue.into(),
        ..TableConfig::default()
    }
}

/// Makes the table at each shard, waiting for those that are away; `false` when told to stop before.
///
/// # Errors
/// An address cannot be used, or a shard refuses: it may have a table of this name that is another.
pub async fn create_tables(
    replay: &[String],
    config: &LmConfig,
    credentials: &Credentials,
    shutdown: &CancellationToken,
) -> Result<bool, GeneratorError> {
    for address in replay {
        let client = ReplayClient::new(grpc::connect_lazy(address, credentials)?);
        let refusal = |status: &_| GeneratorError::refusal("the replay", "CreateTable", status);
        let call = || {
            let mut client = client.clone();
            let config = Some(table(config));
            let request = grpc::timed(CreateTableRequest { config });
            async move { client.create_table(request).await }
        };
        let answer = call
            .retry(backoff::exponential())
            .when(|status| refusal(status).is_none())
            .notify(|status, delay| {
                tracing::info!(reason = status.message(), ?delay, "waiting for the replay");
            });
        let answer = tokio::select! {
            () = shutdown.cancelled() => return Ok(false),
            answer = answer => answer,
        };
        if let Err(Some(refused)) = answer.map_err(|status| refusal(&status)) {
            return Err(refused);
        }
    }
    Ok(true)
}

/// Groups that generators have made.
pub struct GroupQueue {
    sampler: Sampler,
    layout: Layout,
    vocabulary: usize,
    max_staleness: u64,
    /// Taken for a step that has not got all of its groups yet.
    taken: Vec<(Group, u64)>,
}

impl GroupQueue {
    /// Of a run whose model has so many tokens. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// An address cannot be used.
    pub fn new(
        replay: &[String],
        config: &LmConfig,
        vocabulary: usize,
        credentials: &Credentials,
        shutdown: &CancellationToken,
    ) -> Result<Self, GeneratorError> {
        let layout = Layout::new(config);
        let sampling = SamplerConfig {
            table: TABLE.to_owned(),
            batch_size: 1,
            prefetch_batches: 1,
            credentials: credentials.clone(),
            ..SamplerConfig::default()
        };
        let signature = layout.signature();
        let sampler = Sampler::new(replay, sampling, signature, &Handle::current(), shutdown)?;
        Ok(Self {
            sampler,
            layout,
            vocabulary,
            max_staleness: config.max_staleness,
            taken: Vec::new(),
        })
    }

    /// Waits for so many groups of policies that are not too far behind `step`; `None` when told to stop before.
    ///
    /// # Errors
    /// The replay has refused for good.
    pub fn next(&mut self, count: usize, step: u64) -> Result<Option<Vec<Group>>, GeneratorError> {
        let fresh = |version: u64, most: u64| version.saturating_add(most) >= step;
        let before = self.taken.len();
        let most = self.max_staleness;
        self.taken.retain(|(_, version)| fresh(*version, most));
        counter!(metrics::STALE_GROUPS).increment((before - self.taken.len()) as u64);
        let mut heard = Instant::now();
        while self.taken.len() < count {
            let batch = match self.sampler.next_timeout(QUIET) {
                Ok(batch) => batch,
                Err(ClientError::Shutdown) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let Some(batch) = batch else {
                let (since, reason) = (heard.elapsed(), self.sampler.blocked());
                tracing::info!(
                    ?since,
                    reason,
                    have = self.taken.len(),
                    "waiting for groups"
                );
                continue;
            };
            heard = Instant::now();
            match self.layout.group(&batch.columns, self.vocabulary) {
                Ok((group, version)) if fresh(version, most) => self.taken.push((group, version)),
                Ok(_) => counter!(metrics::STALE_GROUPS).increment(1),
                Err(why) => {
                    counter!(metrics::REFUSED_GROUPS).increment(1);
                    tracing::warn!(why, "a group was dropped");
                }
            }
        }
        let behind = self
            .taken
            .iter()
            .map(|(_, version)| step.saturating_sub(*version));
        gauge!(metrics::STALENESS).set(behind.sum::<u64>() as f64 / count.max(1) as f64);
        let taken = std::mem::take(&mut self.taken);
        Ok(Some(taken.into_iter().map(|(group, _)| group).collect()))
    }
}
