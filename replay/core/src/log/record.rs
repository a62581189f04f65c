//! Records: what a table writes down, and how it is read back. All numbers are little-endian; nothing
//! read is believed before it has been checked against what is left of the payload.

use pmpo_types::{ColumnSpec, Signature, WriterId, check_priorities};
use serde::{Deserialize, Serialize};

use crate::TableConfig;
use crate::config::MAX_SEQUENCE_LENGTH;
use crate::rate_limiter::LimiterState;
use crate::writers::Place;

/// Consecutive ordinals of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub start: u64,
    /// How many.
    pub len: u32,
}

/// What a segment begins with: all that is not an item or a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) kind: Kind,
    pub(crate) limiter: LimiterState,
    pub(crate) max_priority: f64,
    pub(crate) next_number: u32,
    pub(crate) writers: Vec<Place>,
}

/// What a table is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kind {
    pub(crate) config: TableConfig,
    pub(crate) signature: Option<Signature>,
}

impl Kind {
    /// Whether its sizes can be computed with.
    fn is_sane(&self) -> bool {
        let bytes = |column: &ColumnSpec| {
            let size = column.dtype.size();
            column
                .shape
                .iter()
                .try_fold(size, |bytes, &axis| bytes.checked_mul(axis))
        };
        let columns = self
            .signature
            .iter()
            .flat_map(|signature| &signature.columns);
        let total = columns
            .map(bytes)
            .try_fold(0usize, |total, column| total.checked_add(column?));
        total.is_some_and(|bytes| bytes <= MAX_STEP_BYTES)
    }
}

/// Steps of one writer and the items that end in them, as they were inserted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Insert {
    pub(crate) place: Place,
    pub(crate) first_sequence: u64,
    pub(crate) steps: u32,
    pub(crate) first_ordinal: u64,
    pub(crate) samples: u64,
    /// Positions of the items' last steps; absent where every step is an item.
    pub(crate) ends: Option<Vec<u32>>,
    /// The items' steps; empty where all have as many as the table says.
    pub(crate) lengths: Vec<u32>,
    pub(crate) priorities: Priorities,
    pub(crate) removed: Vec<Run>,
}

/// The priorities of new items.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Priorities {
    All(f64),
    Each(Vec<f64>),
}

impl Priorities {
    pub(crate) fn get(&self, item: usize) -> f64 {
        match self {
            Self::All(priority) => *priority,
            Self::Each(priorities) => priorities[item],
        }
    }
}

/// An item that is written again, so that the segment it was in can go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MovedItem {
    pub(crate) ordinal: u64,
    pub(crate) priority: f64,
    pub(crate) times_sampled: u32,
    /// Writer and number of the last step; of sequences.
    pub(crate) end: (u32, u64),
    /// Steps, where items have lengths of their own.
    pub(crate) length: Option<u32>,
}

/// One record. Columns of steps follow it in the payload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    State(State),
    Insert(Insert),
    Removed(Vec<Run>),
    /// The counter, and the ordinals drawn where items leave after so many draws.
    Samples(u64, Vec<u64>),
    Priorities(Vec<(u64, f64)>),
    /// Items, and steps by the numbers of their writers and their own. A transition is its one step.
    Moved(Vec<MovedItem>, Vec<(u32, u64)>),
    /// All items and steps are gone, and the signature; a state follows.
    Reset,
}

/// Bytes of an item and of a step of a sequence in [`Record::Moved`], beside their columns.
pub(crate) const MOVED_ITEM_BYTES: usize = 32;
pub(crate) const MOVED_STEP_BYTES: usize = 12;

/// Largest step of a signature that is believed.
const MAX_STEP_BYTES: usize = 1 << 30;

const STATE: u8 = 1;
const INSERT: u8 = 2;
const REMOVED: u8 = 3;
const SAMPLES: u8 = 4;
const PRIORITIES: u8 = 5;
const MOVED: u8 = 6;
const RESET: u8 = 7;
/// As [`MOVED`], each item followed by its length.
const MOVED_RAGGED: u8 = 8;

