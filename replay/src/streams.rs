//! The two kinds of streams. Everything is checked here, before the table sees it.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use pmpo_proto::replay::v1::{
    self, Compression, insert_request, insert_response, sample_request, sample_response,
};
use pmpo_proto::{
    BatchShape, MAX_BATCH_BYTES, MAX_MESSAGE_BYTES, STOCK_MESSAGE_BYTES, WireError, compress,
    least_part_bytes, sampled_to_wire, signature_from_wire, steps_from_wire, trace_to_wire,
    writer_id_from_wire,
};
use pmpo_replay_core::Error;
use pmpo_service::traces::{self, Kind, Span};
use pmpo_types::Signature;
use tokio::sync::mpsc::Sender;
use tonic::{Code, Status, Streaming};

use crate::budget::{STREAM_BYTES, Share};
use crate::error::{refusal, status};
use crate::metered::Account;
use crate::run_name::RunName;
use crate::service::Stream;
use crate::table::{Call, Drawn, ItemKind, Progress, TableHandle, WriterSession};
use crate::wire::blocked_to_wire;

/// Messages of a writer that are on their way into the table at a time: enough that the next are read
/// while some go to the disk together, and few enough that a writer which the limiter holds back takes
/// little memory. Beyond the first few they count by their bytes.
const INSERTS_AT_ONCE: usize = 12;
const FEW_INSERTS: usize = 4;
const BYTES_AT_ONCE: usize = 1 << 20;

/// How long a sampler may take to take a batch that it has demanded, and a writer to send a message whole
/// that it has begun.
pub(crate) const TAKING_TIMEOUT: Duration = Duration::from_secs(60);

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
                Err(refusal(Code::DeadlineExceeded, "OPEN_TIMEOUT", message))
            })
    }

    pub(crate) fn table(&self, name: &str) -> Result<&TableHandle, Status> {
        self.tables.get(name).ok_or_else(|| {
            let names: Vec<String> = self.tables.keys().map(|name| format!("`{name}`")).collect();
            let names = names.join(" or ");
            let message = format!("table: expected {names}, got `{name}`");
            refusal(Code::NotFound, "TABLE_NOT_FOUND", message)
        })
    }
}

/// Steps of an item; absent on the wire where it is one.
fn length_from_wire(sequence_length: u32) -> usize {
    sequence_length.max(1) as usize
}

fn period_from_wire(period_ms: u64) -> Option<Duration> {
    (period_ms > 0).then(|| Duration::from_millis(period_ms))
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
    /// Its memory.
    _share: Option<Share>,
    /// Answered with the number of the step that comes next, once the message is stored.
    call: Call<Result<u64, Error>>,
    /// Ends when it is stored.
    _span: Option<Span>,
}

fn has_room(queue: &VecDeque<Pending>) -> bool {
    let bytes: usize = queue.iter().map(|pending| pending.bytes).sum();
    queue.len() < FEW_INSERTS || (queue.len() < INSERTS_AT_ONCE && bytes < BYTES_AT_ONCE)
}

/// What becomes of the oldest message; never, if there is none.
async fn oldest(queue: &mut VecDeque<Pending>) -> Result<Progress<Result<u64, Error>>, Status> {
    match queue.front_mut() {
        Some(first) => first.call.progress().await,
        None => std::future::pending().await,
    }
}

/// The answer of the oldest message, if it is there; takes it out.
async fn ready(queue: &mut VecDeque<Pending>) -> Option<Result<u64, Status>> {
    let first = queue.front_mut()?;
    let answer = poll_fn(|context| Poll::Ready(first.call.poll_answer(context))).await;
    match answer {
        Poll::Ready(answer) => {
            queue.pop_front();
            Some(answer.and_then(|stored| stored.map_err(|error| status(&error))))
        }
        Poll::Pending => None,
    }
}

fn acknowledgement(next_sequence: u64) -> v1::InsertResponse {
    v1::InsertResponse {
        response: Some(insert_response::Response::NextSequence(next_sequence)),
    }
}

/// A writer's stream.
pub(crate) struct Insert {
    border: Border,
    account: Account,
    requests: Streaming<v1::InsertRequest>,
    opened: Option<Writer>,
    /// The memory of the stream beside its messages.
    _place: Option<Share>,
}

/// What a writer's stream was opened for.
#[derive(Clone)]
struct Writer {
    table: TableHandle,
    session: WriterSession,
    signature: Arc<Signature>,
    sequence_length: usize,
    blocked_after: Option<Duration>,
}

impl Insert {
    pub(crate) fn new(
        border: Border,
        account: Account,
        requests: Streaming<v1::InsertRequest>,
    ) -> Self {
        Self {
            border,
            account,
            requests,
            opened: None,
            _place: None,
        }
    }

