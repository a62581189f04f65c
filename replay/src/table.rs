//! A cheap handle to a table: commands, and the answers to wait for.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pmpo_replay_core::{Changes, Error, Hold, Table, TableConfig};
use pmpo_types::{SampledBatch, Signature, StepBatch, TableCounters, TraceContext, WriterId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Sleep;
use tonic::Status;

use crate::budget::Budget;
use crate::disk::{Copied, CopyLog, Disk};
use crate::error::{shutting_down, status, superseded};
use crate::owner::{Bounds, Owner};

/// One connection of a writer. A later session of the same writer supersedes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriterSession {
    pub(crate) writer: WriterId,
    pub(crate) number: u64,
}

/// What writers and samplers say they are going to send or take.
pub(crate) struct ItemKind {
    pub(crate) signature: Signature,
    pub(crate) sequence_length: usize,
}

/// What the table's thread is asked to do. Whoever drops its end of `reply` no longer waits.
pub(crate) enum Command {
    OpenWriter {
        session: WriterSession,
        kind: ItemKind,
        reply: oneshot::Sender<Result<u64, Error>>,
    },
    Insert(PendingInsert),
    OpenSampler {
        batch_size: usize,
        kind: ItemKind,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Sample(PendingSample),
    /// Why the call waits, unless it has been served.
    Why {
        call: u64,
        reply: oneshot::Sender<Option<BlockedCalls>>,
    },
    UpdatePriorities {
        keys: Vec<u64>,
        priorities: Vec<f64>,
        reply: oneshot::Sender<Result<(u64, u64), Error>>,
    },
    Delete {
        keys: Vec<u64>,
        reply: oneshot::Sender<Result<(u64, u64), Error>>,
    },
    /// Answered with the table as it is then.
    Reset(oneshot::Sender<Description>),
    Configure {
        changes: Changes,
        reply: oneshot::Sender<Result<Description, Error>>,
    },
    /// Of a table that has a disk.
    Copy(CopyLog),
    /// A stream has ended: forget what it was waiting for, and that its writer is connected.
    Left(Option<WriterSession>),
    Describe(oneshot::Sender<Description>),
    ListWriters(oneshot::Sender<WriterPlaces>),
    RefreshMetrics {
        queued_commands: usize,
    },
    Stop,
}

impl Command {
    /// Bytes of steps that come with it.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Insert(insert) => insert.batch.steps().columns().iter().map(Bytes::len).sum(),
            _ => 0,
        }
    }
}

/// Answered with the number of the next step once all of the batch is stored.
pub(crate) struct PendingInsert {
    pub(crate) call: u64,
    pub(crate) since: Instant,
    pub(crate) session: WriterSession,
    pub(crate) first_sequence: u64,
    pub(crate) batch: StepBatch,
    pub(crate) reply: oneshot::Sender<Result<u64, Error>>,
}

pub(crate) struct PendingSample {
    pub(crate) call: u64,
    pub(crate) since: Instant,
    pub(crate) batch_size: usize,
    /// Of the steps that the sampler takes.
    pub(crate) signature: Arc<Signature>,
    pub(crate) reply: oneshot::Sender<Result<Drawn, Error>>,
}

/// What the table is and holds, and who waits.
pub(crate) struct Description {
    pub(crate) config: TableConfig,
    pub(crate) signature: Option<Signature>,
    pub(crate) counters: TableCounters,
    pub(crate) bytes: u64,
    pub(crate) blocked: Vec<BlockedCalls>,
    pub(crate) durable: bool,
}

/// Where each writer is, and the items inserted at that moment.
pub(crate) type WriterPlaces = (Vec<(WriterId, u64)>, u64);

/// A batch, and the traces that its items were inserted in, the one it continues first.
#[derive(Debug)]
pub(crate) struct Drawn {
    pub(crate) batch: SampledBatch,
    pub(crate) traces: Vec<TraceContext>,
}

/// Callers that wait for the same, and since when one has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BlockedCalls {
    pub(crate) hold: Hold,
    pub(crate) waited: Duration,
    pub(crate) callers: usize,
}

