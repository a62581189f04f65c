//! A shard of the simulation: the product's own parts, on a simulated file system or in memory.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pmpo_replay_core::selector::SelectorKind;
use pmpo_replay_core::{Error, Found, LimiterKind, Table, TableConfig};
use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature, StepBatch, WriterId};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use super::files::SimulatedFiles;
use crate::config::{DiskConfig, Fsync, ReplayConfig};
use crate::disk::files::make_folder;
use crate::disk::{Copied, CopyLog, Disk, Worker, recover};
use crate::owner::{Bounds, Owner};
use crate::table::{Command, ItemKind, PendingInsert, PendingSample, WriterSession};

/// Bytes after which a new segment begins; small, so that many do.
const SEGMENT_BYTES: u64 = 800;

pub(super) const DATA_DIR: &str = "/runs/data";

/// One id a step.
pub(crate) fn signature() -> Signature {
    let column = ColumnSpec::new("id", DType::I64, &[]);
    Signature {
        columns: vec![column],
    }
}

pub(super) fn columns(ids: std::ops::Range<i64>) -> ColumnBatch {
    let len = ids.clone().count();
    let column = ids.flat_map(i64::to_le_bytes).collect();
    ColumnBatch::new(&signature(), len, vec![column]).unwrap()
}

/// The id of an item's last step; its other steps must be those before.
fn id(rows: &ColumnBatch) -> i64 {
    let rows = rows.columns()[0].as_chunks::<8>().0;
    let rows: Vec<i64> = rows.iter().map(|&b| i64::from_le_bytes(b)).collect();
    let last = rows[rows.len() - 1];
    let expected: Vec<i64> = (last + 1 - rows.len() as i64..=last).collect();
    assert_eq!(rows, expected, "an item of other steps");
    last
}

/// Each item leaves with its first draw, the oldest first.
pub(super) fn table(length: usize) -> TableConfig {
    TableConfig {
        sequence_length: length,
        min_size_to_sample: 1,
        limiter: LimiterKind::MinSize,
        sampler: SelectorKind::Fifo,
        max_times_sampled: 1,
        ..TableConfig::default()
    }
}

pub(super) fn disk(fsync: Fsync) -> DiskConfig {
    DiskConfig {
        fsync,
        segment_bytes: SEGMENT_BYTES,
        ..DiskConfig::default()
    }
}

/// What a process has and loses.
struct Process {
    owner: Owner,
    commands: mpsc::Sender<Command>,
    queue: mpsc::Receiver<Command>,
    syncer: Option<Worker>,
}

type Answer = oneshot::Receiver<Result<u64, Error>>;

pub(super) struct Shard {
    data_dir: PathBuf,
    pub(super) table: TableConfig,
    pub(super) disk: DiskConfig,
    /// `None` for one that is in memory.
    pub(super) files: Option<SimulatedFiles>,
    /// `None` while the process is dead.
    process: Option<Process>,
    /// Connections that wait for an answer, in the order in which they asked.
    waiting: VecDeque<(u64, Answer)>,
    /// What the last start found.
    pub(super) found: Found,
}

fn bounds() -> Bounds {
    Bounds::from(&ReplayConfig::default())
}

impl Shard {
    pub(super) fn new(table: TableConfig, disk: DiskConfig, files: Option<SimulatedFiles>) -> Self {
        Self::at(Path::new(DATA_DIR), table, disk, files)
    }

    /// In another data directory.
    pub(super) fn at(
        data_dir: &Path,
        table: TableConfig,
        disk: DiskConfig,
        files: Option<SimulatedFiles>,
    ) -> Self {
        let mut shard = Self {
            data_dir: data_dir.to_owned(),
            table,
            disk,
            files,
            process: None,
            waiting: VecDeque::new(),
            found: Found::default(),
        };
        assert!(shard.start());
        shard
    }

    pub(super) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Starts the process; answers whether it could.
    pub(super) fn start(&mut self) -> bool {
        self.start_and(|disk| Some(disk.take_syncer()))
    }

    /// As [`start`](Self::start), with a syncer that works by itself.
    pub(super) fn start_with_threads(&mut self) -> bool {
        self.start_and(|disk| {
            disk.spawn_syncer().unwrap();
            None
        })
    }

    fn start_and(&mut self, syncer: impl FnOnce(&mut Disk) -> Option<Worker>) -> bool {
        assert!(self.process.is_none());
        let (commands, queue) = mpsc::channel(1_000);
        let Some(files) = &self.files else {
            let table = Table::new(self.table.clone(), 1).unwrap();
            self.process = Some(Process {
                owner: Owner::new(table, None, bounds()),
                commands,
                queue,
                syncer: None,
            });
            return true;
        };
        if make_folder(files, &self.data_dir).is_err() {
            return false;
        }
        let recovered = recover(files, &self.data_dir, self.table.clone(), &self.disk, 1);
        let Ok(mut recovered) = recovered else {
            return false;
        };
        let found = recovered.found;
        assert_eq!((found.damaged, found.incomplete_items), (0, 0), "{found:?}");
        let syncer = syncer(&mut recovered.disk);
        self.found = found;
        self.process = Some(Process {
            owner: Owner::new(recovered.table, Some(recovered.disk), bounds()),
            commands,
            queue,
            syncer,
        });
        true
    }

