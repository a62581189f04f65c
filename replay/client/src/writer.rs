//! Inserts items exactly once.
//!
//! The thread pushes into an [`Outbox`] behind one lock; a task sends from it, trims it by the
//! server's acknowledgements, and after a lost connection sends again what the server does not have.
//! The rate limiter reaches the thread this way too: the server holds an acknowledgement back, the
//! outbox fills, and [`Writer::push`] blocks.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use ::metrics::{counter, gauge};
use pmpo_proto::v1::{self, insert_request, replay_client::ReplayClient};
use pmpo_proto::{batch_to_wire, signature_to_wire, writer_id_to_wire};
use pmpo_types::{ColumnBatch, Signature, WriterId};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::connection::{Connection, Session, SessionEnd, client};
use crate::outbox::Outbox;
use crate::{ClientError, WriterConfig, metrics};

/// Messages between the task and the socket.
const REQUEST_QUEUE: usize = 4;

/// Larger batches are split into messages of about this size, far below the limit of a message.
const MAX_CHUNK_BYTES: usize = 4 << 20;

/// A numbered stream of items into one table. Dropping it abandons what is not acknowledged;
/// [`flush`](Self::flush) first.
pub struct Writer {
    shared: Arc<Shared>,
    signature: Signature,
    max_in_flight_items: usize,
    max_chunk_items: usize,
    shutdown: CancellationToken,
}

impl Writer {
    /// A writer of items with `signature` into a table of the service at `address` (`host:port`),
    /// under a new random id. Does not wait for the server; its refusals reach the next call.
    ///
    /// # Errors
    /// The configuration or the address cannot be used.
    pub fn new(
        address: &str,
        config: WriterConfig,
        signature: Signature,
        runtime: &Handle,
        shutdown: &CancellationToken,
    ) -> Result<Self, ClientError> {
        config.validate()?;
        let shutdown = shutdown.child_token();
        let shared = Arc::<Shared>::default();
        let mut session = WriterSession {
            client: client(address, runtime)?,
            open: v1::OpenWriter {
                table: config.table,
                writer_id: writer_id_to_wire(WriterId(uuid::Uuid::new_v4().as_u128())),
                signature: Some(signature_to_wire(&signature)),
                ..v1::OpenWriter::default()
            },
            signature: signature.clone(),
            shared: Arc::clone(&shared),
        };
        let connection = Connection::new("writer", address);
        let (task, token) = (EndOnDrop(Arc::clone(&shared)), shutdown.clone());
        runtime.spawn(async move { task.0.end(connection.keep(&mut session, token).await) });
        let max_chunk_items =
            (MAX_CHUNK_BYTES / signature.item_bytes().max(1)).clamp(1, config.max_in_flight_items);
        let max_in_flight_items = config.max_in_flight_items;
        Ok(Self {
            shared,
            signature,
            max_in_flight_items,
            max_chunk_items,
            shutdown,
        })
    }

    /// Hands over a batch; blocks while it would exceed the bound of items in flight.
    ///
    /// # Errors
    /// The batch does not fit the signature (nothing of it is taken), the server has refused for
    /// good, or the shutdown token was cancelled.
    pub fn push(&mut self, batch: ColumnBatch) -> Result<(), ClientError> {
        self.check(&batch)?;
        let mut start = 0;
        while start < batch.len() {
            let end = batch.len().min(start + self.max_chunk_items);
            self.push_chunk(batch.slice(start..end))?;
            start = end;
        }
        Ok(())
    }

    /// Waits until everything pushed is acknowledged, at most for `timeout`.
    ///
    /// # Errors
    /// As [`push`](Self::push), or time is up.
    pub fn flush(&mut self, timeout: Duration) -> Result<(), ClientError> {
        let unfinished =
            |state: &mut State| state.ended.is_none() && state.outbox.in_flight_items() > 0;
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), timeout, unfinished)
            .expect("holders of the lock do not panic");
        match (state.outbox.in_flight_items(), &state.ended) {
            (0, _) => Ok(()),
            (_, Some(error)) => Err(error.clone()),
            (unacknowledged, None) => Err(ClientError::Deadline { unacknowledged }),
        }
    }

    /// Items the server has stored since the writer's beginning.
    pub fn acknowledged_items(&self) -> u64 {
        self.shared.lock().outbox.acknowledged_items()
    }

    /// Items pushed and not yet acknowledged.
    pub fn in_flight_items(&self) -> usize {
        self.shared.lock().outbox.in_flight_items()
    }

    fn push_chunk(&self, chunk: ColumnBatch) -> Result<(), ClientError> {
        let len = chunk.len();
        let full = |state: &mut State| {
            state.ended.is_none() && state.outbox.in_flight_items() + len > self.max_in_flight_items
        };
        let mut state = self
            .shared
            .changed
            .wait_while(self.shared.lock(), full)
            .expect("holders of the lock do not panic");
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        state.outbox.push(chunk);
        drop(state);
        gauge!(metrics::IN_FLIGHT_ITEMS).increment(len as f64);
        self.shared.pushed.notify_one();
        Ok(())
    }

    fn check(&self, batch: &ColumnBatch) -> Result<(), ClientError> {
        let specs = &self.signature.columns;
        let fits = batch.columns().len() == specs.len()
            && batch
                .columns()
                .iter()
                .zip(specs)
                .all(|(data, spec)| data.len() == spec.item_bytes() * batch.len());
        if fits {
            return Ok(());
        }
        let expected: Vec<usize> = specs
            .iter()
            .map(|spec| spec.item_bytes() * batch.len())
            .collect();
        let got: Vec<usize> = batch.columns().iter().map(bytes::Bytes::len).collect();
        Err(ClientError::Batch(format!(
            "batch of {} items: expected columns of {expected:?} bytes, got {got:?}",
            batch.len()
        )))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The outbox has shrunk, or the task has ended.
    changed: Condvar,
    /// The outbox has grown.
    pushed: Notify,
}

