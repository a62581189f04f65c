//! The gRPC service: gives every stream its task, and answers what needs none.

use std::sync::Arc;
use std::time::Instant;

use ::metrics::gauge;
use pmpo_proto::v1::{self, replay_server};
use pmpo_proto::{WireError, counters_to_wire, signature_to_wire, writer_id_to_wire};
use pmpo_replay_core::Changes;
use pmpo_service::sparse::Sparse;
use pmpo_types::check_priorities;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::error::{blocked_to_wire, shutting_down};
use crate::metrics;
use crate::streams::{Border, Insert, Sample};
use crate::table::Description;

/// Acknowledgements on their way to a writer.
const INSERT_RESPONSES: usize = 16;
/// Batches on their way to a sampler: one being written, one being drawn.
const SAMPLE_RESPONSES: usize = 1;

pub(crate) struct Service {
    border: Border,
    /// A permit for each stream that may be open.
    streams: Arc<Semaphore>,
    max_streams: usize,
    refused: Arc<Sparse>,
    shutdown: CancellationToken,
}

impl Service {
    pub(crate) fn new(border: Border, max_streams: usize, shutdown: CancellationToken) -> Self {
        Self {
            border,
            streams: Arc::new(Semaphore::new(max_streams)),
            max_streams,
            refused: Arc::default(),
            shutdown,
        }
    }

    /// Runs a stream's task until it is done, the client is gone or the service stops.
    fn serve<T: Send + 'static>(
        &self,
        responses: mpsc::Sender<Result<T, Status>>,
        mut stream: impl Stream<T>,
    ) -> Result<(), Status> {
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let message = format!("max_streams: {} are open, no more fit", self.max_streams);
            Status::resource_exhausted(message)
        })?;
        let (shutdown, refused) = (self.shutdown.clone(), Arc::clone(&self.refused));
        gauge!(metrics::OPEN_STREAMS).increment(1.0);
        tokio::spawn(async move {
            let served = tokio::select! {
                served = stream.serve(&responses) => served,
                () = responses.closed() => Ok(()),
                () = shutdown.cancelled() => Err(shutting_down()),
            };
            stream.leave().await;
            drop(permit);
            gauge!(metrics::OPEN_STREAMS).decrement(1.0);
            if let Err(status) = served {
                note(status.code(), &refused);
                // Nobody is left to tell where this fails.
                drop(responses.send(Err(status)).await);
            }
        });
        Ok(())
    }
}

/// One stream's part of the conversation.
pub(crate) trait Stream<T>: Send + 'static {
    /// Converses until the client has nothing more to say.
    fn serve(
        &mut self,
        responses: &mpsc::Sender<Result<T, Status>>,
    ) -> impl Future<Output = Result<(), Status>> + Send;

    /// Leaves the table, in whatever state the conversation was.
    fn leave(&self) -> impl Future<Output = ()> + Send;
}

/// Counts a stream that was refused for what it sent, and says so; lost connections are routine. Why it
/// was is for its peer to know and to log: the words are in part the peer's own.
fn note(code: Code, refused: &Sparse) {
    match code {
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Aborted => {
            tracing::debug!(?code, "stream ended");
        }
        _ => {
            ::metrics::counter!(metrics::REFUSED_STREAMS, "code" => format!("{code:?}"))
                .increment(1);
            if let Some(suppressed) = refused.line(Instant::now()) {
                tracing::warn!(?code, suppressed, "stream refused");
            }
        }
    }
}

#[tonic::async_trait]
impl replay_server::Replay for Service {
    type InsertStream = ReceiverStream<Result<v1::InsertResponse, Status>>;
    type SampleStream = ReceiverStream<Result<v1::SampleResponse, Status>>;

