//! A sampler's tasks: for each shard one that keeps its stream of batches, and one that passes
//! priorities back.

use std::sync::Arc;
use std::time::Duration;

use ::metrics::counter;
use pmpo_proto::replay::v1::{
    self, replay_client::ReplayClient, sample_request, sample_response::Response,
};
use pmpo_proto::{
    BatchShape, STOCK_MESSAGE_BYTES, SampledParts, counters_from_wire, least_part_bytes,
    signature_to_wire, trace_from_wire,
};
use pmpo_service::grpc::Channel;
use pmpo_service::identity;
use pmpo_types::Signature;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use crate::connection::{
    CALL_TIMEOUT, Connection, OPEN_TIMEOUT, Session, SessionEnd, is_permanent,
};
use crate::draws::Draws;
use crate::{ClientError, SampledBatch, SamplerConfig, metrics};

/// How often a shard among several is asked how it is, also while it gives no batches.
const REPORT_PERIOD: Duration = Duration::from_millis(500);

pub(crate) struct SamplerSession {
    client: ReplayClient<Channel>,
    open: v1::OpenSampler,
    signature: Signature,
    /// Of a batch.
    shape: BatchShape,
    /// Places in the queue, all told.
    places: usize,
    draws: Arc<Draws>,
    shard: usize,
    /// Batches demanded and not received; demanded again on the next connection.
    asked: u32,
    /// Of a batch that is not whole yet.
    parts: SampledParts,
}

impl SamplerSession {
    pub(crate) fn new(
        client: ReplayClient<Channel>,
        config: &SamplerConfig,
        signature: &Signature,
        draws: Arc<Draws>,
        shard: usize,
    ) -> Self {
        let run = identity::get();
        let open = v1::OpenSampler {
            table: config.table.clone(),
            batch_size: config.batch_size as u32,
            signature: Some(signature_to_wire(signature)),
            sequence_length: config.sequence_length as u32,
            blocked_after_ms: config.blocked_timeout().as_millis() as u64,
            compression: config.compression.to_wire().into(),
            owner: run.run,
            owner_id: run.run_uid,
            // Large enough to cost little, small enough to be cheap to hold; a step has to fit.
            max_part_bytes: STOCK_MESSAGE_BYTES.max(least_part_bytes(signature)) as u32,
        };
        Self {
            client,
            open,
            signature: signature.clone(),
            shape: BatchShape {
                items: config.batch_size,
                sequence_length: config.sequence_length,
                ragged: config.ragged,
            },
            places: config.prefetch_batches,
            draws,
            shard,
            asked: 0,
            parts: SampledParts::default(),
        }
    }

    async fn serve(&mut self, connection: &mut Connection) -> Result<(), SessionEnd> {
        self.parts = SampledParts::default();
        // Every credit becomes at most one request, so neither `open` nor a demand waits for room.
        let (requests, stream) = mpsc::channel(self.places + 2);
        let send = |request| {
            let request = Some(request);
            // Fails only where the connection is lost; the responses then say why.
            drop(requests.try_send(v1::SampleRequest { request }));
        };
        let demand = |batches| sample_request::Request::Demand(v1::Demand { batches });
        send(sample_request::Request::Open(self.open.clone()));
        if self.asked > 0 {
            send(demand(self.asked));
        }
        let opening = self.client.sample(ReceiverStream::new(stream));
        let mut responses = tokio::time::timeout(OPEN_TIMEOUT, opening)
            .await
            .map_err(|_| Status::unavailable("no answer to `open`"))??
            .into_inner();
        let (draws, shard) = (Arc::clone(&self.draws), self.shard);
        draws.open(shard, true);
        let mut reports = std::pin::pin!(watch(
            self.client.clone(),
            self.open.table.clone(),
            Arc::clone(&draws),
            shard
        ));
        loop {
            tokio::select! {
                response = responses.message() => match response? {
                    Some(response) => {
                        connection.opened();
                        match response.response {
                            Some(Response::Part(part)) => {
                                self.deliver(part).map_err(SessionEnd::Protocol)?;
                            }
                            Some(Response::Blocked(blocked)) => {
                                connection.blocked(&blocked.message);
                                draws.blocked(shard, &blocked.message);
                            }
                            // An answer of a later version.
                            None => {}
                        }
                    }
                    None => return Ok(()),
                },
                () = draws.place(shard) => {
                    self.asked += 1;
                    send(demand(1));
                }
                () = &mut reports, if draws.shards() > 1 => {}
            }
        }
    }