#[derive(Default)]
struct State {
    outbox: Outbox,
    ended: Option<ClientError>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("holders of the lock do not panic")
    }

    /// The task is over; only the first reason counts.
    fn end(&self, error: ClientError) {
        let mut state = self.lock();
        if state.ended.is_none() {
            state.ended = Some(error);
            gauge!(metrics::IN_FLIGHT_ITEMS).decrement(state.outbox.in_flight_items() as f64);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn acknowledge(&self, next_sequence: u64) -> Result<(), SessionEnd> {
        let items = self
            .lock()
            .outbox
            .acknowledge(next_sequence)
            .map_err(SessionEnd::Protocol)?;
        self.acknowledged(items);
        Ok(())
    }

    fn resume(&self, next_sequence: u64) -> Result<(), SessionEnd> {
        let resumed = self
            .lock()
            .outbox
            .resume(next_sequence)
            .map_err(SessionEnd::Protocol)?;
        if resumed.forgotten > 0 {
            let items = resumed.forgotten;
            tracing::warn!(
                items,
                "the replay service has lost items that it had acknowledged"
            );
        }
        self.acknowledged(resumed.acknowledged);
        Ok(())
    }

    fn acknowledged(&self, items: usize) {
        counter!(metrics::ACKNOWLEDGED_ITEMS).increment(items as u64);
        gauge!(metrics::IN_FLIGHT_ITEMS).decrement(items as f64);
        self.changed.notify_all();
    }

    fn has_unsent(&self) -> bool {
        self.lock().outbox.has_unsent()
    }
}

/// Wakes the thread when the task is dropped with its runtime.
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(ClientError::Shutdown);
    }
}

struct WriterSession {
    client: ReplayClient<Channel>,
    open: v1::OpenWriter,
    signature: Signature,
    shared: Arc<Shared>,
}

impl Session for WriterSession {
    async fn run(&mut self, connection: &mut Connection) -> SessionEnd {
        match self.serve(connection).await {
            Ok(()) => SessionEnd::hung_up(),
            Err(end) => end,
        }
    }
}

impl WriterSession {
    async fn serve(&mut self, connection: &mut Connection) -> Result<(), SessionEnd> {
        let (requests, stream) = mpsc::channel(REQUEST_QUEUE);
        let open = insert_request::Request::Open(self.open.clone());
        let open = v1::InsertRequest {
            request: Some(open),
        };
        requests.try_send(open).expect("the queue is new");
        let mut responses = self
            .client
            .insert(ReceiverStream::new(stream))
            .await?
            .into_inner();
        let Some(first) = responses.message().await? else {
            return Ok(());
        };
        self.shared.resume(first.next_sequence)?;
        connection.opened();
        loop {
            let unsent = self.shared.has_unsent();
            tokio::select! {
                response = responses.message() => match response? {
                    Some(response) => self.shared.acknowledge(response.next_sequence)?,
                    None => return Ok(()),
                },
                // Closed with the connection; the responses then say why.
                Ok(permit) = requests.reserve(), if unsent => {
                    if let Some(items) = self.next_items() {
                        permit.send(items);
                    }
                }
                () = self.shared.pushed.notified(), if !unsent => {}
            }
        }
    }

    fn next_items(&self) -> Option<v1::InsertRequest> {
        let (first_sequence, batch) = self.shared.lock().outbox.send_next()?;
        let columns = batch_to_wire(&self.signature, batch);
        let items = insert_request::Request::Items(v1::Items {
            first_sequence,
            columns,
            ..v1::Items::default()
        });
        Some(v1::InsertRequest {
            request: Some(items),
        })
    }
}