    /// The process dies, and the machine with it or not.
    pub(super) fn crash(&mut self, power: bool) {
        self.process = None;
        self.waiting.clear();
        if let Some(files) = self.files.as_ref().filter(|_| power) {
            files.lose_power();
        }
    }

    fn send(&mut self, command: Command) {
        let process = self.process.as_ref().unwrap();
        assert!(process.commands.try_send(command).is_ok());
    }

    /// A writer connects.
    pub(super) fn open(&mut self, writer: WriterId, connection: u64) {
        let (reply, answer) = oneshot::channel();
        self.send(Command::OpenWriter {
            session: WriterSession {
                writer,
                number: connection,
            },
            kind: self.kind(),
            reply,
        });
        self.waiting.push_back((connection, answer));
    }

    fn kind(&self) -> ItemKind {
        ItemKind {
            signature: signature(),
            sequence_length: self.table.sequence_length,
        }
    }

    /// Somebody asks for a copy.
    pub(super) fn copy(&mut self, folder: PathBuf) -> oneshot::Receiver<std::io::Result<Copied>> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Copy(CopyLog { folder, reply }));
        answer
    }

    /// Steps arrive.
    pub(super) fn insert(
        &mut self,
        writer: WriterId,
        connection: u64,
        first_sequence: u64,
        batch: StepBatch,
    ) {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Insert(PendingInsert {
            call: 0,
            since: std::time::Instant::now(),
            session: WriterSession {
                writer,
                number: connection,
            },
            first_sequence,
            batch,
            reply,
        }));
        self.waiting.push_back((connection, answer));
    }

    /// The table's thread executes what has queued up; answers whether the process goes on.
    pub(super) fn turn(&mut self) -> bool {
        let Some(process) = &mut self.process else {
            return true;
        };
        while let Ok(first) = process.queue.try_recv() {
            if process.owner.turn(first, &mut process.queue).is_err() {
                self.crash(false);
                return false;
            }
        }
        true
    }

    /// The syncer does what there is to do. What it fails at ends the process at the table's next turn.
    pub(super) fn sync(&mut self) -> bool {
        let process = self.process.as_ref();
        let syncer = process.and_then(|process| process.syncer.as_ref());
        if syncer.is_some_and(|syncer| syncer.round().is_err()) {
            self.send(Command::RefreshMetrics { queued_commands: 0 });
            assert!(!self.turn(), "it went on after a failed sync");
            return false;
        }
        true
    }

    /// Stops the process as the service does.
    pub(super) fn stop(&mut self) -> std::io::Result<()> {
        let Process {
            owner,
            commands,
            queue,
            ..
        } = self.process.take().unwrap();
        assert!(commands.try_send(Command::Stop).is_ok());
        owner.run(queue)
    }

    /// Answers that may go, each for the connection that waits for it: the number of the next step, or
    /// nothing where the connection has no business here any more.
    pub(super) fn answers(&mut self) -> Vec<(u64, Option<u64>)> {
        let mut answers = Vec::new();
        while let Some((connection, mut answer)) = self.waiting.pop_front() {
            match answer.try_recv() {
                Ok(answer) => answers.push((connection, answer.ok())),
                Err(TryRecvError::Closed) => answers.push((connection, None)),
                Err(TryRecvError::Empty) => {
                    self.waiting.push_front((connection, answer));
                    break;
                }
            }
        }
        answers
    }

    /// Everything that the next start finds, each item as often as it is there. Nothing is left of it.
    pub(super) fn contents(&mut self, power: bool) -> Vec<i64> {
        self.turn();
        if self.files.is_some() {
            self.crash(power);
            assert!(self.start());
        }
        let (reply, _answer) = oneshot::channel();
        let kind = self.kind();
        self.send(Command::OpenSampler {
            batch_size: 1,
            kind,
            reply,
        });
        let mut items = Vec::new();
        loop {
            let (reply, mut answer) = oneshot::channel();
            self.send(Command::Sample(PendingSample {
                call: 0,
                since: std::time::Instant::now(),
                batch_size: 1,
                signature: Arc::new(signature()),
                reply,
            }));
            self.turn();
            match answer.try_recv() {
                Ok(drawn) => items.push(id(&drawn.unwrap().batch.columns)),
                Err(_) => return items,
            }
        }
    }
}
