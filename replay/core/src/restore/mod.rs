//! A table out of its log.
//!
//! Segments are read twice. The first reading finds out what is alive, which later records decide, and
//! touches no step's bytes but for their checksums; the second copies what is alive to where it
//! belongs. So recovery takes the memory of the table, not of the log.
//!
//! A log ends where the first record is missing that nobody has said to be safe: what lies behind it, in
//! this segment and in later ones, may have reached the disk before what came first, and is not believed.
//! Records that were safe and are missing all the same were lost later, and cost what they held. How far
//! the log was safe is in its newest frame, so a look at the last segment comes first.

mod load;

use std::collections::{BTreeMap, HashMap};

use pmpo_types::{ConfigError, Signature};

use crate::log::Run;
use crate::log::frame::{Frame, Frames};
use crate::log::record::{Insert, Kind, MovedItem, Record, State};
use crate::rate_limiter::LimiterState;
use crate::writers::Place;
use crate::{Error, TableConfig};

pub use load::Loader;
pub(crate) use load::differences;

/// What was found in a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Segments read.
    pub segments: u32,
    /// Items recovered.
    pub items: u64,
    /// Items ever inserted.
    pub inserts: u64,
    /// Items ever sampled.
    pub samples: u64,
    /// Writers whose numbers go on.
    pub writers: usize,
    /// Bytes behind the end of what can be believed; nobody was told that they are safe.
    pub torn_bytes: usize,
    /// Stretches elsewhere that hold no whole record: what they held is lost.
    pub damaged: u64,
    /// Items that were lost with steps in damaged stretches.
    pub incomplete_items: u64,
    /// Items that did not fit the configuration in force.
    pub removed: u64,
    /// Where the configuration in force differs from the stored one.
    pub changed: Vec<String>,
}

/// Where the log that can be believed ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Believed {
    /// Its last segment; later ones are to go.
    pub segment: u32,
    /// How many of that segment's bytes; the others are to go.
    pub bytes: usize,
    /// The first segment with records that nothing says to be safe: from it on, what is kept has to be
    /// made safe before the table answers anybody.
    pub unproven_from: u32,
}

/// Where in the log a step's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At {
    block: u32,
    row: u32,
}

/// Columns of steps in a segment.
struct Block {
    segment: u32,
    /// Where the first column starts.
    offset: usize,
    rows: usize,
}

/// Of every item there is one at once, so it has to be small.
struct FoundItem {
    priority: f64,
    times_sampled: u32,
    segment: u32,
    steps: ItemSteps,
}

/// Where an item's steps are.
#[derive(Clone, Copy)]
enum ItemSteps {
    /// A transition's one.
    At(At),
    /// A sequence's last, by its writer and number, and how many there are before it.
    End {
        writer: u32,
        sequence: u64,
        before: u16,
    },
}

/// The first reading.
pub struct Restorer {
    config: TableConfig,
    found: Found,
    kind: Option<Kind>,
    limiter: LimiterState,
    max_priority: f64,
    next_number: u32,
    /// By the writers' numbers, with the order of their last use.
    writers: HashMap<u32, (u64, Place)>,
    uses: u64,
    items: BTreeMap<u64, FoundItem>,
    /// Steps of sequences: writer, number, where; the later of two counts.
    steps: Vec<(u32, u64, At)>,
    blocks: Vec<Block>,
    /// Segments up to the end, each with the number of its first record.
    segments: Vec<(u32, u64)>,
    /// Number of the record to come.
    next: u64,
    /// Highest number that a frame says to be safe.
    safe: u64,
    /// The end so far.
    end: Option<Believed>,
    /// Something is missing that was not safe: nothing more is believed.
    ended: bool,
}

