//! A table's log as files: `<data-dir>/<table>/<number>.log`, one for each segment.
//!
//! The table's thread writes what the table has logged with `write(2)` before anybody is answered, so
//! a killed process loses nothing; a thread of its own calls `fdatasync`, by the policy, for what must
//! survive the machine. Segments are never written again once a later one has begun, and go as soon as
//! nothing in them is alive: what is on disk stays within twice the table and two segments, without a
//! checkpoint anybody would wait for. For the same reason a copy of the log is other names of its segments.

pub(crate) mod files;
mod recovery;
mod syncer;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::metrics::counter;
use pmpo_replay_core::Table;
use pmpo_types::TableCounters;
use tokio::sync::oneshot;

use crate::config::DiskConfig;
use crate::metrics;
use crate::owner::Release;

use files::{AppendFile, Folder};
pub(crate) use recovery::{lock, recover};
use syncer::Syncer;
#[cfg(test)]
pub(crate) use syncer::Worker;

/// Items and steps moved out of the oldest segment after one turn of the table's thread: more than
/// come in at a time, so that it gets done, and few enough that nobody notices.
const MOVED_AT_ONCE: usize = 1024;

/// Memory kept for the next turn; what a large one took beyond it is given back.
const KEPT_BYTES: usize = 8 << 20;

/// The segments of one table.
pub(crate) struct Disk {
    folder: Arc<dyn Folder>,
    config: DiskConfig,
    segment: Arc<Segment>,
    current: u32,
    /// Bytes of each segment.
    sizes: BTreeMap<u32, u64>,
    /// The last segment that was to begin could not be created.
    stuck: bool,
    syncer: Syncer,
    buffer: Vec<u8>,
}

/// A file of the log.
struct Segment {
    file: Box<dyn AppendFile>,
    folder: Arc<dyn Folder>,
    /// The folder was synced since the file is in it.
    listed: AtomicBool,
    /// Number of the last record in it.
    written: AtomicU64,
}

impl Segment {
    fn create(folder: &Arc<dyn Folder>, number: u32) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            file: folder.create(&segment_name(number))?,
            folder: Arc::clone(folder),
            listed: AtomicBool::new(false),
            written: AtomicU64::new(0),
        }))
    }

    /// Makes safe what was written so far; answers the number of its last record.
    fn sync(&self) -> io::Result<u64> {
        let written = self.written.load(Ordering::Acquire);
        self.file.sync()?;
        if !self.listed.load(Ordering::Relaxed) {
            self.folder.sync()?;
            self.listed.store(true, Ordering::Relaxed);
        }
        Ok(written)
    }
}

/// Asks for a copy of all that was written so far, in a folder that is there and empty.
pub(crate) struct CopyLog {
    pub(crate) folder: PathBuf,
    pub(crate) reply: oneshot::Sender<io::Result<Copied>>,
}

/// What a copy of the log holds, whose files are safe; the folder that they are in is yet to be synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) counters: TableCounters,
    pub(crate) bytes: u64,
}

fn segment_name(number: u32) -> String {
    format!("{number:010}.log")
}

impl Disk {
    /// Begins a new segment behind those that were recovered. Nothing is synced before
    /// [`spawn_syncer`](Self::spawn_syncer).
    fn start(
        folder: Arc<dyn Folder>,
        config: DiskConfig,
        sizes: BTreeMap<u32, u64>,
        table: &mut Table,
    ) -> io::Result<Self> {
        let current = table
            .current_segment()
            .expect("a recovered table has a log");
        let segment = Segment::create(&folder, current)?;
        let mut disk = Self {
            folder,
            segment,
            current,
            sizes,
            stuck: false,
            syncer: Syncer::new(&config),
            config,
            buffer: Vec::new(),
        };
        disk.append(table)?;
        Ok(disk)
    }

    /// Lets the syncer work, on a thread of its own.
    pub(crate) fn spawn_syncer(&mut self) -> io::Result<()> {
        self.syncer.spawn()
    }