    async fn open(&mut self, request: v1::InsertRequest) -> Result<(Writer, u64), Status> {
        let open = match request.request {
            Some(insert_request::Request::Open(open)) => open,
            Some(insert_request::Request::Steps(_)) => return Err(unexpected("`open`", "`steps`")),
            None => return Err(unexpected("`open`", "nothing")),
        };
        self.border.run.check(&open.owner, &open.owner_id)?;
        let table = self.border.table(&open.table)?.clone();
        self._place = Some(
            table
                .budget()
                .streams
                .try_take(STREAM_BYTES)
                .ok_or_else(|| {
                    let message =
                        "table_budget_bytes: there is no room for another writer's stream";
                    refusal(Code::ResourceExhausted, "TABLE_BUDGET", message)
                })?,
        );
        self.account.open(table.budget().inserts.clone());
        let id = writer_id_from_wire(&open.writer_id)?;
        let signature = signature_from_wire(open.signature)?;
        let sequence_length = length_from_wire(open.sequence_length);
        let writer = Writer {
            session: table.new_session(id),
            table,
            signature: Arc::new(signature.clone()),
            sequence_length,
            blocked_after: period_from_wire(open.blocked_after_ms),
        };
        self.opened = Some(writer.clone());
        let kind = ItemKind {
            signature,
            sequence_length,
        };
        let next_sequence = writer.table.open_writer(writer.session, kind).await?;
        self.border.run.claim(&open.owner, &open.owner_id)?;
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
        respond(responses, acknowledgement(next_sequence)).await?;
        let mut stored = VecDeque::new();
        // How the client's part ends: it has no more to say, or has said what cannot be.
        let mut ended = None;
        while ended.is_none() || !stored.is_empty() {
            let reads = ended.is_none() && has_room(&stored);
            tokio::select! {
                progress = oldest(&mut stored) => match progress? {
                    Progress::Blocked(blocked) => {
                        let blocked = blocked_to_wire(writer.table.name(), &blocked);
                        let response = Some(insert_response::Response::Blocked(blocked));
                        respond(responses, v1::InsertResponse { response }).await?;
                    }
                    Progress::Done(answer) => {
                        stored.pop_front();
                        let mut next_sequence = answer.map_err(|error| status(&error))?;
                        // One answer acknowledges all that is stored by now.
                        let mut refused = Ok(());
                        while refused.is_ok() && let Some(answer) = ready(&mut stored).await {
                            match answer {
                                Ok(later) => next_sequence = later,
                                Err(status) => refused = Err(status),
                            }
                        }
                        respond(responses, acknowledgement(next_sequence)).await?;
                        refused?;
                    }
                },
                request = self.requests.message(), if reads => {
                    let handed_over = match request {
                        Ok(Some(request)) => {
                            writer.insert(request, self.account.share()).await.map(Some)
                        }
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
    /// Checks the steps of a message and hands them over.
    async fn insert(
        &self,
        request: v1::InsertRequest,
        share: Option<Share>,
    ) -> Result<Pending, Status> {
        let steps = match request.request {
            Some(insert_request::Request::Steps(steps)) => steps,
            Some(insert_request::Request::Open(_)) => return Err(unexpected("`steps`", "`open`")),
            None => return Err(unexpected("`steps`", "nothing")),
        };
        let first_sequence = steps.first_sequence;
        let batch = steps_from_wire(
            &self.signature,
            self.sequence_length,
            steps,
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
        let call = self
            .table
            .insert(self.session, first_sequence, batch, self.blocked_after)
            .await?;
        Ok(Pending {
            bytes,
            _share: share,
            call,
            _span: span,
        })
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
    shape: BatchShape,
    blocked_after: Option<Duration>,
    compression: Compression,
    part_bytes: usize,
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
        self.border.run.check(&open.owner, &open.owner_id)?;
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
            },
            blocked_after: period_from_wire(open.blocked_after_ms),
            compression,
            part_bytes,
        };
        self.opened = Some(sampler.clone());
        let kind = ItemKind {
            signature,
            sequence_length,
        };
        sampler.table.open_sampler(batch_size, kind).await?;
        self.border.run.claim(&open.owner, &open.owner_id)?;
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
                    Some((call, _)) => call.progress().await,
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
        let (items, blocked_after) = (self.shape.items, self.blocked_after);
        self.table
            .sample(items, &self.signature, blocked_after)
            .await
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

/// A peer holds memory of the table and does not do its part.
pub(crate) fn too_slow(what: &str) -> Status {
    let message = format!("{what} within {TAKING_TIMEOUT:?}");
    refusal(Code::DeadlineExceeded, "TOO_SLOW", message)
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
