//! Draws batches ahead of their use.
//!
//! Every free place in the bounded queue is a credit: the task turns it into demand, the server
//! answers with at most that many batches, and taking a batch frees its place. So the server never
//! waits for a slow learner, and no more than `prefetch_batches` are older than they need be.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::metrics::gauge;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use pmpo_proto::v1::{self, replay_client::ReplayClient, sample_request};
use pmpo_proto::{SampledParts, signature_to_wire};
use pmpo_types::{SampledBatch, Signature};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::connection::{Connection, Session, SessionEnd, client};
use crate::{ClientError, SamplerConfig, metrics};

/// A stream of batches out of one table.
pub struct Sampler {
    batches: Receiver<SampledBatch>,
    /// Free places in the queue that the server has not been told about.
    free: Arc<Semaphore>,
    ended: Arc<OnceLock<ClientError>>,
    shutdown: CancellationToken,
}

impl Sampler {
    /// A sampler of items with `signature` from a table of the service at `address` (`host:port`).
    /// Does not wait for the server; its refusals reach the next call.
    ///
    /// # Errors
    /// The configuration or the address cannot be used.
    pub fn new(
        address: &str,
        config: SamplerConfig,
        signature: Signature,
        runtime: &Handle,
        shutdown: &CancellationToken,
    ) -> Result<Self, ClientError> {
        config.validate()?;
        let shutdown = shutdown.child_token();
        let (queue, batches) = bounded(config.prefetch_batches);
        let free = Arc::new(Semaphore::new(config.prefetch_batches));
        let ended = Arc::<OnceLock<ClientError>>::default();
        let mut session = SamplerSession {
            client: client(address, runtime)?,
            signature,
            config,
            free: Arc::clone(&free),
            asked: 0,
            parts: SampledParts::default(),
            queue,
        };
        let connection = Connection::new("sampler", address);
        let (end, token) = (Arc::clone(&ended), shutdown.clone());
        runtime.spawn(async move {
            let reason = connection.keep(&mut session, token).await;
            end.set(reason).expect("set once, here");
            // Closes the queue, after the reason is there.
            drop(session);
        });
        Ok(Self {
            batches,
            free,
            ended,
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
        self.check_shutdown()?;
        let batch = self.batches.recv().map_err(|_| self.reason())?;
        Ok(self.taken(batch))
    }

    /// The next batch, or `None` when there was none within `timeout`.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<SampledBatch>, ClientError> {
        self.check_shutdown()?;
        match self.batches.recv_timeout(timeout) {
            Ok(batch) => Ok(Some(self.taken(batch))),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.reason()),
        }
    }

    fn taken(&self, batch: SampledBatch) -> SampledBatch {
        gauge!(metrics::PREFETCHED_BATCHES).decrement(1.0);
        self.free.add_permits(1);
        batch
    }

    /// Batches drawn before the shutdown are not worth a delay of it.
    fn check_shutdown(&self) -> Result<(), ClientError> {
        if self.shutdown.is_cancelled() {
            Err(ClientError::Shutdown)
        } else {
            Ok(())
        }
    }

    /// Why the queue is closed; without a reason, the runtime has dropped the task.
    fn reason(&self) -> ClientError {
        self.ended.get().cloned().unwrap_or(ClientError::Shutdown)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shutdown.cancel();
        gauge!(metrics::PREFETCHED_BATCHES).decrement(self.batches.len() as f64);
    }
}

struct SamplerSession {
    client: ReplayClient<Channel>,
    signature: Signature,
    config: SamplerConfig,
    free: Arc<Semaphore>,
    /// Batches demanded and not received; demanded again on the next connection.
    asked: u32,
    /// Of a batch that is not whole yet.
    parts: SampledParts,
    queue: Sender<SampledBatch>,
}

impl Session for SamplerSession {
    async fn run(&mut self, connection: &mut Connection) -> SessionEnd {
        match self.serve(connection).await {
            Ok(()) => SessionEnd::hung_up(),
            Err(end) => end,
        }
    }
}

impl SamplerSession {
    async fn serve(&mut self, connection: &mut Connection) -> Result<(), SessionEnd> {
        // Every credit becomes at most one request, so neither `open` nor a demand waits for room.
        let (requests, stream) = mpsc::channel(self.config.prefetch_batches + 2);
        let demand = |batches: u32| {
            let demand = sample_request::Request::Demand(v1::Demand { batches });
            // Fails only where the connection is lost; the responses then say why.
            drop(requests.try_send(v1::SampleRequest {
                request: Some(demand),
            }));
        };
        self.parts = SampledParts::default();
        let open = v1::SampleRequest {
            request: Some(self.open()),
        };
        requests.try_send(open).expect("the queue is new");
        if self.asked > 0 {
            demand(self.asked);
        }
        let mut responses = self
            .client
            .sample(ReceiverStream::new(stream))
            .await?
            .into_inner();
        let free = Arc::clone(&self.free);
        loop {
            tokio::select! {
                response = responses.message() => match response? {
                    Some(response) => {
                        connection.opened();
                        self.deliver(response).map_err(SessionEnd::Protocol)?;
                    }
                    None => return Ok(()),
                },
                Ok(permit) = free.acquire() => {
                    permit.forget();
                    self.asked += 1;
                    demand(1);
                }
            }
        }
    }

    fn open(&self) -> sample_request::Request {
        sample_request::Request::Open(v1::OpenSampler {
            table: self.config.table.clone(),
            batch_size: self.config.batch_size as u32,
            signature: Some(signature_to_wire(&self.signature)),
            ..v1::OpenSampler::default()
        })
    }

    fn deliver(&mut self, response: v1::SampleResponse) -> Result<(), String> {
        let batch = self
            .parts
            .push(&self.signature, self.config.batch_size, response)
            .map_err(|error| error.to_string())?;
        let Some(batch) = batch else { return Ok(()) };
        self.asked = self
            .asked
            .checked_sub(1)
            .ok_or("a batch that was not asked for")?;
        // Full only if more was sent than asked for, disconnected only if nobody will take it.
        if self.queue.try_send(batch).is_ok() {
            gauge!(metrics::PREFETCHED_BATCHES).increment(1.0);
        }
        Ok(())
    }
}