impl Record {
    /// Rows of the columns that follow the record, if it has any.
    pub(crate) fn rows(&self, sequences: bool) -> usize {
        match self {
            Self::Insert(insert) => insert.steps as usize,
            Self::Moved(items, _) if !sequences => items.len(),
            Self::Moved(_, steps) => steps.len(),
            _ => 0,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::State(state) => {
                out.push(STATE);
                state.encode(out);
            }
            Self::Insert(insert) => {
                out.push(INSERT);
                insert.encode(out);
            }
            Self::Removed(runs) => {
                out.push(REMOVED);
                put_runs(out, runs);
            }
            Self::Samples(samples, drawn) => {
                out.push(SAMPLES);
                put_u64(out, *samples);
                put_all(out, drawn, |out, &ordinal| put_u64(out, ordinal));
            }
            Self::Priorities(updates) => {
                out.push(PRIORITIES);
                put_all(out, updates, |out, &(ordinal, priority)| {
                    put_u64(out, ordinal);
                    put_f64(out, priority);
                });
            }
            Self::Reset => out.push(RESET),
            Self::Moved(items, steps) => {
                // All have one, or none has.
                let ragged = items.iter().any(|item| item.length.is_some());
                out.push(if ragged { MOVED_RAGGED } else { MOVED });
                put_all(out, items, |out, item| {
                    put_u64(out, item.ordinal);
                    put_f64(out, item.priority);
                    put_u32(out, item.times_sampled);
                    put_u32(out, item.end.0);
                    put_u64(out, item.end.1);
                    if let Some(length) = item.length {
                        put_u32(out, length);
                    }
                });
                put_all(out, steps, |out, &(number, sequence)| {
                    put_u32(out, number);
                    put_u64(out, sequence);
                });
            }
        }
    }

    /// Reads a record and where in the payload it ends; `None` if it is none.
    pub(crate) fn decode(payload: &[u8]) -> Option<(Self, usize)> {
        let mut input = Input(payload);
        let record = match input.u8()? {
            STATE => Self::State(State::decode(&mut input)?),
            INSERT => Self::Insert(Insert::decode(&mut input)?),
            REMOVED => Self::Removed(input.runs()?),
            SAMPLES => Self::Samples(input.u64()?, input.all(8, Input::u64)?),
            PRIORITIES => {
                Self::Priorities(input.all(16, |input| Some((input.u64()?, input.priority()?)))?)
            }
            RESET => Self::Reset,
            kind @ (MOVED | MOVED_RAGGED) => {
                let ragged = kind == MOVED_RAGGED;
                let item = |input: &mut Input| {
                    Some(MovedItem {
                        ordinal: input.u64()?,
                        priority: input.priority()?,
                        times_sampled: input.u32()?,
                        end: (input.u32()?, input.u64()?),
                        length: match ragged {
                            true => Some(input.length()?),
                            false => None,
                        },
                    })
                };
                let step = |input: &mut Input| Some((input.u32()?, input.u64()?));
                Self::Moved(
                    input.all(MOVED_ITEM_BYTES, item)?,
                    input.all(MOVED_STEP_BYTES, step)?,
                )
            }
            _ => return None,
        };
        Some((record, payload.len() - input.0.len()))
    }
}

impl State {
    fn encode(&self, out: &mut Vec<u8>) {
        let kind = serde_json::to_vec(&self.kind).expect("a valid configuration has a JSON form");
        put_u32(out, kind.len() as u32);
        out.extend_from_slice(&kind);
        let limiter = &self.limiter;
        for count in [
            limiter.inserts,
            limiter.samples,
            limiter.removals,
            limiter.base_inserts,
            limiter.base_samples,
        ] {
            put_u64(out, count);
        }
        put_f64(out, limiter.base_diff);
        put_f64(out, self.max_priority);
        put_u32(out, self.next_number);
        put_all(out, &self.writers, put_place);
    }

    fn decode(input: &mut Input) -> Option<Self> {
        let len = input.u32()? as usize;
        let kind: Kind = serde_json::from_slice(input.take(len)?).ok()?;
        let state = Self {
            kind,
            limiter: LimiterState {
                inserts: input.u64()?,
                samples: input.u64()?,
                removals: input.u64()?,
                base_inserts: input.u64()?,
                base_samples: input.u64()?,
                base_diff: input.f64()?,
            },
            max_priority: input.f64()?,
            next_number: input.u32()?,
            writers: input.all(28, Input::place)?,
        };
        let LimiterState {
            inserts, samples, ..
        } = state.limiter;
        let sane = state.kind.is_sane()
            && state.limiter.base_inserts <= inserts
            && state.limiter.base_samples <= samples
            && state.limiter.base_diff.is_finite()
            && check_priorities(&[state.max_priority]).is_ok();
        sane.then_some(state)
    }
}