impl Restorer {
    /// For a table with this configuration.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn new(config: TableConfig) -> Result<Self, Error> {
        config.validate()?;
        Ok(Self {
            config,
            found: Found::default(),
            kind: None,
            limiter: LimiterState::default(),
            max_priority: 1.0,
            next_number: 0,
            writers: HashMap::new(),
            uses: 0,
            items: BTreeMap::new(),
            steps: Vec::new(),
            blocks: Vec::new(),
            segments: Vec::new(),
            next: 1,
            safe: 0,
            end: None,
            ended: false,
        })
    }

    /// Looks how far the log was safe; to be called first, for segments from the last on backwards until
    /// one answers that it has a whole record.
    pub fn survey(&mut self, bytes: &[u8]) -> bool {
        let mut any = false;
        for frame in Frames::new(bytes) {
            let Frame::Whole(mark, payload) = frame else {
                continue;
            };
            any = true;
            self.safe = self.safe.max(mark.safe);
            // What the table is stands in every segment. If that is damaged in the oldest, its records can
            // be read all the same.
            if let Some((Record::State(state), _)) = Record::decode(&bytes[payload]) {
                self.kind = Some(state.kind);
            }
        }
        any
    }

    /// Reads a segment; to be called for all of them, in order.
    ///
    /// # Errors
    /// The segment is of a table with items of another length.
    pub fn scan(&mut self, segment: u32, bytes: &[u8]) -> Result<(), Error> {
        let mut kept = None;
        let mut damaged = false;
        if !self.ended {
            self.segments.push((segment, self.next));
        }
        for frame in Frames::new(bytes) {
            let Frame::Whole(mark, payload) = frame else {
                damaged = true;
                continue;
            };
            if self.ended || !self.follows(mark.number, damaged) {
                break;
            }
            damaged = false;
            let end = payload.end;
            if !self.record(segment, payload.start, &bytes[payload])? {
                self.found.damaged += 1;
            }
            self.believe(segment, mark.number, end);
            kept = Some(end);
        }
        match kept {
            Some(end) => self.found.torn_bytes = bytes.len() - end,
            None => self.found.torn_bytes += bytes.len(),
        }
        Ok(())
    }

    /// Whether a record with this number can be believed, behind those that were. `damaged` says that
    /// there are bytes before it that hold no record.
    fn follows(&mut self, number: u64, damaged: bool) -> bool {
        if number > self.next && number - 1 > self.safe || number < self.next {
            self.ended = true;
            return false;
        }
        // Before the first segment of a log that has been going for long there is nothing to be missed.
        let is_first = self.segments.len() == 1 && self.end.is_none() && !damaged;
        if number > self.next && !is_first {
            self.found.damaged += 1;
        }
        true
    }

    fn believe(&mut self, segment: u32, number: u64, end: usize) {
        self.next = number + 1;
        let unproven_from = match self.end {
            Some(believed) if believed.unproven_from <= believed.segment => believed.unproven_from,
            _ if number > self.safe => segment,
            _ => segment + 1,
        };
        self.end = Some(Believed {
            segment,
            bytes: end,
            unproven_from,
        });
    }

    /// What is to be kept of the log, once all of it was scanned.
    pub fn believed(&self) -> Option<Believed> {
        self.end
    }

    /// Takes in a record; answers whether it was one.
    fn record(&mut self, segment: u32, start: usize, payload: &[u8]) -> Result<bool, Error> {
        let Some((record, end)) = Record::decode(payload) else {
            return Ok(false);
        };
        let sequences = self.config.sequence_length > 1;
        let rows = record.rows(sequences);
        let row_bytes = self.signature().map(Signature::item_bytes);
        let expected = row_bytes.map_or((rows == 0).then_some(0), |bytes| rows.checked_mul(bytes));
        if !matches!(record, Record::State(_)) && expected != Some(payload.len() - end) {
            return Ok(false);
        }
        if let (Record::State(state), Some(own)) = (&record, self.signature())
            && state
                .kind
                .signature
                .as_ref()
                .is_some_and(|other| other != own)
        {
            // Only a table that was reset takes another signature.
            self.reset();
        }
        if rows > 0 {
            self.blocks.push(Block {
                segment,
                offset: start + end,
                rows,
            });
        }
        match record {
            Record::State(state) => self.state(state)?,
            Record::Insert(insert) => self.insert(segment, &insert),
            Record::Removed(runs) => self.remove(&runs),
            Record::Samples(samples, drawn) => {
                self.limiter.samples = self.limiter.samples.max(samples);
                for ordinal in drawn {
                    if let Some(item) = self.items.get_mut(&ordinal) {
                        item.times_sampled = item.times_sampled.saturating_add(1);
                    }
                }
            }
            Record::Priorities(updates) => {
                for (ordinal, priority) in updates {
                    self.max_priority = self.max_priority.max(priority);
                    if let Some(item) = self.items.get_mut(&ordinal) {
                        item.priority = priority;
                    }
                }
            }
            Record::Moved(items, steps) => self.moved(segment, &items, &steps),
            Record::Reset => self.reset(),
        }
        Ok(true)
    }

    fn signature(&self) -> Option<&Signature> {
        self.kind.as_ref()?.signature.as_ref()
    }

    fn state(&mut self, state: State) -> Result<(), Error> {
        let stored = state.kind.config.sequence_length;
        if stored != self.config.sequence_length {
            let expected = format!("{stored} as in the data directory");
            let got = self.config.sequence_length;
            return Err(ConfigError::new("sequence_length", expected, got).into());
        }
        let stored = state.kind.config.min_sequence_length();
        let got = self.config.min_sequence_length();
        if got > stored {
            let expected = format!("at most {stored} as in the data directory");
            return Err(ConfigError::new("min_sequence_length", expected, got).into());
        }
        // Counters never go back, even if a later segment's state were all that is left.
        self.limiter = LimiterState {
            inserts: self.limiter.inserts.max(state.limiter.inserts),
            samples: self.limiter.samples.max(state.limiter.samples),
            ..state.limiter
        };
        self.max_priority = self.max_priority.max(state.max_priority);
        self.next_number = self.next_number.max(state.next_number);
        self.kind = Some(state.kind);
        self.writers.clear();
        for place in state.writers {
            self.used(place);
        }
        Ok(())
    }

    /// What was read so far is gone.
    fn reset(&mut self) {
        self.items.clear();
        self.steps.clear();
        self.blocks.clear();
        self.max_priority = 1.0;
        if let Some(kind) = &mut self.kind {
            kind.signature = None;
        }
    }

    fn used(&mut self, place: Place) {
        self.uses += 1;
        self.next_number = self.next_number.max(place.number.saturating_add(1));
        self.writers.insert(place.number, (self.uses, place));
    }

    fn insert(&mut self, segment: u32, insert: &Insert) {
        self.used(insert.place);
        let block = self.blocks.len().saturating_sub(1) as u32;
        let number = insert.place.number;
        if self.config.sequence_length > 1 {
            let step = |row: u32| {
                let sequence = insert.first_sequence.saturating_add(row.into());
                (number, sequence, At { block, row })
            };
            self.steps.extend((0..insert.steps).map(step));
        }
        for i in 0..insert.items() {
            let row = insert.ends.as_ref().map_or(i as u32, |ends| ends[i]);
            let item = FoundItem {
                priority: insert.priorities.get(i),
                times_sampled: 0,
                segment,
                steps: self.item_steps(
                    At { block, row },
                    (number, insert.first_sequence.saturating_add(row.into())),
                    insert.lengths.get(i).copied(),
                ),
            };
            self.max_priority = self.max_priority.max(item.priority);
            let ordinal = insert.first_ordinal.saturating_add(i as u64);
            self.items.insert(ordinal, item);
        }
        let next_ordinal = insert.first_ordinal.saturating_add(insert.items() as u64);
        self.limiter.inserts = self.limiter.inserts.max(next_ordinal);
        self.limiter.samples = self.limiter.samples.max(insert.samples);
        self.remove(&insert.removed);
    }

    fn item_steps(&self, at: At, end: (u32, u64), length: Option<u32>) -> ItemSteps {
        let longest = self.config.sequence_length;
        if longest == 1 {
            return ItemSteps::At(at);
        }
        let length = length.map_or(longest, |length| length as usize);
        ItemSteps::End {
            writer: end.0,
            sequence: end.1,
            before: u16::try_from(length - 1).unwrap_or(u16::MAX),
        }
    }

    fn remove(&mut self, runs: &[Run]) {
        for run in runs {
            let ordinals = run.start..run.start.saturating_add(run.len.into());
            if run.len as usize > self.items.len() {
                self.items.retain(|ordinal, _| !ordinals.contains(ordinal));
            } else {
                for ordinal in ordinals {
                    self.items.remove(&ordinal);
                }
            }
        }
    }

    fn moved(&mut self, segment: u32, items: &[MovedItem], steps: &[(u32, u64)]) {
        let block = self.blocks.len().saturating_sub(1) as u32;
        let steps = steps.iter().zip(0u32..);
        self.steps
            .extend(steps.map(|(&(number, sequence), row)| (number, sequence, At { block, row })));
        for (moved, row) in items.iter().zip(0..) {
            let item = FoundItem {
                priority: moved.priority,
                times_sampled: moved.times_sampled,
                segment,
                steps: self.item_steps(At { block, row }, moved.end, moved.length),
            };
            self.items.insert(moved.ordinal, item);
            self.limiter.inserts = self.limiter.inserts.max(moved.ordinal.saturating_add(1));
        }
    }
}
