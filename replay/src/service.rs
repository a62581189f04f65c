//! The gRPC service: gives every stream its task, and answers what needs none.

use std::sync::Arc;
use std::time::Instant;

use ::metrics::gauge;
use pmpo_proto::replay::v1::{self, replay_server};
use pmpo_proto::{WireError, counters_to_wire, writer_id_to_wire};
use pmpo_service::sparse::Sparse;
use pmpo_types::check_priorities;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::disk::Copied;
use crate::error::{refusal, shutting_down};
use crate::metered::Account;
use crate::metrics;
use crate::streams::{Border, Insert, Sample};
use crate::wire::{changes_from_wire, config_from_wire, table_to_wire};

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
            refusal(Code::ResourceExhausted, "TOO_MANY_STREAMS", message)
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
        let account = request.extensions().get::<Account>().cloned();
        let insert = Insert::new(
            self.border.clone(),
            account.unwrap_or_default(),
            request.into_inner(),
        );
        self.serve(responses, insert)?;
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
        let table = self.border.tables.named(&table)?;
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
        let mut tables = Vec::new();
        for table in self.border.tables.all() {
            tables.push(table_to_wire(table.describe().await?));
        }
        Ok(Response::new(v1::ListTablesResponse { tables }))
    }

    async fn list_writers(
        &self,
        request: Request<v1::ListWritersRequest>,
    ) -> Result<Response<v1::ListWritersResponse>, Status> {
        let table = self.border.tables.named(&request.into_inner().table)?;
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

    async fn delete_items(
        &self,
        request: Request<v1::DeleteItemsRequest>,
    ) -> Result<Response<v1::DeleteItemsResponse>, Status> {
        let v1::DeleteItemsRequest { table, keys } = request.into_inner();
        let (deleted, missing) = self.border.tables.named(&table)?.delete(keys).await?;
        Ok(Response::new(v1::DeleteItemsResponse { deleted, missing }))
    }

    async fn reset_table(
        &self,
        request: Request<v1::ResetTableRequest>,
    ) -> Result<Response<v1::ResetTableResponse>, Status> {
        let table = self.border.tables.named(&request.into_inner().table)?;
        let description = table.reset().await?;
        Ok(Response::new(v1::ResetTableResponse {
            table: Some(table_to_wire(description)),
        }))
    }

    async fn configure_table(
        &self,
        request: Request<v1::ConfigureTableRequest>,
    ) -> Result<Response<v1::ConfigureTableResponse>, Status> {
        let (table, changes) = changes_from_wire(request.into_inner());
        let description = self.border.tables.named(&table)?.configure(changes).await?;
        Ok(Response::new(v1::ConfigureTableResponse {
            table: Some(table_to_wire(description)),
        }))
    }

    async fn create_table(
        &self,
        request: Request<v1::CreateTableRequest>,
    ) -> Result<Response<v1::CreateTableResponse>, Status> {
        let config = config_from_wire(request.into_inner().config)?;
        let description = self.border.tables.create(config).await?;
        Ok(Response::new(v1::CreateTableResponse {
            table: Some(table_to_wire(description)),
        }))
    }

    async fn checkpoint(
        &self,
        request: Request<v1::CheckpointRequest>,
    ) -> Result<Response<v1::CheckpointResponse>, Status> {
        let keep = request.into_inner().keep as usize;
        let (path, tables) = self.border.tables.checkpoint(keep).await?;
        let copied = |(table, Copied { counters, bytes })| v1::CopiedTable {
            table,
            counters: Some(counters_to_wire(counters)),
            bytes,
        };
        Ok(Response::new(v1::CheckpointResponse {
            path: path.to_string_lossy().into_owned(),
            tables: tables.into_iter().map(copied).collect(),
        }))
    }
}