    async fn insert(
        &self,
        request: Request<Streaming<v1::InsertRequest>>,
    ) -> Result<Response<Self::InsertStream>, Status> {
        let (responses, stream) = mpsc::channel(INSERT_RESPONSES);
        self.serve(
            responses,
            Insert::new(self.border.clone(), request.into_inner()),
        )?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn sample(
        &self,
        request: Request<Streaming<v1::SampleRequest>>,
    ) -> Result<Response<Self::SampleStream>, Status> {
        let (responses, stream) = mpsc::channel(SAMPLE_RESPONSES);
        self.serve(
            responses,
            Sample::new(self.border.clone(), request.into_inner()),
        )?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn update_priorities(
        &self,
        request: Request<v1::UpdatePrioritiesRequest>,
    ) -> Result<Response<v1::UpdatePrioritiesResponse>, Status> {
        let v1::UpdatePrioritiesRequest {
            table,
            keys,
            priorities,
        } = request.into_inner();
        let table = self.border.table(&table)?;
        if keys.len() != priorities.len() {
            let expected = format!("{}, one for each key", keys.len());
            return Err(WireError::field("priorities", expected, priorities.len()).into());
        }
        check_priorities(&priorities).map_err(WireError::from)?;
        let (updated, missing) = table.update_priorities(keys, priorities).await?;
        Ok(Response::new(v1::UpdatePrioritiesResponse {
            updated,
            missing,
        }))
    }

    async fn list_tables(
        &self,
        _: Request<v1::ListTablesRequest>,
    ) -> Result<Response<v1::ListTablesResponse>, Status> {
        let mut tables = Vec::with_capacity(self.border.tables.len());
        for table in self.border.tables.values() {
            tables.push(table_info(table.describe().await?));
        }
        Ok(Response::new(v1::ListTablesResponse { tables }))
    }

    async fn list_writers(
        &self,
        request: Request<v1::ListWritersRequest>,
    ) -> Result<Response<v1::ListWritersResponse>, Status> {
        let table = self.border.table(&request.into_inner().table)?;
        let (writers, inserts) = table.writers().await?;
        let writer = |(id, next_sequence)| v1::WriterInfo {
            writer_id: writer_id_to_wire(id),
            next_sequence,
        };
        Ok(Response::new(v1::ListWritersResponse {
            writers: writers.into_iter().map(writer).collect(),
            inserts,
        }))
    }

    async fn configure_table(
        &self,
        request: Request<v1::ConfigureTableRequest>,
    ) -> Result<Response<v1::ConfigureTableResponse>, Status> {
        let request = request.into_inner();
        let table = self.border.table(&request.table)?;
        let size = |field: &str, size: Option<u64>| {
            size.map(usize::try_from)
                .transpose()
                .map_err(|_| WireError::field(field, "a size that fits memory", size.unwrap_or(0)))
        };
        let changes = Changes {
            samples_per_insert: request.samples_per_insert,
            min_size_to_sample: size("min_size_to_sample", request.min_size_to_sample)?,
            error_buffer: request.error_buffer,
            max_size: size("max_size", request.max_size)?,
            max_bytes: request.max_bytes,
        };
        let description = table.configure(changes).await?;
        Ok(Response::new(v1::ConfigureTableResponse {
            table: Some(table_info(description)),
        }))
    }
}

fn table_info(description: Description) -> v1::TableInfo {
    let Description {
        config,
        signature,
        counters,
        bytes,
        blocked,
        durable,
    } = description;
    v1::TableInfo {
        error_buffer: config.error_buffer(),
        signature: signature.as_ref().map(signature_to_wire),
        max_size: config.max_size as u64,
        counters: Some(counters_to_wire(counters)),
        samples_per_insert: config.samples_per_insert,
        min_size_to_sample: config.min_size_to_sample as u64,
        max_bytes: config.max_bytes,
        bytes,
        sequence_length: config.sequence_length as u32,
        limiter: config.limiter.as_str().to_owned(),
        sampler: config.sampler.as_str().to_owned(),
        remover: config.remover.as_str().to_owned(),
        max_times_sampled: config.max_times_sampled.into(),
        priority_exponent: config.priority_exponent,
        age_decay: config.age_decay,
        age_floor: config.age_floor,
        blocked: blocked.iter().map(blocked_to_wire).collect(),
        durable,
        name: config.name,
    }
}
