//! A shard of the simulation: the real table and the real log, on a disk that forgets what was not
//! synced.

use std::collections::BTreeMap;

use pmpo_replay_core::selector::SelectorKind;
use pmpo_replay_core::{LimiterKind, Restorer, Table, TableConfig};
use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature, StepBatch, WriterId};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Bytes after which a new segment begins; small, so that many do.
const SEGMENT_BYTES: usize = 600;

/// One id a step.
pub(crate) fn signature() -> Signature {
    let column = ColumnSpec {
        name: "id".to_owned(),
        dtype: DType::I64,
        shape: vec![],
    };
    Signature {
        columns: vec![column],
    }
}

pub(crate) fn columns(ids: std::ops::Range<i64>) -> ColumnBatch {
    let len = ids.clone().count();
    let column = ids.flat_map(i64::to_le_bytes).collect();
    ColumnBatch::new(&signature(), len, vec![column]).unwrap()
}

/// The ids of the items' last steps; their other steps must be those before.
fn ids(rows: &ColumnBatch, length: usize) -> Vec<i64> {
    let rows = rows.columns()[0].as_chunks::<8>().0;
    let rows: Vec<i64> = rows.iter().map(|&b| i64::from_le_bytes(b)).collect();
    let windows = rows.chunks_exact(length);
    windows
        .map(|window| {
            let last = window[length - 1];
            let expected: Vec<i64> = (last + 1 - length as i64..=last).collect();
            assert_eq!(window, expected, "an item of other steps");
            last
        })
        .collect()
}

#[derive(Default)]
struct Segment {
    bytes: Vec<u8>,
    synced: usize,
}

pub(crate) struct Shard {
    length: usize,
    /// Whether it has a disk at all.
    durable: bool,
    /// `None` while the process is dead.
    table: Option<Table>,
    segments: BTreeMap<u32, Segment>,
    /// To be deleted with the next sync.
    dead: Vec<u32>,
    /// Acknowledgements that wait for the next sync: connection and number.
    held_back: Vec<(u64, u64)>,
    /// The connection that may insert, for each writer.
    pub(crate) sessions: BTreeMap<WriterId, u64>,
}

impl Shard {
    pub(crate) fn new(length: usize, durable: bool) -> Self {
        let mut shard = Self {
            length,
            durable,
            table: None,
            segments: BTreeMap::new(),
            dead: Vec::new(),
            held_back: Vec::new(),
            sessions: BTreeMap::new(),
        };
        shard.restart();
        shard
    }

    fn config(&self) -> TableConfig {
        TableConfig {
            sequence_length: self.length,
            max_size: 1_000_000,
            min_size_to_sample: 1,
            limiter: LimiterKind::MinSize,
            ..TableConfig::default()
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.table.is_some()
    }

    /// Reads the log as the service does when it starts, and cuts off what a crash has torn.
    fn restored(&mut self, config: TableConfig) -> Table {
        let mut restorer = Restorer::new(config).unwrap();
        let last = self.segments.keys().next_back().copied();
        for (&number, segment) in &mut self.segments {
            let kept = restorer.scan(number, &segment.bytes, Some(number) == last);
            segment.bytes.truncate(kept.unwrap());
        }
        let mut loader = restorer.finish(1).unwrap();
        for (&number, segment) in &self.segments {
            loader.load(number, &segment.bytes);
        }
        let (table, found) = loader.finish();
        assert_eq!((found.damaged, found.incomplete_items), (0, 0), "{found:?}");
        table
    }

    pub(crate) fn restart(&mut self) {
        assert!(self.table.is_none());
        let mut table = self.restored(self.config());
        let number = table.begin_segment().unwrap();
        self.segments.insert(number, Segment::default());
        self.table = Some(table);
        self.sync();
    }

    /// The process dies. What was not synced is on the disk up to a random byte, or not at all; the
    /// later segment of two that were not synced has nothing if the earlier one is cut.
    pub(crate) fn crash(&mut self, rng: &mut ChaCha8Rng) {
        self.table = None;
        self.held_back.clear();
        self.sessions.clear();
        self.dead.clear();
        if !self.durable {
            self.segments.clear();
        }
        let mut cut = false;
        for segment in self.segments.values_mut() {
            let len = match cut {
                true => segment.synced,
                false => rng.random_range(segment.synced..=segment.bytes.len()),
            };
            cut |= len < segment.bytes.len();
            segment.bytes.truncate(len);
        }
        self.segments.retain(|_, segment| !segment.bytes.is_empty());
    }

    /// A writer connects. The answer acknowledges too, so it comes with the next sync.
    pub(crate) fn open(&mut self, writer: WriterId, connection: u64) {
        let table = self.table.as_mut().unwrap();
        self.sessions.insert(writer, connection);
        let next = table.open_writer(writer, &signature(), self.length);
        self.held_back.push((connection, next.unwrap()));
    }

    /// Steps arrive; the acknowledgement comes with the next sync. `None` ends the connection.
    pub(crate) fn insert(
        &mut self,
        writer: WriterId,
        connection: u64,
        first_sequence: u64,
        steps: &StepBatch,
    ) -> Option<()> {
        if self.sessions.get(&writer) != Some(&connection) {
            return None;
        }
        let table = self.table.as_mut().unwrap();
        let next = table.insert(writer, first_sequence, steps).ok()?;
        self.held_back.push((connection, next));
        Some(())
    }

    /// Writes the log out, begins segments and moves what keeps old ones alive.
    pub(crate) fn write(&mut self) {
        let Some(table) = &mut self.table else { return };
        let (_, current) = self.segments.iter_mut().next_back().unwrap();
        table.take_log(&mut current.bytes);
        if current.bytes.len() < SEGMENT_BYTES {
            return;
        }
        let number = table.begin_segment().unwrap();
        let segment = self.segments.entry(number).or_default();
        table.move_from_oldest_segment(3);
        table.take_log(&mut segment.bytes);
        self.dead.extend(table.drop_dead_segment());
    }

    /// Makes all that was done durable; answers the acknowledgements that waited for it.
    pub(crate) fn sync(&mut self) -> Vec<(u64, u64)> {
        self.write();
        for segment in self.segments.values_mut() {
            segment.synced = segment.bytes.len();
        }
        for number in self.dead.drain(..) {
            self.segments.remove(&number);
        }
        std::mem::take(&mut self.held_back)
    }

    /// Everything in the log, each item as often as it is there.
    pub(crate) fn contents(&mut self) -> Vec<i64> {
        self.sync();
        let config = TableConfig {
            sampler: SelectorKind::Fifo,
            max_times_sampled: 1,
            ..self.config()
        };
        let mut table = self.restored(config);
        let size = table.counters().size as usize;
        if size == 0 {
            return Vec::new();
        }
        table.open_sampler(1, &signature(), self.length).unwrap();
        let one = |_| ids(&table.sample(1).unwrap().columns, self.length)[0];
        (0..size).map(one).collect()
    }
}
