//! The two kinds of streams. Everything is checked here, before the table sees it.

use std::time::Duration;

use pmpo_proto::v1::{self, insert_request, sample_request};
use pmpo_proto::{
    MAX_BATCH_BYTES, MAX_MESSAGE_BYTES, SAMPLE_PART_BYTES, WireError, batch_from_wire,
    sampled_to_wire, signature_from_wire, writer_id_from_wire,
};
use pmpo_types::{SampledBatch, Signature};
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use tonic::{Status, Streaming};

use crate::error::shutting_down;
use crate::service::Stream;
use crate::table::{TableHandle, WriterSession};

/// What every stream needs: the table, and how long to wait for the first message.
pub(crate) struct Border {
    pub(crate) table: TableHandle,
    pub(crate) open_timeout: Duration,
}

impl Border {
    /// The stream's first message; `None` if the client has nothing to say at all.
    async fn first<T>(&self, requests: &mut Streaming<T>) -> Result<Option<T>, Status> {
        let timeout = self.open_timeout;
        tokio::time::timeout(timeout, requests.message())
            .await
            .unwrap_or_else(|_| {
                let message = format!("request: expected `open` within {timeout:?}, got nothing");
                Err(Status::deadline_exceeded(message))
            })
    }

    fn check_table(&self, name: &str) -> Result<(), Status> {
        let own = self.table.name();
        if name == own {
            return Ok(());
        }
        Err(Status::not_found(format!(
            "table: expected `{own}`, got `{name}`"
        )))
    }
}

/// Another kind of message than the conversation is at.
fn unexpected(expected: &str, got: &str) -> Status {
    WireError::field("request", expected, got).into()
}

/// Sending fails only when the client is gone, which ends the task anyway.
async fn respond<T>(responses: &Sender<Result<T, Status>>, response: T) -> Result<(), Status> {
    responses
        .send(Ok(response))
        .await
        .map_err(|_| Status::cancelled("the client is gone"))
}

/// A writer's stream.
pub(crate) struct Insert {
    border: Border,
    requests: Streaming<v1::InsertRequest>,
    session: Option<WriterSession>,
}

impl Insert {
    pub(crate) fn new(border: Border, requests: Streaming<v1::InsertRequest>) -> Self {
        Self {
            border,
            requests,
            session: None,
        }
    }

    async fn open(&mut self, request: v1::InsertRequest) -> Result<(Signature, u64), Status> {
        let v1::OpenWriter {
            table,
            writer_id,
            signature,
            ..
        } = match request.request {
            Some(insert_request::Request::Open(open)) => open,
            Some(insert_request::Request::Items(_)) => return Err(unexpected("`open`", "`items`")),
            None => return Err(unexpected("`open`", "nothing")),
        };
        self.border.check_table(&table)?;
        let writer = writer_id_from_wire(&writer_id)?;
        let signature = signature_from_wire(signature)?;
        let session = self.border.table.new_session(writer);
        self.session = Some(session);
        let next_sequence = self
            .border
            .table
            .open_writer(session, signature.clone())
            .await?;
        Ok((signature, next_sequence))
    }
}

impl Stream<v1::InsertResponse> for Insert {
    async fn serve(
        &mut self,
        responses: &Sender<Result<v1::InsertResponse, Status>>,
    ) -> Result<(), Status> {
        let Some(first) = self.border.first(&mut self.requests).await? else {
            return Ok(());
        };
        let (signature, next_sequence) = self.open(first).await?;
        let session = self.session.expect("opening has set it");
        respond(responses, v1::InsertResponse { next_sequence }).await?;
        while let Some(request) = self.requests.message().await? {
            let v1::Items {
                first_sequence,
                columns,
                ..
            } = match request.request {
                Some(insert_request::Request::Items(items)) => items,
                Some(insert_request::Request::Open(_)) => {
                    return Err(unexpected("`items`", "`open`"));
                }
                None => return Err(unexpected("`items`", "nothing")),
            };
            let batch = batch_from_wire(&signature, columns, MAX_MESSAGE_BYTES)?;
            let next_sequence = self
                .border
                .table
                .insert(session, first_sequence, batch)
                .await?;
            respond(responses, v1::InsertResponse { next_sequence }).await?;
        }
        Ok(())
    }

    async fn leave(&self) {
        self.border.table.left(self.session).await;
    }
}

/// A sampler's stream.
pub(crate) struct Sample {
    border: Border,
    requests: Streaming<v1::SampleRequest>,
}

impl Sample {
    pub(crate) fn new(border: Border, requests: Streaming<v1::SampleRequest>) -> Self {
        Self { border, requests }
    }

    async fn open(&self, request: v1::SampleRequest) -> Result<(Signature, usize), Status> {
        let v1::OpenSampler {
            table,
            batch_size,
            signature,
            ..
        } = match request.request {
            Some(sample_request::Request::Open(open)) => open,
            Some(sample_request::Request::Demand(_)) => {
                return Err(unexpected("`open`", "`demand`"));
            }
            None => return Err(unexpected("`open`", "nothing")),
        };
        self.border.check_table(&table)?;
        let signature = signature_from_wire(signature)?;
        let batch_size = batch_size as usize;
        let most = MAX_BATCH_BYTES / signature.item_bytes();
        if batch_size > most {
            let expected = format!("at most {most}, as many as fit a message");
            return Err(WireError::field("batch_size", expected, batch_size).into());
        }
        self.border
            .table
            .open_sampler(batch_size, signature.clone())
            .await?;
        Ok((signature, batch_size))
    }
}

impl Stream<v1::SampleResponse> for Sample {
    /// Reads demand while a batch is being drawn, so the batch in hand is kept across messages.
    async fn serve(
        &mut self,
        responses: &Sender<Result<v1::SampleResponse, Status>>,
    ) -> Result<(), Status> {
        let Some(first) = self.border.first(&mut self.requests).await? else {
            return Ok(());
        };
        let (signature, batch_size) = self.open(first).await?;
        let mut demand = 0u64;
        let mut drawing: Option<oneshot::Receiver<SampledBatch>> = None;
        loop {
            if demand > 0 && drawing.is_none() {
                demand -= 1;
                drawing = Some(self.border.table.sample(batch_size).await?);
            }
            let drawn = async {
                match &mut drawing {
                    Some(batch) => batch.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => demand = demand.saturating_add(demanded(request)?),
                    None => return Ok(()),
                },
                batch = drawn => {
                    let batch = batch.map_err(|_| shutting_down())?;
                    drawing = None;
                    for part in sampled_to_wire(&signature, batch, SAMPLE_PART_BYTES) {
                        respond(responses, part).await?;
                    }
                }
            }
        }
    }

    async fn leave(&self) {
        self.border.table.left(None).await;
    }
}

fn demanded(request: v1::SampleRequest) -> Result<u64, Status> {
    match request.request {
        Some(sample_request::Request::Demand(v1::Demand { batches })) => Ok(batches.into()),
        Some(sample_request::Request::Open(_)) => Err(unexpected("`demand`", "`open`")),
        None => Err(unexpected("`demand`", "nothing")),
    }
}
