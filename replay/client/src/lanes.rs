//! The lanes of one writer: an outbox and, once it is needed, a task for each shard.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ::metrics::{counter, gauge};
use pmpo_proto::replay::v1::{
    self, insert_request, insert_response::Response, replay_client::ReplayClient,
};
use pmpo_proto::{signature_to_wire, steps_to_wire, writer_id_to_wire};
use pmpo_service::grpc::Channel;
use pmpo_service::identity;
use pmpo_service::traces::{self, Kind, Span};
use pmpo_types::{Signature, StepBatch, WriterId};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::connection::{Connection, OPEN_TIMEOUT, Session, SessionEnd, clients};
use crate::dispatch::{Changes, Dispatch};
use crate::{ClientError, WriterConfig, metrics};

/// Messages between a task and its socket.
const REQUEST_QUEUE: usize = 4;

/// What the thread and the tasks of a writer share.
pub(crate) struct Lanes {
    id: WriterId,
    addresses: Vec<String>,
    clients: Vec<ReplayClient<Channel>>,
    open: v1::OpenWriter,
    signature: Signature,
    runtime: Handle,
    shutdown: CancellationToken,
    state: Mutex<State>,
    /// An outbox has shrunk or the shard in use has changed, or a task has ended.
    changed: Condvar,
    /// A shard has accepted the writer.
    opened: watch::Sender<bool>,
    /// A lane's outbox has grown.
    pushed: Vec<Notify>,
}

struct State {
    dispatch: Dispatch,
    /// What a shard said last of why it makes wait, since it acknowledged something.
    blocked: Option<String>,
    ended: Option<ClientError>,
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
        let clients = clients(addresses, &config.credentials, runtime)?;
        let state = State {
            dispatch: Dispatch::new(shards, config.sequence_length, Instant::now()),
            blocked: None,
            ended: None,
        };
        let run = identity::get();
        let id = WriterId(uuid::Uuid::new_v4().as_u128());
        let lanes = Arc::new(Self {
            id,
            addresses: addresses.to_vec(),
            clients,
            open: v1::OpenWriter {
                table: config.table.clone(),
                writer_id: writer_id_to_wire(id),
                signature: Some(signature_to_wire(signature)),
                sequence_length: config.sequence_length as u32,
                blocked_after_ms: config.blocked_timeout().as_millis() as u64,
                owner: run.run,
                owner_id: run.run_uid,
            },
            signature: signature.clone(),
            runtime: runtime.clone(),
            shutdown: shutdown.clone(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            opened: watch::Sender::new(false),
            pushed: (0..shards).map(|_| Notify::new()).collect(),
        });
        tracing::info!(writer = %id, "writer begins");
        lanes.connect(0);
        Ok(lanes)
    }

    /// Puts a batch into the lane in use, once it holds few enough items.
    pub(crate) fn push(&self, batch: StepBatch, max_in_flight: usize) -> Result<(), ClientError> {
        let len = batch.len();
        let full = |state: &mut State| {
            let steps = state.dispatch.current_in_flight_steps() + len;
            state.ended.is_none() && steps > max_in_flight
        };
        let mut state = self
            .changed
            .wait_while(self.lock(), full)
            .expect("holders of the lock do not panic");
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        let current = state.dispatch.push(batch);
        drop(state);
        gauge!(metrics::IN_FLIGHT_STEPS).increment(len as f64);
        self.pushed[current].notify_one();
        Ok(())
    }

