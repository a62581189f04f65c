//! The lanes of one writer: an outbox and, once it is needed, a task for each shard.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ::metrics::{counter, gauge};
use pmpo_proto::v1::{self, insert_request, replay_client::ReplayClient};
use pmpo_proto::{signature_to_wire, steps_to_wire, writer_id_to_wire};
use pmpo_types::{Signature, StepBatch, WriterId};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::Status;

use crate::connection::{Connection, OPEN_TIMEOUT, Session, SessionEnd, clients};
use crate::outbox::Outbox;
use crate::route::{Changes, Route};
use crate::{ClientError, WriterConfig, metrics};

/// Messages between a task and its socket.
const REQUEST_QUEUE: usize = 4;

/// What the thread and the tasks of a writer share.
pub(crate) struct Lanes {
    addresses: Vec<String>,
    clients: Vec<ReplayClient<Channel>>,
    open: v1::OpenWriter,
    signature: Signature,
    runtime: Handle,
    shutdown: CancellationToken,
    state: Mutex<State>,
    /// An outbox has shrunk or the shard in use has changed, or a task has ended.
    changed: Condvar,
    /// A lane's outbox has grown.
    pushed: Vec<Notify>,
}

struct State {
    outboxes: Vec<Outbox>,
    route: Route,
    /// The newest steps, as many as an item may begin with before the next one.
    tail: Tail,
    /// What a shard said last of why it makes wait, since it acknowledged something.
    blocked: Option<String>,
    ended: Option<ClientError>,
}

impl State {
    fn in_flight_steps(&self) -> usize {
        self.outboxes.iter().map(Outbox::in_flight_steps).sum()
    }

    /// The shard in use has changed: what was never sent to the one before goes to the new one.
    ///
    /// Items of several steps stay with their steps. So that the next ones are whole, the new shard gets
    /// the steps they begin with; those are no items there.
    fn moved_from(&mut self, left: usize) -> usize {
        let current = self.route.current();
        if self.tail.capacity > 0 {
            for steps in self.tail.take_without_ends() {
                self.outboxes[current].push(steps);
            }
            return 0;
        }
        let unbound = self.outboxes[left].take_unbound();
        let moved = unbound.iter().map(StepBatch::len).sum();
        for batch in unbound {
            self.outboxes[current].push(batch);
        }
        moved
    }
}

/// The newest steps that were pushed.
struct Tail {
    batches: VecDeque<StepBatch>,
    steps: usize,
    /// Steps kept: all but one of an item's.
    capacity: usize,
}

impl Tail {
    fn new(sequence_length: usize) -> Self {
        Self {
            batches: VecDeque::new(),
            steps: 0,
            capacity: sequence_length - 1,
        }
    }

    fn push(&mut self, batch: &StepBatch) {
        if self.capacity == 0 {
            return;
        }
        self.steps += batch.len();
        self.batches.push_back(batch.clone());
        while let Some(front) = self.batches.front()
            && self.steps - front.len() >= self.capacity
        {
            self.steps -= front.len();
            self.batches.pop_front();
        }
    }

    fn take_without_ends(&self) -> impl Iterator<Item = StepBatch> {
        self.batches.iter().map(|b| b.without_ends_before(u64::MAX))
    }
}

