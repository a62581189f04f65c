//! A sampler's stream.

use std::sync::Arc;

use pmpo_proto::replay::v1::{self, Compression, sample_request, sample_response};
use pmpo_proto::{
    BatchShape, MAX_BATCH_BYTES, MAX_MESSAGE_BYTES, STOCK_MESSAGE_BYTES, WireError, compress,
    least_part_bytes, sampled_to_wire, signature_from_wire, trace_to_wire,
};
use pmpo_replay_core::Error;
use pmpo_service::traces::{self, Kind};
use pmpo_types::Signature;
use tokio::sync::mpsc::Sender;
use tonic::{Status, Streaming};

use super::{
    Border, TAKING_TIMEOUT, length_from_wire, reminder_from_wire, respond, too_slow, unexpected,
};
use crate::budget::Share;
use crate::error::status;
use crate::service::Stream;
use crate::table::{Call, Drawn, ItemKind, Progress, Reminder, TableHandle};
use crate::wire::blocked_to_wire;

/// A sampler's stream.
pub(crate) struct Sample {
    border: Border,
    requests: Streaming<v1::SampleRequest>,
    opened: Option<Sampler>,
    reminder: Option<Reminder>,
}

/// What a sampler's stream was opened for.
#[derive(Clone)]
struct Sampler {
    table: TableHandle,
    signature: Arc<Signature>,
    shape: BatchShape,
    compression: Compression,
    part_bytes: usize,
}

impl Sample {
    pub(crate) fn new(border: Border, requests: Streaming<v1::SampleRequest>) -> Self {
        Self {
            border,
            requests,
            opened: None,
            reminder: None,
        }
    }

    async fn open(&mut self, request: v1::SampleRequest) -> Result<Sampler, Status> {
        let open = match request.request {
            Some(sample_request::Request::Open(open)) => open,
            Some(sample_request::Request::Demand(_)) => {
                return Err(unexpected("`open`", "`demand`"));
            }
            None => return Err(unexpected("`open`", "nothing")),
        };
        self.border
            .tables
            .run()
            .check(&open.owner, &open.owner_id)?;
        let table = self.border.tables.named(&open.table)?;
        let signature = signature_from_wire(open.signature)?;
        let compression = Compression::try_from(open.compression).map_err(|unknown| {
            let got = format!("compression {}", unknown.0);
            WireError::field("compression", "none, lz4 or zstd", got)
        })?;
        let (batch_size, sequence_length) = (
            open.batch_size as usize,
            length_from_wire(open.sequence_length),
        );
        let part_bytes = part_bytes_from_wire(open.max_part_bytes, &signature)?;
        let item_bytes = signature.item_bytes().saturating_mul(sequence_length);
        let room = table.budget().samples.bytes();
        let bytes = MAX_BATCH_BYTES.min(usize::try_from(room).unwrap_or(usize::MAX));
        let most = bytes / item_bytes;
        if batch_size > most {
            let expected = format!("at most {most}, as many as fit {bytes} bytes");
            return Err(WireError::field("batch_size", expected, batch_size).into());
        }
        let sampler = Sampler {
            table,
            signature: Arc::new(signature.clone()),
            shape: BatchShape {
                items: batch_size,
                sequence_length,
                // The table says so of each batch.
                ragged: false,
            },
            compression,
            part_bytes,
        };
        self.reminder = reminder_from_wire(open.blocked_after_ms);
        self.opened = Some(sampler.clone());
        let kind = ItemKind {
            signature,
            sequence_length,
        };
        sampler.table.open_sampler(batch_size, kind).await?;
        self.border
            .tables
            .run()
            .claim(&open.owner, &open.owner_id)?;
        Ok(sampler)
    }
}