    /// Waits until a batch of so many steps would be taken without a wait; answers whether it would.
    pub(crate) fn wait_for_room(
        &self,
        steps: usize,
        max_in_flight: usize,
        timeout: Duration,
    ) -> Result<bool, ClientError> {
        let full = |state: &State| state.dispatch.current_in_flight_steps() + steps > max_in_flight;
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, |state| {
                state.ended.is_none() && full(state)
            })
            .expect("holders of the lock do not panic");
        match &state.ended {
            Some(error) => Err(error.clone()),
            None => Ok(!full(&state)),
        }
    }

    /// Waits until nothing is in flight.
    pub(crate) fn flush(&self, timeout: Duration) -> Result<(), ClientError> {
        let unfinished =
            |state: &mut State| state.ended.is_none() && state.dispatch.in_flight_steps() > 0;
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, unfinished)
            .expect("holders of the lock do not panic");
        match (state.dispatch.in_flight_steps(), &state.ended) {
            (0, _) => Ok(()),
            (_, Some(error)) => Err(error.clone()),
            (unacknowledged, None) => Err(ClientError::Deadline {
                unacknowledged,
                reason: state.blocked.clone(),
            }),
        }
    }

    pub(crate) fn opened(&self) -> watch::Receiver<bool> {
        self.opened.subscribe()
    }

    pub(crate) fn acknowledged_items(&self) -> u64 {
        self.lock().dispatch.acknowledged_items()
    }

    pub(crate) fn lost_items(&self) -> u64 {
        self.lock().dispatch.lost_items()
    }

    pub(crate) fn in_flight_steps(&self) -> usize {
        self.lock().dispatch.in_flight_steps()
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
            self.account(&state.dispatch);
            state.ended = Some(error);
            gauge!(metrics::IN_FLIGHT_STEPS).decrement(state.dispatch.in_flight_steps() as f64);
        }
        drop(state);
        self.changed.notify_all();
        self.shutdown.cancel();
    }

    /// One line that tells what has become of everything that was pushed.
    fn account(&self, dispatch: &Dispatch) {
        tracing::info!(
            writer = %self.id,
            acknowledged_items = dispatch.acknowledged_items(),
            unacknowledged_steps = dispatch.in_flight_steps(),
            "writer ended"
        );
    }

    fn health(self: &Arc<Self>, change: impl FnOnce(&mut Dispatch) -> Changes) {
        let mut state = self.lock();
        let before = state.dispatch.in_flight_steps();
        let Changes { moved, connect } = change(&mut state.dispatch);
        let more = state.dispatch.in_flight_steps() - before;
        drop(state);
        gauge!(metrics::IN_FLIGHT_STEPS).increment(more as f64);
        if let Some((from, to)) = moved {
            self.pushed[to].notify_one();
            let (from, to) = (&self.addresses[from], &self.addresses[to]);
            tracing::info!(from, to, "writing to another shard");
        }
        self.changed.notify_all();
        if let Some(shard) = connect {
            self.connect(shard);
        }
    }

    fn acknowledged(&self, steps: usize) {
        counter!(metrics::ACKNOWLEDGED_STEPS).increment(steps as u64);
        gauge!(metrics::IN_FLIGHT_STEPS).decrement(steps as f64);
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

/// A traced batch on its way, of steps below this number.
struct Sent {
    below: u64,
    _span: Span,
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
        self.lanes.health(|dispatch| dispatch.failed(shard, now));
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
        let Some(Response::NextSequence(next_sequence)) = first.response else {
            let expected = "response: expected `next_sequence` after `open`";
            return Err(SessionEnd::Protocol(expected.to_owned()));
        };
        self.resume(next_sequence)?;
        connection.opened();
        let shard = self.shard;
        self.lanes.health(|dispatch| dispatch.opened(shard));
        self.lanes.opened.send_replace(true);
        // Until what they sent is acknowledged.
        let mut spans = VecDeque::new();
        loop {
            let unsent = self.lanes.lock().dispatch.outbox(shard).has_unsent();
            tokio::select! {
                response = responses.message() => match response? {
                    Some(v1::InsertResponse { response: Some(response) }) => match response {
                        Response::NextSequence(next_sequence) => {
                            self.acknowledge(next_sequence)?;
                            while spans.pop_front_if(|sent: &mut Sent| sent.below <= next_sequence).is_some() {}
                        }
                        Response::Blocked(blocked) => {
                            connection.blocked(&blocked.message);
                            self.lanes.lock().blocked = Some(blocked.message);
                        }
                    },
                    // An answer of a later version.
                    Some(_) => {}
                    None => return Ok(()),
                },
                // Closed with the connection; the responses then say why.
                Ok(permit) = requests.reserve(), if unsent => {
                    if let Some(steps) = self.next_steps(&mut spans) {
                        permit.send(steps);
                    }
                }
                () = self.lanes.pushed[shard].notified(), if !unsent => {}
            }
        }
    }

    fn resume(&self, next_sequence: u64) -> Result<(), SessionEnd> {
        let mut state = self.lanes.lock();
        let resumed = state.dispatch.outbox(self.shard).resume(next_sequence);
        drop(state);
        let resumed = resumed.map_err(SessionEnd::Protocol)?;
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
        let outbox = state.dispatch.outbox(self.shard);
        let steps = outbox
            .acknowledge(next_sequence)
            .map_err(SessionEnd::Protocol)?;
        state.blocked = None;
        drop(state);
        self.lanes.acknowledged(steps);
        Ok(())
    }

    fn next_steps(&self, spans: &mut VecDeque<Sent>) -> Option<v1::InsertRequest> {
        let (first_sequence, mut batch) =
            self.lanes.lock().dispatch.outbox(self.shard).send_next()?;
        let trace = batch.trace();
        if let Some(span) =
            trace.and_then(|trace| traces::child("insert batch", Kind::Client, trace))
        {
            let below = first_sequence + batch.len() as u64;
            batch = batch.with_trace(Some(span.context()));
            spans.push_back(Sent { below, _span: span });
        }
        let steps = steps_to_wire(&self.lanes.signature, first_sequence, &batch);
        Some(v1::InsertRequest {
            request: Some(insert_request::Request::Steps(steps)),
        })
    }
}