impl Lanes {
    /// Lanes of a writer with a new random id, the first shard's being connected.
    pub(crate) fn start(
        addresses: &[String],
        config: &WriterConfig,
        signature: &Signature,
        runtime: &Handle,
        shutdown: &CancellationToken,
    ) -> Result<Arc<Self>, ClientError> {
        let shards = addresses.len();
        let clients = clients(addresses, runtime)?;
        let state = State {
            outboxes: (0..shards)
                .map(|_| Outbox::new(config.sequence_length))
                .collect(),
            route: Route::new(shards, Instant::now()),
            tail: Tail::new(config.sequence_length),
            blocked: None,
            ended: None,
        };
        let lanes = Arc::new(Self {
            addresses: addresses.to_vec(),
            clients,
            open: v1::OpenWriter {
                table: config.table.clone(),
                writer_id: writer_id_to_wire(WriterId(uuid::Uuid::new_v4().as_u128())),
                signature: Some(signature_to_wire(signature)),
                sequence_length: config.sequence_length as u32,
                timeout_ms: config.blocked_timeout().as_millis() as u64,
            },
            signature: signature.clone(),
            runtime: runtime.clone(),
            shutdown: shutdown.clone(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            pushed: (0..shards).map(|_| Notify::new()).collect(),
        });
        lanes.connect(0);
        Ok(lanes)
    }

    /// Puts a batch into the lane in use, once it holds few enough items.
    pub(crate) fn push(&self, batch: StepBatch, max_in_flight: usize) -> Result<(), ClientError> {
        let len = batch.len();
        let full = |state: &mut State| {
            let outbox = &state.outboxes[state.route.current()];
            state.ended.is_none() && outbox.in_flight_steps() + len > max_in_flight
        };
        let mut state = self
            .changed
            .wait_while(self.lock(), full)
            .expect("holders of the lock do not panic");
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        let current = state.route.current();
        state.tail.push(&batch);
        state.outboxes[current].push(batch);
        drop(state);
        gauge!(metrics::IN_FLIGHT_ITEMS).increment(len as f64);
        self.pushed[current].notify_one();
        Ok(())
    }

    /// Waits until nothing is in flight.
    pub(crate) fn flush(&self, timeout: Duration) -> Result<(), ClientError> {
        let unfinished = |state: &mut State| state.ended.is_none() && state.in_flight_steps() > 0;
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, unfinished)
            .expect("holders of the lock do not panic");
        match (state.in_flight_steps(), &state.ended) {
            (0, _) => Ok(()),
            (_, Some(error)) => Err(error.clone()),
            (unacknowledged, None) => Err(ClientError::Deadline {
                unacknowledged,
                reason: state.blocked.clone(),
            }),
        }
    }

    pub(crate) fn acknowledged_items(&self) -> u64 {
        let state = self.lock();
        state.outboxes.iter().map(Outbox::acknowledged_items).sum()
    }

    pub(crate) fn lost_items(&self) -> u64 {
        self.lock().outboxes.iter().map(Outbox::lost_items).sum()
    }

    pub(crate) fn in_flight_steps(&self) -> usize {
        self.lock().in_flight_steps()
    }

    pub(crate) fn blocked(&self) -> Option<String> {
        self.lock().blocked.clone()
    }

    /// Starts the task of a shard.
    fn connect(self: &Arc<Self>, shard: usize) {
        let mut lane = Lane {
            lanes: Arc::clone(self),
            shard,
            client: self.clients[shard].clone(),
        };
        let connection = Connection::new("writer", &self.addresses[shard]);
        let (task, token) = (EndOnDrop(Arc::clone(self)), self.shutdown.clone());
        self.runtime
            .spawn(async move { task.0.end(connection.keep(&mut lane, token).await) });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("holders of the lock do not panic")
    }

    /// A task is over, and with it the writer; only the first reason counts.
    fn end(&self, error: ClientError) {
        let mut state = self.lock();
        if state.ended.is_none() {
            state.ended = Some(error);
            gauge!(metrics::IN_FLIGHT_ITEMS).decrement(state.in_flight_steps() as f64);
        }
        drop(state);
        self.changed.notify_all();
        self.shutdown.cancel();
    }

    fn health(self: &Arc<Self>, change: impl FnOnce(&mut Route) -> Changes) {
        let mut state = self.lock();
        let Changes { left, connect } = change(&mut state.route);
        if let Some(left) = left {
            let before = state.in_flight_steps();
            let moved = state.moved_from(left);
            let more = state.in_flight_steps() - before;
            gauge!(metrics::IN_FLIGHT_ITEMS).increment(more as f64);
            let current = state.route.current();
            let (from, to) = (&self.addresses[left], &self.addresses[current]);
            tracing::info!(from, to, moved, "writing to another shard");
            self.pushed[current].notify_one();
        }
        drop(state);
        self.changed.notify_all();
        if let Some(shard) = connect {
            self.connect(shard);
        }
    }

