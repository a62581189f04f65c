//! A cheap handle to the table: commands, and the answers to wait for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pmpo_replay_core::{Error, Table, TableConfig};
use pmpo_types::{ColumnBatch, SampledBatch, Signature, TableCounters, WriterId};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::error::{shutting_down, status, superseded};
use crate::owner::Owner;

/// One connection of a writer. A later session of the same writer supersedes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriterSession {
    pub(crate) writer: WriterId,
    pub(crate) number: u64,
}

/// What the table's thread is asked to do. Whoever drops its end of `reply` no longer waits.
pub(crate) enum Command {
    OpenWriter {
        session: WriterSession,
        signature: Signature,
        reply: oneshot::Sender<Result<u64, Error>>,
    },
    Insert(PendingInsert),
    OpenSampler {
        batch_size: usize,
        signature: Signature,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Sample(PendingSample),
    /// A stream has ended: forget what it was waiting for, and that its writer is connected.
    Left(Option<WriterSession>),
    Describe(oneshot::Sender<Description>),
    RefreshMetrics {
        queued_commands: usize,
    },
    Stop,
}

/// Answered with the number of the next item once all of the batch is stored.
pub(crate) struct PendingInsert {
    pub(crate) session: WriterSession,
    pub(crate) first_sequence: u64,
    pub(crate) batch: ColumnBatch,
    pub(crate) reply: oneshot::Sender<Result<u64, Error>>,
}

pub(crate) struct PendingSample {
    pub(crate) batch_size: usize,
    pub(crate) reply: oneshot::Sender<SampledBatch>,
}

/// What the table is and holds.
pub(crate) struct Description {
    pub(crate) config: TableConfig,
    pub(crate) signature: Option<Signature>,
    pub(crate) counters: TableCounters,
}

/// Gives the table to a thread of its own.
pub(crate) fn spawn(
    table: Table,
    command_queue: usize,
) -> io::Result<(TableHandle, JoinHandle<()>)> {
    let name = table.config().name.clone();
    let (commands, queue) = mpsc::channel(command_queue);
    let thread = std::thread::Builder::new()
        .name("replay-table".to_owned())
        .spawn(move || Owner::new(table).run(queue))?;
    Ok((
        TableHandle {
            name,
            commands,
            sessions: Arc::default(),
        },
        thread,
    ))
}

/// Access to the table; every call waits for its turn and its answer.
#[derive(Clone)]
pub(crate) struct TableHandle {
    name: String,
    commands: mpsc::Sender<Command>,
    sessions: Arc<AtomicU64>,
}

impl TableHandle {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A session for a stream of `writer`, to be opened and, whatever comes of that, left.
    pub(crate) fn new_session(&self, writer: WriterId) -> WriterSession {
        WriterSession {
            writer,
            number: self.sessions.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Answers the number of the item the writer is to send next.
    pub(crate) async fn open_writer(
        &self,
        session: WriterSession,
        signature: Signature,
    ) -> Result<u64, Status> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::OpenWriter {
            session,
            signature,
            reply,
        })
        .await?;
        answer
            .await
            .map_err(|_| shutting_down())?
            .map_err(|error| status(&error))
    }

    /// Returns once the rate limiter has let in all of the batch.
    pub(crate) async fn insert(
        &self,
        session: WriterSession,
        first_sequence: u64,
        batch: ColumnBatch,
    ) -> Result<u64, Status> {
        let (reply, answer) = oneshot::channel();
        let pending = PendingInsert {
            session,
            first_sequence,
            batch,
            reply,
        };
        self.send(Command::Insert(pending)).await?;
        answer
            .await
            .map_err(|_| superseded())?
            .map_err(|error| status(&error))
    }

    pub(crate) async fn open_sampler(
        &self,
        batch_size: usize,
        signature: Signature,
    ) -> Result<(), Status> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::OpenSampler {
            batch_size,
            signature,
            reply,
        })
        .await?;
        answer
            .await
            .map_err(|_| shutting_down())?
            .map_err(|error| status(&error))
    }

    /// Asks for a batch; the receiver gets it once the rate limiter lets it out.
    pub(crate) async fn sample(
        &self,
        batch_size: usize,
    ) -> Result<oneshot::Receiver<SampledBatch>, Status> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Sample(PendingSample { batch_size, reply }))
            .await?;
        Ok(answer)
    }

    /// A stream has ended, and waits for nothing any more.
    pub(crate) async fn left(&self, session: Option<WriterSession>) {
        if self.commands.send(Command::Left(session)).await.is_err() {
            tracing::debug!("the table has stopped before a stream could leave it");
        }
    }

    pub(crate) async fn describe(&self) -> Result<Description, Status> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Describe(reply)).await?;
        answer.await.map_err(|_| shutting_down())
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

    async fn send(&self, command: Command) -> Result<(), Status> {
        self.commands
            .send(command)
            .await
            .map_err(|_| shutting_down())
    }
}