/// Gives the table to a thread of its own.
pub(crate) fn spawn(
    table: Table,
    disk: Option<Disk>,
    command_queue: usize,
    bounds: Bounds,
) -> io::Result<(TableHandle, JoinHandle<io::Result<()>>)> {
    let budget = bounds.budget.clone();
    let name: Arc<str> = table.config().name.as_str().into();
    let (commands, queue) = mpsc::channel(command_queue);
    let thread = std::thread::Builder::new()
        .name(format!("table-{name}"))
        .spawn(move || Owner::new(table, disk, bounds).run(queue))?;
    Ok((
        TableHandle {
            name,
            budget,
            commands,
            calls: Arc::default(),
        },
        thread,
    ))
}

/// Access to the table; every call waits for its turn and its answer.
#[derive(Clone)]
pub(crate) struct TableHandle {
    name: Arc<str>,
    budget: Budget,
    commands: mpsc::Sender<Command>,
    /// Numbers of sessions and calls.
    calls: Arc<AtomicU64>,
}

impl TableHandle {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The memory that what is on its way into the table and out of it takes.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    fn number(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// A session for a stream of `writer`, to be opened and, whatever comes of that, left.
    pub(crate) fn new_session(&self, writer: WriterId) -> WriterSession {
        WriterSession {
            writer,
            number: self.number(),
        }
    }

    /// Answers the number of the step the writer is to send next.
    pub(crate) async fn open_writer(
        &self,
        session: WriterSession,
        kind: ItemKind,
    ) -> Result<u64, Status> {
        let command = |reply| Command::OpenWriter {
            session,
            kind,
            reply,
        };
        self.ask(command).await?.map_err(|error| status(&error))
    }

    /// Hands over a batch, behind those handed over before. It is answered once the rate limiter has
    /// let in all of the batch.
    pub(crate) async fn insert(
        &self,
        session: WriterSession,
        first_sequence: u64,
        batch: StepBatch,
    ) -> Result<Call<Result<u64, Error>>, Status> {
        let (reply, answer) = oneshot::channel();
        let call = self.call(answer);
        let pending = PendingInsert {
            call: call.number,
            since: call.since,
            session,
            first_sequence,
            batch,
            reply,
        };
        self.send(Command::Insert(pending)).await?;
        Ok(call)
    }

    pub(crate) async fn open_sampler(
        &self,
        batch_size: usize,
        kind: ItemKind,
    ) -> Result<(), Status> {
        let command = |reply| Command::OpenSampler {
            batch_size,
            kind,
            reply,
        };
        self.ask(command).await?.map_err(|error| status(&error))
    }

    /// Asks for a batch, which is the answer once the rate limiter lets it out.
    pub(crate) async fn sample(
        &self,
        batch_size: usize,
        signature: &Arc<Signature>,
    ) -> Result<Call<Result<Drawn, Error>>, Status> {
        let (reply, answer) = oneshot::channel();
        let call = self.call(answer);
        let pending = PendingSample {
            call: call.number,
            since: call.since,
            batch_size,
            signature: Arc::clone(signature),
            reply,
        };
        self.send(Command::Sample(pending)).await?;
        Ok(call)
    }

    pub(crate) async fn update_priorities(
        &self,
        keys: Vec<u64>,
        priorities: Vec<f64>,
    ) -> Result<(u64, u64), Status> {
        let command = |reply| Command::UpdatePriorities {
            keys,
            priorities,
            reply,
        };
        self.ask(command).await?.map_err(|error| status(&error))
    }

    pub(crate) async fn delete(&self, keys: Vec<u64>) -> Result<(u64, u64), Status> {
        let command = |reply| Command::Delete { keys, reply };
        self.ask(command).await?.map_err(|error| status(&error))
    }

    pub(crate) async fn reset(&self) -> Result<Description, Status> {
        self.ask(Command::Reset).await
    }

    pub(crate) async fn configure(&self, changes: Changes) -> Result<Description, Status> {
        let command = |reply| Command::Configure { changes, reply };
        self.ask(command).await?.map_err(|error| status(&error))
    }

    /// Has the table's log copied into a folder, all that was acknowledged before included. The table must
    /// have a disk.
    pub(crate) async fn copy(&self, folder: PathBuf) -> Result<io::Result<Copied>, Status> {
        self.ask(|reply| Command::Copy(CopyLog { folder, reply }))
            .await
    }

    /// A stream has ended, and waits for nothing any more.
    pub(crate) async fn left(&self, session: Option<WriterSession>) {
        if self.commands.send(Command::Left(session)).await.is_err() {
            tracing::debug!("the table has stopped before a stream could leave it");
        }
    }

    pub(crate) async fn describe(&self) -> Result<Description, Status> {
        self.ask(Command::Describe).await
    }

    pub(crate) async fn writers(&self) -> Result<WriterPlaces, Status> {
        self.ask(Command::ListWriters).await
    }

    /// Has the metrics brought up to date every `interval`; returns when the table's thread is gone.
    pub(crate) async fn keep_metrics(&self, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.commands.closed() => return,
            }
            let queued_commands = self.commands.max_capacity() - self.commands.capacity();
            if self
                .send(Command::RefreshMetrics { queued_commands })
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Lets the table's thread end after the commands before this one.
    pub(crate) async fn stop(&self) {
        if self.commands.send(Command::Stop).await.is_err() {
            tracing::debug!("the table has stopped by itself");
        }
    }

    fn call<T>(&self, answer: oneshot::Receiver<T>) -> Call<T> {
        Call {
            table: self.clone(),
            number: self.number(),
            since: Instant::now(),
            answer,
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| shutting_down())
    }

    async fn send(&self, command: Command) -> Result<(), Status> {
        self.commands
            .send(command)
            .await
            .map_err(|_| shutting_down())
    }
}

/// What has become of a call.
pub(crate) enum Progress<T> {
    Done(T),
    Blocked(BlockedCalls),
}

/// A call that waits for its answer.
pub(crate) struct Call<T> {
    table: TableHandle,
    number: u64,
    since: Instant,
    answer: oneshot::Receiver<T>,
}

impl<T> Call<T> {
    /// The answer or, each time the reminder is due, why there is none. May be dropped and called again.
    ///
    /// # Errors
    /// The table has dropped the call, or has stopped.
    pub(crate) async fn progress(
        &mut self,
        reminder: &mut Option<Reminder>,
    ) -> Result<Progress<T>, Status> {
        loop {
            tokio::select! {
                biased;
                answer = &mut self.answer => {
                    return answer.map(Progress::Done).map_err(|_| self.dropped());
                }
                () = due(reminder, self.since) => {}
            }
            let call = self.number;
            let why = self.table.ask(|reply| Command::Why { call, reply });
            if let Some(blocked) = why.await? {
                return Ok(Progress::Blocked(blocked));
            }
        }
    }

