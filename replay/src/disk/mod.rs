//! A table's log as files: `<data-dir>/<table>/<number>.log`, one for each segment.
//!
//! The table's thread writes what the table has logged with `write(2)` before anybody is answered, so
//! a killed process loses nothing; a thread of its own calls `fdatasync`, by the policy, for what must
//! survive the machine. Segments are never written again once a later one has begun, and go as soon as
//! nothing in them is alive: what is on disk stays within twice the table and two segments, without a
//! checkpoint anybody would wait for.

mod recovery;
mod syncer;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pmpo_replay_core::Table;

use crate::config::DiskConfig;
use crate::owner::Release;

pub(crate) use recovery::{lock, recover};
use syncer::Syncer;

/// Items and steps moved out of the oldest segment after one turn of the table's thread: more than
/// come in at a time, so that it gets done, and few enough that nobody notices.
const MOVED_AT_ONCE: usize = 1024;

/// Bytes an item may take in the log beside its steps.
const ITEM_BYTES: u64 = 16;

/// The segments of one table.
pub(crate) struct Disk {
    folder: PathBuf,
    config: DiskConfig,
    segment: Arc<Segment>,
    current: u32,
    /// Bytes of each segment.
    sizes: BTreeMap<u32, u64>,
    syncer: Syncer,
    buffer: Vec<u8>,
}

/// A file of the log.
struct Segment {
    file: File,
    folder: PathBuf,
    /// The folder was synced since the file is in it.
    listed: AtomicBool,
}

impl Segment {
    fn create(folder: &Path, number: u32) -> io::Result<Arc<Self>> {
        let path = segment_path(folder, number);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)?;
        Ok(Arc::new(Self {
            file,
            folder: folder.to_owned(),
            listed: AtomicBool::new(false),
        }))
    }

    /// Makes safe what was written so far.
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        if !self.listed.swap(true, Ordering::Relaxed) {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }
}

fn segment_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:010}.log"))
}

impl Disk {
    /// Begins a new segment behind those that were recovered.
    fn start(
        folder: PathBuf,
        config: DiskConfig,
        sizes: BTreeMap<u32, u64>,
        table: &mut Table,
    ) -> io::Result<Self> {
        let current = table.begin_segment().expect("a recovered table has a log");
        let segment = Segment::create(&folder, current)?;
        let syncer = Syncer::spawn(&config)?;
        let mut disk = Self {
            folder,
            config,
            segment,
            current,
            sizes,
            syncer,
            buffer: Vec::new(),
        };
        disk.append(table)?;
        Ok(disk)
    }

    /// Writes what the table has done, then lets those go who wait for it to be safe.
    pub(crate) fn write(&mut self, table: &mut Table, waiting: Vec<Release>) -> io::Result<()> {
        let written = self.append(table)?;
        self.syncer.written(&self.segment, written, waiting)?;
        if self.sizes[&self.current] >= self.config.segment_bytes {
            self.begin_segment(table)?;
        }
        self.compact(table)
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.sizes.values().sum()
    }

    fn append(&mut self, table: &mut Table) -> io::Result<bool> {
        self.buffer.clear();
        table.take_log(&mut self.buffer);
        (&self.segment.file).write_all(&self.buffer)?;
        *self.sizes.entry(self.current).or_default() += self.buffer.len() as u64;
        Ok(!self.buffer.is_empty())
    }

    fn begin_segment(&mut self, table: &mut Table) -> io::Result<()> {
        self.syncer.ended(&self.segment)?;
        self.current = table.begin_segment().expect("the table has a log");
        self.segment = Segment::create(&self.folder, self.current)?;
        self.append(table)?;
        Ok(())
    }

    /// Deletes segments in which nothing is alive, and helps the oldest to get there if the log has
    /// grown out of proportion.
    fn compact(&mut self, table: &mut Table) -> io::Result<()> {
        let live = table.bytes() + table.counters().size * ITEM_BYTES;
        if self.bytes() > 2 * live + 2 * self.config.segment_bytes {
            table.move_from_oldest_segment(MOVED_AT_ONCE);
            self.append(table)?;
        }
        while let Some(dead) = table.drop_dead_segment() {
            self.sizes.remove(&dead);
            // What was moved out of it has to be safe first.
            let path = segment_path(&self.folder, dead);
            self.syncer.delete(&self.segment, path)?;
        }
        Ok(())
    }
}