    fn acknowledged(&self, steps: usize) {
        counter!(metrics::ACKNOWLEDGED_ITEMS).increment(steps as u64);
        gauge!(metrics::IN_FLIGHT_ITEMS).decrement(steps as f64);
        self.changed.notify_all();
    }
}

/// Wakes the thread when the task is dropped with its runtime.
struct EndOnDrop(Arc<Lanes>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(ClientError::Shutdown);
    }
}

/// One shard's side.
struct Lane {
    lanes: Arc<Lanes>,
    shard: usize,
    client: ReplayClient<Channel>,
}

impl Session for Lane {
    async fn run(&mut self, connection: &mut Connection) -> SessionEnd {
        match self.serve(connection).await {
            Ok(()) => SessionEnd::hung_up(),
            Err(end) => end,
        }
    }

    fn failed(&mut self) {
        let (shard, now) = (self.shard, Instant::now());
        self.lanes.health(|route| route.failed(shard, now));
    }

    fn blocked(&mut self, reason: &str) {
        self.lanes.lock().blocked = Some(reason.to_owned());
    }
}

impl Lane {
    async fn serve(&mut self, connection: &mut Connection) -> Result<(), SessionEnd> {
        let (requests, stream) = mpsc::channel(REQUEST_QUEUE);
        let open = insert_request::Request::Open(self.lanes.open.clone());
        let open = v1::InsertRequest {
            request: Some(open),
        };
        requests.try_send(open).expect("the queue is new");
        let opening = async {
            let mut responses = self.client.insert(ReceiverStream::new(stream)).await?;
            let first = responses.get_mut().message().await?;
            Ok::<_, Status>((first, responses.into_inner()))
        };
        let opened = tokio::time::timeout(OPEN_TIMEOUT, opening).await;
        let (first, mut responses) =
            opened.map_err(|_| Status::unavailable("no answer to `open`"))??;
        let Some(first) = first else {
            return Ok(());
        };
        self.resume(first.next_sequence)?;
        connection.opened();
        let shard = self.shard;
        self.lanes.health(|route| route.opened(shard));
        loop {
            let unsent = self.lanes.lock().outboxes[shard].has_unsent();
            tokio::select! {
                response = responses.message() => match response? {
                    Some(response) => self.acknowledge(response.next_sequence)?,
                    None => return Ok(()),
                },
                // Closed with the connection; the responses then say why.
                Ok(permit) = requests.reserve(), if unsent => {
                    if let Some(items) = self.next_items() {
                        permit.send(items);
                    }
                }
                () = self.lanes.pushed[shard].notified(), if !unsent => {}
            }
        }
    }

    fn resume(&self, next_sequence: u64) -> Result<(), SessionEnd> {
        let resumed = self.lanes.lock().outboxes[self.shard]
            .resume(next_sequence)
            .map_err(SessionEnd::Protocol)?;
        if resumed.forgotten > 0 {
            let steps = resumed.forgotten;
            tracing::warn!(
                steps,
                "the replay service has lost items that it had acknowledged"
            );
        }
        self.lanes.acknowledged(resumed.acknowledged);
        Ok(())
    }

    fn acknowledge(&self, next_sequence: u64) -> Result<(), SessionEnd> {
        let mut state = self.lanes.lock();
        let steps = state.outboxes[self.shard]
            .acknowledge(next_sequence)
            .map_err(SessionEnd::Protocol)?;
        state.blocked = None;
        drop(state);
        self.lanes.acknowledged(steps);
        Ok(())
    }

    fn next_items(&self) -> Option<v1::InsertRequest> {
        let (first_sequence, batch) = self.lanes.lock().outboxes[self.shard].send_next()?;
        let items = steps_to_wire(&self.lanes.signature, first_sequence, &batch);
        Some(v1::InsertRequest {
            request: Some(insert_request::Request::Items(items)),
        })
    }
}