    /// The answer, if it is there.
    pub(crate) fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<T, Status>> {
        let answer = Pin::new(&mut self.answer).poll(context);
        answer.map_err(|_| self.dropped())
    }

    /// Why nobody answers: the table has stopped, or the call's session is no longer its writer's.
    fn dropped(&self) -> Status {
        if self.table.commands.is_closed() {
            shutting_down()
        } else {
            superseded()
        }
    }
}

/// When a stream's peer is told why it waits. A stream has one for all of its calls: a timer for each would
/// cost more than a call that need not wait.
pub(crate) struct Reminder {
    period: Duration,
    /// At the latest a period after the oldest call began.
    timer: Pin<Box<Sleep>>,
}

impl Reminder {
    pub(crate) fn every(period: Duration) -> Self {
        // The clock has an end, and a period comes from outside.
        let period = period.min(LONGEST_PERIOD);
        Self {
            period,
            timer: Box::pin(tokio::time::sleep(period)),
        }
    }
}

const LONGEST_PERIOD: Duration = Duration::from_secs(365 * 24 * 3600);

/// Waits until a call that has waited since then is to be told why, again and again.
async fn due(reminder: &mut Option<Reminder>, since: Instant) {
    let Some(Reminder { period, timer }) = reminder else {
        return std::future::pending().await;
    };
    loop {
        timer.as_mut().await;
        let left = period.saturating_sub(since.elapsed());
        let next = if left.is_zero() { *period } else { left };
        timer.as_mut().reset(tokio::time::Instant::now() + next);
        if left.is_zero() {
            return;
        }
    }
}
