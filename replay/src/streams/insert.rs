//! A writer's stream.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use pmpo_proto::replay::v1::{self, insert_request, insert_response};
use pmpo_proto::{MAX_MESSAGE_BYTES, signature_from_wire, steps_from_wire, writer_id_from_wire};
use pmpo_replay_core::Error;
use pmpo_service::traces::{self, Kind, Span};
use pmpo_types::Signature;
use tokio::sync::mpsc::Sender;
use tonic::{Code, Status, Streaming};

use super::{Border, length_from_wire, reminder_from_wire, respond, unexpected};
use crate::budget::{STREAM_BYTES, Share};
use crate::error::{refusal, status};
use crate::metered::Account;
use crate::service::Stream;
use crate::table::{Call, ItemKind, Progress, Reminder, TableHandle, WriterSession};
use crate::wire::blocked_to_wire;

/// Messages of a writer that are on their way into the table at a time: enough that the next are read
/// while some go to the disk together, and few enough that a writer which the limiter holds back takes
/// little memory. Beyond the first few they count by their bytes.
const INSERTS_AT_ONCE: usize = 12;
const FEW_INSERTS: usize = 4;
const BYTES_AT_ONCE: usize = 1 << 20;

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
async fn oldest(
    queue: &mut VecDeque<Pending>,
    reminder: &mut Option<Reminder>,
) -> Result<Progress<Result<u64, Error>>, Status> {
    match queue.front_mut() {
        Some(first) => first.call.progress(reminder).await,
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
    reminder: Option<Reminder>,
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
            reminder: None,
            _place: None,
        }
    }

    async fn open(&mut self, request: v1::InsertRequest) -> Result<(Writer, u64), Status> {
        let open = match request.request {
            Some(insert_request::Request::Open(open)) => open,
            Some(insert_request::Request::Steps(_)) => return Err(unexpected("`open`", "`steps`")),
            None => return Err(unexpected("`open`", "nothing")),
        };
        self.border
            .tables
            .run()
            .check(&open.owner, &open.owner_id)?;
        let table = self.border.tables.named(&open.table)?;
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
        };
        self.reminder = reminder_from_wire(open.blocked_after_ms);
        self.opened = Some(writer.clone());
        let kind = ItemKind {
            signature,
            sequence_length,
        };
        let next_sequence = writer.table.open_writer(writer.session, kind).await?;
        self.border
            .tables
            .run()
            .claim(&open.owner, &open.owner_id)?;
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
                progress = oldest(&mut stored, &mut self.reminder) => match progress? {
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
            .insert(self.session, first_sequence, batch)
            .await?;
        Ok(Pending {
            bytes,
            _share: share,
            call,
            _span: span,
        })
    }
}
