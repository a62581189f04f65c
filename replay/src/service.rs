//! The gRPC service: gives every stream its task, and answers what needs none.

use std::time::Duration;

use pmpo_proto::v1::{self, replay_server};
use pmpo_proto::{counters_to_wire, signature_to_wire};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::error::shutting_down;
use crate::metrics;
use crate::streams::{Border, Insert, Sample};
use crate::table::{Description, TableHandle};

/// Acknowledgements on their way to a writer.
const INSERT_RESPONSES: usize = 16;
/// Batches on their way to a sampler: one being written, one being drawn.
const SAMPLE_RESPONSES: usize = 1;

pub(crate) struct Service {
    table: TableHandle,
    open_timeout: Duration,
    shutdown: CancellationToken,
}

impl Service {
    pub(crate) fn new(
        table: TableHandle,
        open_timeout: Duration,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            table,
            open_timeout,
            shutdown,
        }
    }

    fn border(&self) -> Border {
        Border {
            table: self.table.clone(),
            open_timeout: self.open_timeout,
        }
    }

    /// Runs a stream's task until it is done, the client is gone or the service stops.
    fn serve<T: Send + 'static>(
        &self,
        responses: mpsc::Sender<Result<T, Status>>,
        mut stream: impl Stream<T>,
    ) {
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let served = tokio::select! {
                served = stream.serve(&responses) => served,
                () = responses.closed() => Ok(()),
                () = shutdown.cancelled() => Err(shutting_down()),
            };
            stream.leave().await;
            if let Err(status) = served {
                note(&status);
                // Nobody is left to tell where this fails.
                drop(responses.send(Err(status)).await);
            }
        });
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

/// One line for each stream that was refused for what it sent; lost connections are routine.
fn note(status: &Status) {
    let (code, message) = (status.code(), status.message());
    match code {
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Aborted => {
            tracing::debug!(?code, message, "stream ended");
        }
        _ => {
            ::metrics::counter!(metrics::REFUSED_STREAMS, "code" => format!("{code:?}"))
                .increment(1);
            tracing::warn!(?code, message, "stream refused");
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
        self.serve(responses, Insert::new(self.border(), request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn sample(
        &self,
        request: Request<Streaming<v1::SampleRequest>>,
    ) -> Result<Response<Self::SampleStream>, Status> {
        let (responses, stream) = mpsc::channel(SAMPLE_RESPONSES);
        self.serve(responses, Sample::new(self.border(), request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_tables(
        &self,
        _: Request<v1::ListTablesRequest>,
    ) -> Result<Response<v1::ListTablesResponse>, Status> {
        let Description {
            config,
            signature,
            counters,
        } = self.table.describe().await?;
        let table = v1::TableInfo {
            error_buffer: config.error_buffer(),
            name: config.name,
            signature: signature.as_ref().map(signature_to_wire),
            max_size: config.max_size as u64,
            counters: Some(counters_to_wire(counters)),
            samples_per_insert: config.samples_per_insert,
            min_size_to_sample: config.min_size_to_sample as u64,
            ..v1::TableInfo::default()
        };
        Ok(Response::new(v1::ListTablesResponse {
            tables: vec![table],
        }))
    }

    async fn update_priorities(
        &self,
        _: Request<v1::UpdatePrioritiesRequest>,
    ) -> Result<Response<v1::UpdatePrioritiesResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn configure_table(
        &self,
        _: Request<v1::ConfigureTableRequest>,
    ) -> Result<Response<v1::ConfigureTableResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}