impl Stream<v1::SampleResponse> for Sample {
    /// Reads demand while a batch is being drawn, so the batch in hand is kept across messages. A client
    /// that has no more to say gets what it has demanded.
    async fn serve(
        &mut self,
        responses: &Sender<Result<v1::SampleResponse, Status>>,
    ) -> Result<(), Status> {
        let Some(first) = self.border.first(&mut self.requests).await? else {
            return Ok(());
        };
        let sampler = self.open(first).await?;
        let mut demand = 0u64;
        let mut listening = true;
        let mut drawing: Option<(Call<Result<Drawn, Error>>, Share)> = None;
        // Of the batch before, until its last part is on its way.
        let mut sent: Option<Share> = None;
        loop {
            if demand > 0 && drawing.is_none() {
                demand -= 1;
                let share = match sampler.room() {
                    Some(share) => share,
                    None => {
                        on_its_way(responses).await;
                        sent = None;
                        sampler.wait_for_room().await?
                    }
                };
                drawing = Some((sampler.draw().await?, share));
            }
            if !listening && drawing.is_none() {
                return Ok(());
            }
            let drawn = async {
                match &mut drawing {
                    Some((call, _)) => call.progress(&mut self.reminder).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                request = self.requests.message(), if listening => match request? {
                    Some(request) => demand = demand.saturating_add(demanded(request)?),
                    None => listening = false,
                },
                () = on_its_way(responses), if sent.is_some() => sent = None,
                progress = drawn => match progress? {
                    Progress::Blocked(blocked) => {
                        let blocked = blocked_to_wire(sampler.table.name(), &blocked);
                        respond(responses, response(sample_response::Response::Blocked(blocked))).await?;
                    }
                    Progress::Done(drawn) => {
                        let drawn = drawn.map_err(|error| status(&error))?;
                        let sending = tokio::time::timeout(TAKING_TIMEOUT, sampler.send(drawn, responses));
                        sending.await.unwrap_or_else(|_| Err(too_slow("a batch was not taken")))?;
                        sent = drawing.take().map(|(_, share)| share);
                    }
                },
            }
        }
    }

    async fn leave(&self) {
        if let Some(sampler) = &self.opened {
            sampler.table.left(None).await;
        }
    }
}

impl Sampler {
    /// Bytes of a batch.
    fn bytes(&self) -> u64 {
        (self.shape.items * self.shape.sequence_length * self.signature.item_bytes()) as u64
    }

    /// Memory for a batch, if there is some.
    fn room(&self) -> Option<Share> {
        self.table.budget().samples.try_take(self.bytes())
    }

    /// Memory for a batch, once there is some.
    async fn wait_for_room(&self) -> Result<Share, Status> {
        let pool = self.table.budget().samples.clone();
        let share = pool.take(self.bytes()).await;
        share.ok_or_else(|| Status::internal("a batch beyond the budget"))
    }

    /// Asks for a batch.
    async fn draw(&self) -> Result<Call<Result<Drawn, Error>>, Status> {
        self.table.sample(self.shape.items, &self.signature).await
    }

    /// Sends a batch in its parts.
    async fn send(
        &self,
        drawn: Drawn,
        responses: &Sender<Result<v1::SampleResponse, Status>>,
    ) -> Result<(), Status> {
        let Drawn { batch, traces } = drawn;
        let span = traces::joined("sample batch", Kind::Producer, &traces);
        let parts = sampled_to_wire(&self.signature, self.shape, batch, self.part_bytes);
        let mut parts = self.compressed(parts).await?;
        if let (Some(span), Some(last)) = (&span, parts.last_mut()) {
            last.traceparent = trace_to_wire(Some(span.context()));
        }
        for part in parts {
            respond(responses, response(sample_response::Response::Part(part))).await?;
        }
        Ok(())
    }

    /// The parts compressed as was asked for, away from the runtime's workers.
    async fn compressed(
        &self,
        mut parts: Vec<v1::BatchPart>,
    ) -> Result<Vec<v1::BatchPart>, Status> {
        let compression = self.compression;
        if compression == Compression::None {
            return Ok(parts);
        }
        let compressed = tokio::task::spawn_blocking(move || {
            for part in &mut parts {
                compress(&mut part.columns, compression);
            }
            parts
        });
        compressed
            .await
            .map_err(|_| Status::internal("compressing a batch"))
    }
}

/// Waits until nothing is left of what was to be sent but what HTTP/2 has taken, or the client is gone.
async fn on_its_way<T>(responses: &Sender<Result<T, Status>>) {
    drop(responses.reserve().await);
}

fn response(response: sample_response::Response) -> v1::SampleResponse {
    v1::SampleResponse {
        response: Some(response),
    }
}

/// The largest message that a sampler takes, which must hold a step.
fn part_bytes_from_wire(max_part_bytes: u32, signature: &Signature) -> Result<usize, Status> {
    let part_bytes = match max_part_bytes {
        0 => STOCK_MESSAGE_BYTES,
        stated => stated as usize,
    };
    let least = least_part_bytes(signature);
    if (least..=MAX_MESSAGE_BYTES).contains(&part_bytes) {
        return Ok(part_bytes);
    }
    let expected = format!("{least}, which hold a step, to {MAX_MESSAGE_BYTES}");
    Err(WireError::field("max_part_bytes", expected, part_bytes).into())
}

fn demanded(request: v1::SampleRequest) -> Result<u64, Status> {
    match request.request {
        Some(sample_request::Request::Demand(v1::Demand { batches })) => Ok(batches.into()),
        Some(sample_request::Request::Open(_)) => Err(unexpected("`demand`", "`open`")),
        None => Err(unexpected("`demand`", "nothing")),
    }
}