    fn deliver(&mut self, part: v1::BatchPart) -> Result<(), String> {
        let trace = trace_from_wire(&part.traceparent);
        let batch = self
            .parts
            .push(&self.signature, self.shape, part)
            .map_err(|error| error.to_string())?;
        let Some(batch) = batch else { return Ok(()) };
        self.asked = self
            .asked
            .checked_sub(1)
            .ok_or("a batch that was not asked for")?;
        let batch = SampledBatch::new(batch, self.shard, trace);
        self.draws.deliver(self.shard, batch);
        Ok(())
    }
}

impl Session for SamplerSession {
    async fn run(&mut self, connection: &mut Connection) -> SessionEnd {
        match self.serve(connection).await {
            Ok(()) => SessionEnd::hung_up(),
            Err(end) => end,
        }
    }

    fn failed(&mut self) {
        self.draws.open(self.shard, false);
    }
}

/// Keeps up to date what is known of a shard while it answers; never returns.
async fn watch(mut client: ReplayClient<Channel>, table: String, draws: Arc<Draws>, shard: usize) {
    let mut ticks = tokio::time::interval(REPORT_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut request = Request::new(v1::ListTablesRequest {});
        request.set_timeout(CALL_TIMEOUT);
        match client.list_tables(request).await {
            Ok(response) => {
                let tables = response.into_inner().tables;
                let named =
                    |info: &v1::TableInfo| info.config.as_ref().is_some_and(|c| c.name == table);
                let Some(info) = tables.into_iter().find(named) else {
                    continue;
                };
                // Other callers than samplers wait for samples.
                let held = info
                    .blocked
                    .iter()
                    .any(|blocked| blocked.reason() != v1::BlockedReason::Samples);
                if let Ok(counters) = counters_from_wire(info.counters) {
                    draws.report(shard, counters.size, held);
                }
            }
            // The stream of batches, on the same connection, deals with it.
            Err(error) => tracing::debug!(%error, "no answer of the replay service"),
        }
    }
}

/// New priorities on their way to a shard.
pub(crate) struct PriorityUpdate {
    pub(crate) keys: Vec<u64>,
    pub(crate) priorities: Vec<f64>,
}

/// Passes priorities to a shard until it refuses them for good. An update that cannot be delivered is
/// dropped and counted: the items keep priorities that were right a little earlier.
pub(crate) async fn pass_priorities(
    mut client: ReplayClient<Channel>,
    table: String,
    mut updates: mpsc::Receiver<PriorityUpdate>,
    shutdown: CancellationToken,
) -> ClientError {
    loop {
        let update = tokio::select! {
            update = updates.recv() => update,
            () = shutdown.cancelled() => None,
        };
        let Some(PriorityUpdate { keys, priorities }) = update else {
            return ClientError::Shutdown;
        };
        let mut request = Request::new(v1::UpdatePrioritiesRequest {
            table: table.clone(),
            keys,
            priorities,
        });
        request.set_timeout(CALL_TIMEOUT);
        if let Err(status) = client.update_priorities(request).await {
            if is_permanent(status.code()) {
                return ClientError::refused(&status);
            }
            counter!(metrics::DROPPED_PRIORITY_UPDATES).increment(1);
            tracing::debug!(%status, "an update of priorities was dropped");
        }
    }
}
