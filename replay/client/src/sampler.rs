//! Draws batches ahead of their use, from all shards: as each one's limiter admits, and where none holds
//! back, in proportion to their sizes.
//!
//! Each shard has a bounded queue here. Every free place in it is a credit: a task turns it into
//! demand, the shard answers with at most that many batches, and taking a batch frees its place. So
//! the server never waits for a slow learner, and no more than `prefetch_batches` of each shard are
//! older than they need be.
//!
//! Whose batch is next is decided here when one is asked for, by the sizes in the shards' newest
//! answers: with uniform shards that are not held back every item is then as likely as any other. A shard
//! whose limiter holds samples back is not waited for and gives what it has when it has it, so that two
//! shards with unequal writers run at the sum of both rates; its items count for how often it is drawn
//! from ([`SampledBatch::weight`]). A shard that is away is left out until it is back, and one that has
//! nothing to give for [`PATIENCE`] is taken for held back until it says otherwise.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::counter;
use pmpo_types::{Signature, check_priorities};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::connection::{Connection, clients};
use crate::draws::{Draws, PATIENCE, Turn};
use crate::streams::{PriorityUpdate, SamplerSession, pass_priorities};
use crate::{ClientError, SampledBatch, SamplerConfig, metrics};

/// Updates of priorities that may wait for a shard; one more is dropped.
const PRIORITY_UPDATES: usize = 64;

const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Streams of batches out of one table's shards.
pub struct Sampler {
    draws: Arc<Draws>,
    /// To each shard.
    priorities: Vec<mpsc::Sender<PriorityUpdate>>,
    shutdown: CancellationToken,
}

impl Sampler {
    /// A sampler of items with `signature` from a table of the service whose shards are at
    /// `addresses` (`host:port` each). Does not wait for the server; its refusals reach the next call.
    ///
    /// # Errors
    /// The configuration or an address cannot be used.
    pub fn new(
        addresses: &[String],
        config: SamplerConfig,
        signature: Signature,
        runtime: &Handle,
        shutdown: &CancellationToken,
    ) -> Result<Self, ClientError> {
        config.validate()?;
        let shutdown = shutdown.child_token();
        let draws = Arc::new(Draws::new(addresses.len(), config.prefetch_batches));
        let mut priorities = Vec::with_capacity(addresses.len());
        for (shard, client) in clients(addresses, &config.credentials, runtime)?
            .into_iter()
            .enumerate()
        {
            let (updates, queue) = mpsc::channel(PRIORITY_UPDATES);
            priorities.push(updates);
            let passing = pass_priorities(
                client.clone(),
                config.table.clone(),
                queue,
                shutdown.clone(),
            );
            let end = draws.end_on_drop();
            runtime.spawn(async move { end.with(passing.await) });
            let mut session =
                SamplerSession::new(client, &config, &signature, Arc::clone(&draws), shard);
            let connection = Connection::new("sampler", &addresses[shard]);
            let (end, token) = (draws.end_on_drop(), shutdown.clone());
            runtime.spawn(async move { end.with(connection.keep(&mut session, token).await) });
        }
        Ok(Self {
            draws,
            priorities,
            shutdown,
        })
    }

    /// The next batch; blocks until the table can give one.
    ///
    /// # Errors
    /// The server has refused for good, or the shutdown token was cancelled.
    #[expect(
        clippy::should_implement_trait,
        reason = "an error is no item, and ends the stream"
    )]
    pub fn next(&mut self) -> Result<SampledBatch, ClientError> {
        loop {
            if let Some(batch) = self.next_timeout(PATIENCE)? {
                return Ok(batch);
            }
        }
    }

    /// The next batch, or `None` when there was none within `timeout`.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<SampledBatch>, ClientError> {
        // A century is as good as for ever.
        let deadline = Instant::now() + timeout.min(FOR_EVER);
        // Batches drawn before the shutdown are not worth a delay of it.
        while !self.shutdown.is_cancelled() {
            match self.draws.turn(Instant::now())? {
                Turn::Batch(batch) => return Ok(Some(*batch)),
                Turn::Wait(until) => {
                    if Instant::now() >= deadline {
                        return Ok(None);
                    }
                    self.draws
                        .wait(until.map_or(deadline, |until| until.min(deadline)));
                }
            }
        }
        Err(ClientError::Shutdown)
    }
}

impl Sampler {
    /// Sets the priorities of items of one batch. Does not wait: they are passed on in the background,
    /// and what cannot be delivered is dropped and counted.
    ///
    /// # Errors
    /// A priority is negative or not finite, or there is not one for each key; nothing is set.
    pub fn update_priorities(
        &self,
        shard: usize,
        keys: &[u64],
        priorities: &[f64],
    ) -> Result<(), ClientError> {
        check_priorities(priorities).map_err(|error| ClientError::Batch(error.to_string()))?;
        if keys.len() != priorities.len() || shard >= self.priorities.len() {
            return Err(ClientError::Batch(format!(
                "priorities of shard {shard}: expected one of {} shards and a priority for each of {} \
                 keys, got {}",
                self.priorities.len(),
                keys.len(),
                priorities.len()
            )));
        }
        let update = PriorityUpdate {
            keys: keys.to_vec(),
            priorities: priorities.to_vec(),
        };
        if self.priorities[shard].try_send(update).is_err() {
            counter!(metrics::DROPPED_PRIORITY_UPDATES).increment(1);
        }
        Ok(())
    }

    /// Why shards make the sampler wait, in their own words, if they have done so for longer than
    /// `blocked_timeout_s` and have given nothing since.
    pub fn blocked(&self) -> Option<String> {
        self.draws.reasons()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.draws.abandon();
    }
}
