//! The two kinds of streams. Everything is checked here, before the table sees it.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use pmpo_proto::v1::{self, Compression, insert_request, sample_request};
use pmpo_proto::{
    MAX_BATCH_BYTES, MAX_MESSAGE_BYTES, SAMPLE_PART_BYTES, WireError, compress, sampled_to_wire,
    signature_from_wire, steps_from_wire, trace_to_wire, writer_id_from_wire,
};
use pmpo_service::traces::{self, Kind};
use pmpo_types::{SampledBatch, Signature};
use tokio::sync::mpsc::Sender;
use tonic::{Status, Streaming};

use crate::run_name::RunName;
use crate::service::Stream;
use crate::table::{Drawn, ItemKind, TableHandle, WriterSession};

/// Messages of a writer that are on their way into the table at a time: enough that the next are read
/// while some go to the disk together, and few enough that a writer which the limiter holds back takes
/// little memory. Beyond the first few they count by their bytes.
const INSERTS_AT_ONCE: usize = 12;
const FEW_INSERTS: usize = 4;
const BYTES_AT_ONCE: usize = 1 << 20;

/// What every stream needs: the tables, whose they are, and how long to wait for the first message.
#[derive(Clone)]
pub(crate) struct Border {
    pub(crate) tables: Arc<BTreeMap<String, TableHandle>>,
    pub(crate) run: RunName,
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

    pub(crate) fn table(&self, name: &str) -> Result<&TableHandle, Status> {
        self.tables.get(name).ok_or_else(|| {
            let names: Vec<String> = self.tables.keys().map(|name| format!("`{name}`")).collect();
            let names = names.join(" or ");
            Status::not_found(format!("table: expected {names}, got `{name}`"))
        })
    }
}

/// Steps of an item; absent on the wire where it is one.
fn length_from_wire(sequence_length: u32) -> usize {
    sequence_length.max(1) as usize
}

fn timeout_from_wire(timeout_ms: u64) -> Option<Duration> {
    (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms))
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

/// A message on its way into the table.
struct Pending {
    bytes: usize,
    /// The number of the step that comes next, once the message is stored.
    answer: Pin<Box<dyn Future<Output = Result<u64, Status>> + Send>>,
}

fn has_room(queue: &VecDeque<Pending>) -> bool {
    let bytes: usize = queue.iter().map(|pending| pending.bytes).sum();
    queue.len() < FEW_INSERTS || (queue.len() < INSERTS_AT_ONCE && bytes < BYTES_AT_ONCE)
}

/// The answer of the first in the queue, if it is there; takes it out.
async fn ready(queue: &mut VecDeque<Pending>) -> Option<Result<u64, Status>> {
    let first = queue.front_mut()?;
    let answer = poll_fn(|context| Poll::Ready(first.answer.as_mut().poll(context))).await;
    match answer {
        Poll::Ready(answer) => {
            queue.pop_front();
            Some(answer)
        }
        Poll::Pending => None,
    }
}

/// A writer's stream.
pub(crate) struct Insert {
    border: Border,
    requests: Streaming<v1::InsertRequest>,
    opened: Option<Writer>,
}

/// What a writer's stream was opened for.
#[derive(Clone)]
struct Writer {
    table: TableHandle,
    session: WriterSession,
    signature: Arc<Signature>,
    sequence_length: usize,
    timeout: Option<Duration>,
}

impl Insert {
    pub(crate) fn new(border: Border, requests: Streaming<v1::InsertRequest>) -> Self {
        Self {
            border,
            requests,
            opened: None,
        }
    }