impl Insert {
    fn encode(&self, out: &mut Vec<u8>) {
        put_place(out, &self.place);
        put_u64(out, self.first_sequence);
        put_u32(out, self.steps);
        put_u64(out, self.first_ordinal);
        put_u64(out, self.samples);
        match &self.ends {
            None => out.push(0),
            Some(ends) => {
                out.push(if self.lengths.is_empty() { 1 } else { 2 });
                put_all(out, ends, |out, &end| put_u32(out, end));
                if !self.lengths.is_empty() {
                    put_all(out, &self.lengths, |out, &length| put_u32(out, length));
                }
            }
        }
        match &self.priorities {
            Priorities::All(priority) => {
                out.push(0);
                put_f64(out, *priority);
            }
            Priorities::Each(priorities) => {
                out.push(1);
                put_all(out, priorities, |out, &priority| put_f64(out, priority));
            }
        }
        put_runs(out, &self.removed);
    }

    fn decode(input: &mut Input) -> Option<Self> {
        let place = input.place()?;
        let first_sequence = input.u64()?;
        let steps = input.u32()?;
        let first_ordinal = input.u64()?;
        let samples = input.u64()?;
        let kind = input.u8()?;
        let insert = Self {
            place,
            first_sequence,
            steps,
            first_ordinal,
            samples,
            ends: match kind {
                0 => None,
                _ => Some(input.all(4, Input::u32)?),
            },
            lengths: match kind {
                2 => input.all(4, Input::length)?,
                _ => Vec::new(),
            },
            priorities: match input.u8()? {
                0 => Priorities::All(input.priority()?),
                _ => Priorities::Each(input.all(8, Input::priority)?),
            },
            removed: input.runs()?,
        };
        let in_range = |ends: &Vec<u32>| ends.iter().all(|&end| end < insert.steps);
        let one_each = match &insert.priorities {
            Priorities::All(_) => true,
            Priorities::Each(priorities) => priorities.len() == insert.items(),
        };
        let lengths = insert.lengths.len();
        let one_each = one_each && (lengths == 0 || lengths == insert.items());
        (insert.ends.as_ref().is_none_or(in_range) && one_each).then_some(insert)
    }

    pub(crate) fn items(&self) -> usize {
        self.ends.as_ref().map_or(self.steps as usize, Vec::len)
    }
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_f64(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_all<T>(out: &mut Vec<u8>, all: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    put_u32(out, all.len() as u32);
    all.iter().for_each(|one| put(out, one));
}

fn put_runs(out: &mut Vec<u8>, runs: &[Run]) {
    put_all(out, runs, |out, run| {
        put_u64(out, run.start);
        put_u32(out, run.len);
    });
}

fn put_place(out: &mut Vec<u8>, place: &Place) {
    out.extend_from_slice(&place.writer.0.to_le_bytes());
    put_u32(out, place.number);
    put_u64(out, place.next_sequence);
}

/// What is left of a payload.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(len)?;
        self.0 = left;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Steps of an item.
    fn length(&mut self) -> Option<u32> {
        self.u32()
            .filter(|length| (1..=MAX_SEQUENCE_LENGTH as u32).contains(length))
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn f64(&mut self) -> Option<f64> {
        self.array().map(f64::from_le_bytes)
    }

    fn priority(&mut self) -> Option<f64> {
        self.f64()
            .filter(|&priority| check_priorities(&[priority]).is_ok())
    }

    /// A counted list of values of `bytes` each; reserves no more than what is left can hold.
    fn all<T>(
        &mut self,
        bytes: usize,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let len = self.u32()? as usize;
        if len.checked_mul(bytes)? > self.0.len() {
            return None;
        }
        (0..len).map(|_| read(self)).collect()
    }

    fn runs(&mut self) -> Option<Vec<Run>> {
        self.all(12, |input| {
            Some(Run {
                start: input.u64()?,
                len: input.u32()?,
            })
        })
    }

    fn place(&mut self) -> Option<Place> {
        Some(Place {
            writer: WriterId(self.array().map(u128::from_le_bytes)?),
            number: self.u32()?,
            next_sequence: self.u64()?,
        })
    }
}

#[cfg(test)]
mod tests;