    /// The syncer, for a test to let it work when it likes.
    #[cfg(test)]
    pub(crate) fn take_syncer(&mut self) -> Worker {
        self.syncer.take_worker().expect("it is taken once")
    }

    /// Writes what the table has done, then lets those go who wait for it to be safe.
    pub(crate) fn write(&mut self, table: &mut Table, waiting: Vec<Release>) -> io::Result<()> {
        let written = self.append(table)?;
        self.syncer.written(&self.segment, written, waiting)?;
        table.safe_up_to(self.syncer.safe());
        if self.sizes[&self.current] >= self.config.segment_bytes {
            self.begin_segment(table)?;
        }
        self.compact(table)
    }

    /// Ends the segment and has all that were written copied. That is for the syncer to do, which also
    /// deletes segments, in the order in which it is told: until then, none of these goes.
    pub(crate) fn copy(&mut self, table: &mut Table, copy: CopyLog) -> io::Result<()> {
        let (counters, last) = (table.counters(), Arc::clone(&self.segment));
        self.begin_segment(table)?;
        if self.stuck {
            let error = "a new segment of the log cannot begin, the server's log says why";
            // Whoever asked may have gone.
            drop(copy.reply.send(Err(io::Error::other(error))));
            return Ok(());
        }
        let ended = self.sizes.range(..self.current);
        let bytes = ended.clone().map(|(_, bytes)| bytes).sum();
        let segments = ended.map(|(&number, _)| number).collect();
        self.syncer
            .copy(&last, segments, Copied { counters, bytes }, copy)
    }

    /// Syncs what there is.
    ///
    /// # Errors
    /// It is not all safe.
    pub(crate) fn close(self) -> io::Result<()> {
        self.syncer.close(&self.segment)
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.sizes.values().sum()
    }

    fn append(&mut self, table: &mut Table) -> io::Result<bool> {
        self.buffer.clear();
        table.take_log(&mut self.buffer);
        if !self.buffer.is_empty() {
            self.segment.file.append(&self.buffer)?;
        }
        self.segment
            .written
            .store(table.last_record(), Ordering::Release);
        *self.sizes.entry(self.current).or_default() += self.buffer.len() as u64;
        let written = !self.buffer.is_empty();
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BYTES);
        Ok(written)
    }

    /// Where there is no descriptor or no room for another file, the log goes on in the one that it has.
    fn begin_segment(&mut self, table: &mut Table) -> io::Result<()> {
        let next = match Segment::create(&self.folder, self.current + 1) {
            Ok(next) => next,
            Err(error) => {
                if !std::mem::replace(&mut self.stuck, true) {
                    tracing::warn!(
                        table = table.config().name, segment = self.current, %error,
                        "no new segment of the log: it goes on in the old one"
                    );
                }
                counter!(metrics::FAILED_SEGMENTS).increment(1);
                return Ok(());
            }
        };
        self.stuck = false;
        self.syncer.ended(&self.segment)?;
        let number = table.begin_segment().expect("the table has a log");
        assert_eq!(number, self.current + 1, "segments follow each other");
        (self.segment, self.current) = (next, number);
        self.append(table)?;
        Ok(())
    }

    /// Deletes segments in which nothing is alive, and helps the oldest to get there if the log has
    /// grown out of proportion.
    fn compact(&mut self, table: &mut Table) -> io::Result<()> {
        if self.bytes() > 2 * table.live_log_bytes() + 2 * self.config.segment_bytes {
            table.move_from_oldest_segment(MOVED_AT_ONCE);
            self.append(table)?;
        }
        while let Some(dead) = table.drop_dead_segment() {
            self.append(table)?;
            // Of a segment that was lost there is no file.
            if self.sizes.remove(&dead).is_some() {
                self.syncer.delete(&self.segment, dead)?;
            }
        }
        Ok(())
    }
}