    async fn open(&mut self, request: v1::InsertRequest) -> Result<(Writer, u64), Status> {
        let open = match request.request {
            Some(insert_request::Request::Open(open)) => open,
            Some(insert_request::Request::Items(_)) => return Err(unexpected("`open`", "`items`")),
            None => return Err(unexpected("`open`", "nothing")),
        };
        self.border.run.check(&open.run, &open.run_uid)?;
        let table = self.border.table(&open.table)?.clone();
        let id = writer_id_from_wire(&open.writer_id)?;
        let signature = signature_from_wire(open.signature)?;
        let sequence_length = length_from_wire(open.sequence_length);
        let writer = Writer {
            session: table.new_session(id),
            table,
            signature: Arc::new(signature.clone()),
            sequence_length,
            timeout: timeout_from_wire(open.timeout_ms),
        };
        self.opened = Some(writer.clone());
        let kind = ItemKind {
            signature,
            sequence_length,
        };
        let next_sequence = writer.table.open_writer(writer.session, kind).await?;
        self.border.run.claim(&open.run, &open.run_uid)?;
        Ok((writer, next_sequence))
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
        let (writer, next_sequence) = self.open(first).await?;
        respond(responses, v1::InsertResponse { next_sequence }).await?;
        let mut stored = VecDeque::new();
        // How the client's part ends: it has no more to say, or has said what cannot be.
        let mut ended = None;
        while ended.is_none() || !stored.is_empty() {
            let reads = ended.is_none() && has_room(&stored);
            let oldest = async {
                match stored.front_mut() {
                    Some(stored) => stored.answer.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                next_sequence = oldest => {
                    stored.pop_front();
                    let mut next_sequence = next_sequence?;
                    // One answer acknowledges all that is stored by now.
                    let mut refused = Ok(());
                    while refused.is_ok() && let Some(answer) = ready(&mut stored).await {
                        match answer {
                            Ok(later) => next_sequence = later,
                            Err(status) => refused = Err(status),
                        }
                    }
                    respond(responses, v1::InsertResponse { next_sequence }).await?;
                    refused?;
                }
                request = self.requests.message(), if reads => {
                    let handed_over = match request {
                        Ok(Some(request)) => writer.insert(request).await.map(Some),
                        Ok(None) => Ok(None),
                        Err(status) => Err(status),
                    };
                    match handed_over {
                        Ok(Some(pending)) => stored.push_back(pending),
                        Ok(None) => ended = Some(Ok(())),
                        Err(status) => ended = Some(Err(status)),
                    }
                }
            }
        }
        ended.unwrap_or(Ok(()))
    }

    async fn leave(&self) {
        if let Some(writer) = &self.opened {
            writer.table.left(Some(writer.session)).await;
        }
    }
}

impl Writer {
    /// Checks the items of a message and hands them over.
    async fn insert(&self, request: v1::InsertRequest) -> Result<Pending, Status> {
        let items = match request.request {
            Some(insert_request::Request::Items(items)) => items,
            Some(insert_request::Request::Open(_)) => return Err(unexpected("`items`", "`open`")),
            None => return Err(unexpected("`items`", "nothing")),
        };
        let first_sequence = items.first_sequence;
        let batch = steps_from_wire(
            &self.signature,
            self.sequence_length,
            items,
            MAX_MESSAGE_BYTES,
        )?;
        let bytes = batch.steps().len() * self.signature.item_bytes();
        let span = batch
            .trace()
            .and_then(|trace| traces::child("store batch", Kind::Server, trace));
        let batch = match &span {
            Some(span) => batch.with_trace(Some(span.context())),
            None => batch,
        };
        let stored = self
            .table
            .insert(self.session, first_sequence, batch, self.timeout)
            .await?;
        let answer = async move {
            let next_sequence = stored.await;
            drop(span);
            next_sequence
        };
        let answer = Box::pin(answer);
        Ok(Pending { bytes, answer })
    }
}

/// A sampler's stream.
pub(crate) struct Sample {
    border: Border,
    requests: Streaming<v1::SampleRequest>,
    opened: Option<Sampler>,
}

/// What a sampler's stream was opened for.
#[derive(Clone)]
struct Sampler {
    table: TableHandle,
    signature: Arc<Signature>,
    batch_size: usize,
    timeout: Option<Duration>,
    compression: Compression,
}

impl Sample {
    pub(crate) fn new(border: Border, requests: Streaming<v1::SampleRequest>) -> Self {
        Self {
            border,
            requests,
            opened: None,
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
        self.border.run.check(&open.run, &open.run_uid)?;
        let table = self.border.table(&open.table)?.clone();
        let signature = signature_from_wire(open.signature)?;
        let compression = Compression::try_from(open.compression).map_err(|unknown| {
            let got = format!("compression {}", unknown.0);
            WireError::field("compression", "none, lz4 or zstd", got)
        })?;
        let (batch_size, sequence_length) = (
            open.batch_size as usize,
            length_from_wire(open.sequence_length),
        );
        let item_bytes = signature.item_bytes().saturating_mul(sequence_length);
        let most = MAX_BATCH_BYTES / item_bytes;
        if batch_size > most {
            let expected = format!("at most {most}, as many as fit {MAX_BATCH_BYTES} bytes");
            return Err(WireError::field("batch_size", expected, batch_size).into());
        }
        let sampler = Sampler {
            table,
            signature: Arc::new(signature.clone()),
            batch_size,
            timeout: timeout_from_wire(open.timeout_ms),
            compression,
        };
        self.opened = Some(sampler.clone());
        let kind = ItemKind {
            signature,
            sequence_length,
        };
        sampler.table.open_sampler(batch_size, kind).await?;
        self.border.run.claim(&open.run, &open.run_uid)?;
        Ok(sampler)
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
        let sampler = self.open(first).await?;
        let mut demand = 0u64;
        let mut drawing: Option<Pin<Box<dyn Future<Output = _> + Send>>> = None;
        loop {
            if demand > 0 && drawing.is_none() {
                demand -= 1;
                let (table, timeout) = (sampler.table.clone(), sampler.timeout);
                let batch_size = sampler.batch_size;
                drawing = Some(Box::pin(
                    async move { table.sample(batch_size, timeout).await },
                ));
            }
            let drawn = async {
                match &mut drawing {
                    Some(drawing) => drawing.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => demand = demand.saturating_add(demanded(request)?),
                    None => return Ok(()),
                },
                batch = drawn => {
                    drawing = None;
                    let Drawn { batch, traces } = batch?;
                    let span = traces::joined("sample batch", Kind::Producer, &traces);
                    let mut parts = sampler.parts(batch).await?;
                    if let (Some(span), Some(last)) = (&span, parts.last_mut()) {
                        last.traceparent = trace_to_wire(Some(span.context()));
                    }
                    for part in parts {
                        respond(responses, part).await?;
                    }
                }
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
    /// The parts in which a batch leaves, compressed as was asked for away from the runtime's workers.
    async fn parts(&self, batch: SampledBatch) -> Result<Vec<v1::SampleResponse>, Status> {
        let mut parts = sampled_to_wire(&self.signature, batch, SAMPLE_PART_BYTES);
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

fn demanded(request: v1::SampleRequest) -> Result<u64, Status> {
    match request.request {
        Some(sample_request::Request::Demand(v1::Demand { batches })) => Ok(batches.into()),
        Some(sample_request::Request::Open(_)) => Err(unexpected("`demand`", "`open`")),
        None => Err(unexpected("`demand`", "nothing")),
    }
}
