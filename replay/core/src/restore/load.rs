//! The second reading: puts what is alive into a new table.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};

use serde_json::Value;

use super::{At, Found, FoundItem, ItemSteps, Restorer};
use crate::items::Item;
use crate::log::{Log, Segment};
use crate::selector::Slot;
use crate::steps::{StepPlace, Steps};
use crate::table::Table;
use crate::writers::Place;
use crate::{Error, TableConfig};

/// A table that knows its items and waits for their bytes.
pub struct Loader {
    table: Table,
    found: Found,
    /// By segments: columns in them, and which of their rows go where.
    blocks: BTreeMap<u32, Vec<LiveBlock>>,
}

struct LiveBlock {
    offset: usize,
    rows: usize,
    /// Row in the block, row in the table.
    live: Vec<(u32, Slot)>,
}

impl Restorer {
    /// Ends the first reading. The table's draws follow from `seed`; it goes on with a log, whose records
    /// say that what is believed is safe: the caller has to make it so before the first is written.
    ///
    /// # Errors
    /// The configuration in force cannot be used with what was stored.
    pub fn finish(mut self, seed: u64) -> Result<Loader, Error> {
        let end = self.end.map_or(0, |end| end.segment + 1);
        self.segments.retain(|&(segment, _)| segment < end);
        self.found.segments = self.segments.len() as u32;
        let mut items = std::mem::take(&mut self.items);
        let sequences = self.config.sequence_length > 1;
        let steps = if sequences {
            self.live_steps(&mut items)
        } else {
            Vec::new()
        };
        let log = self.log(&items, &steps);
        let mut table = Table::with_log(self.config.clone(), seed, Some(log))?;
        if let Some(kind) = &self.kind {
            if let Some(signature) = &kind.signature {
                self.config.validate_bytes(signature.item_bytes())?;
                table.adopt_silently(signature);
            }
            self.found.changed = differences(&kind.config, &self.config);
        }
        let blocks = self.place(&mut table, &items, steps);
        let state = crate::LimiterState {
            removals: self.limiter.inserts - items.len() as u64,
            ..self.limiter
        };
        let stored = self.kind.as_ref().map_or(&self.config, |kind| &kind.config);
        table.limiter.restore(state, stored, &self.config);
        table.max_priority = self.max_priority;
        self.found.items = items.len() as u64;
        self.found.inserts = state.inserts;
        self.found.samples = state.samples;
        self.found.writers = table.writers.places().len();
        Ok(Loader {
            table,
            found: self.found,
            blocks,
        })
    }

    /// The log that goes on behind what was found. A segment of which nothing is left holds nothing.
    fn log(&self, items: &BTreeMap<u64, FoundItem>, steps: &[(StepPlace, At)]) -> Log {
        let oldest = self.segments.first().map_or(0, |&(segment, _)| segment);
        let mut segments = VecDeque::new();
        for &(segment, first) in &self.segments {
            segments.resize((segment - oldest + 1) as usize, Segment { live: 0, first });
        }
        let in_items = items.values().map(|item| item.segment);
        for segment in in_items.chain(steps.iter().map(|(place, _)| place.segment)) {
            segments[(segment - oldest) as usize].live += 1;
        }
        Log::new(oldest, segments, self.next - 1, self.limiter.samples)
    }

    /// The steps that items or windows to come need, in the order of their names; items of which a
    /// step is missing are dropped.
    fn live_steps(&mut self, items: &mut BTreeMap<u64, FoundItem>) -> Vec<(StepPlace, At)> {
        let length = self.config.sequence_length;
        let mut steps = std::mem::take(&mut self.steps);
        // Of two copies the later comes first, and stays.
        steps.sort_unstable_by_key(|&(number, sequence, at)| (number, sequence, Reverse(at.block)));
        steps.dedup_by_key(|step| (step.0, step.1));
        let find = |end: (u32, u64)| {
            steps.binary_search_by_key(&end, |&(number, sequence, _)| (number, sequence))
        };
        let mut needed = vec![0i64; steps.len() + 1];
        let before = items.len();
        items.retain(|_, item| {
            let ItemSteps::End {
                writer,
                sequence: end,
                before,
            } = item.steps
            else {
                return false;
            };
            let Ok(last) = find((writer, end)) else {
                return false;
            };
            let Some(first) = last.checked_sub(before.into()) else {
                return false;
            };
            let (number, sequence, _) = steps[first];
            let whole = number == writer && end - sequence == u64::from(before);
            if whole {
                needed[first] += 1;
                needed[last + 1] -= 1;
            }
            whole
        });
        self.found.incomplete_items = (before - items.len()) as u64;
        for (_, place) in self.writers.values() {
            if let Some((first, len)) = tail(place, length, &find) {
                needed[first] += 1;
                needed[first + len] -= 1;
            }
        }
        let mut holders = 0;
        let mut live = Vec::new();
        for (&(number, sequence, at), change) in steps.iter().zip(needed) {
            holders += change;
            if holders > 0 {
                let segment = self.blocks[at.block as usize].segment;
                let place = StepPlace {
                    number,
                    segment,
                    sequence,
                };
                live.push((place, at));
            }
        }
        live
    }

    /// Puts items, steps and writers into the table; answers which rows of the log go where.
    fn place(
        &self,
        table: &mut Table,
        items: &BTreeMap<u64, FoundItem>,
        steps: Vec<(StepPlace, At)>,
    ) -> BTreeMap<u32, Vec<LiveBlock>> {
        let length = self.config.sequence_length;
        let names: Vec<(u32, u64)> = steps
            .iter()
            .map(|(place, _)| (place.number, place.sequence))
            .collect();
        let find = |end: (u32, u64)| names.binary_search(&end);
        let mut live: HashMap<u32, Vec<(u32, Slot)>> = HashMap::new();
        if length > 1 {
            for ((_, at), row) in steps.iter().zip(0..) {
                live.entry(at.block).or_default().push((at.row, row));
            }
            let places = steps.into_iter().map(|(place, _)| place).collect();
            table.steps = Some(Steps::restored(length, places));
        }
        for (ordinal, item) in items {
            let (first, steps) = match item.steps {
                ItemSteps::At(_) => (0, 1),
                ItemSteps::End {
                    writer,
                    sequence,
                    before,
                } => {
                    let last = find((writer, sequence)).unwrap_or(0);
                    let before = usize::from(before);
                    (last.saturating_sub(before), before as u32 + 1)
                }
            };
            let slot = table.restore_item(Item {
                ordinal: *ordinal,
                times_sampled: item.times_sampled,
                priority: item.priority,
                first_row: first as Slot,
                length: self.config.is_ragged().then_some(steps),
                segment: item.segment,
            });
            if let ItemSteps::At(at) = item.steps {
                live.entry(at.block).or_default().push((at.row, slot));
            }
        }
        let mut writers: Vec<_> = self.writers.values().collect();
        writers.sort_unstable_by_key(|(used, _)| *used);
        let places = writers.into_iter().map(|(_, place)| {
            let rows: VecDeque<Slot> = tail(place, length, &find)
                .into_iter()
                .flat_map(|(first, len)| first as Slot..(first + len) as Slot)
                .collect();
            if let Some(steps) = &mut table.steps {
                steps.hold_tail(rows.iter().copied());
            }
            (*place, rows)
        });
        let places = places.collect();
        for tail in table.writers.restore(self.next_number, places) {
            table.drop_tail(tail);
        }
        self.by_segment(live)
    }

    fn by_segment(&self, live: HashMap<u32, Vec<(u32, Slot)>>) -> BTreeMap<u32, Vec<LiveBlock>> {
        let mut blocks: BTreeMap<u32, Vec<LiveBlock>> = BTreeMap::new();
        for (block, mut live) in live {
            live.sort_unstable();
            let block = &self.blocks[block as usize];
            blocks.entry(block.segment).or_default().push(LiveBlock {
                offset: block.offset,
                rows: block.rows,
                live,
            });
        }
        blocks
    }
}

/// The stored steps to which windows of a writer may yet reach back: the position of the first among
/// the steps in the order of their names, and how many they are.
fn tail(
    place: &Place,
    length: usize,
    find: &dyn Fn((u32, u64)) -> Result<usize, usize>,
) -> Option<(usize, usize)> {
    let last = place.next_sequence.checked_sub(1)?;
    let at = find((place.number, last)).ok()?;
    let is_there = |&back: &usize| {
        let sequence = last.checked_sub(back as u64);
        sequence.is_some_and(|sequence| find((place.number, sequence)).is_ok())
    };
    let len = (0..length - 1).take_while(is_there).count();
    Some((at + 1 - len, len))
}

impl Loader {
    /// Copies what is alive in a segment; to be called for all of them, with the same bytes as before.
    pub fn load(&mut self, number: u32, bytes: &[u8]) {
        let Some(blocks) = self.blocks.remove(&number) else {
            return;
        };
        let Some((_, storage)) = &mut self.table.contents else {
            return;
        };
        let widths: Vec<usize> = storage.column_bytes().collect();
        for LiveBlock { offset, rows, live } in blocks {
            let mut rest = &bytes[offset..];
            let columns: Vec<&[u8]> = widths
                .iter()
                .map(|width| {
                    let (column, after) = rest.split_at(width * rows);
                    rest = after;
                    column
                })
                .collect();
            for run in live.chunk_by(|a, b| a.0 + 1 == b.0) {
                let slots: Vec<Slot> = run.iter().map(|&(_, slot)| slot).collect();
                storage.write_columns(&slots, &columns, run[0].0 as usize);
            }
        }
    }

    /// The table, once all segments are loaded, and what was found. Its log has begun a new segment.
    ///
    /// # Panics
    /// If a segment with live steps was not loaded.
    pub fn finish(mut self) -> (Table, Found) {
        assert!(self.blocks.is_empty(), "all segments are loaded");
        self.table.begin_segment();
        self.table.removed.clear();
        self.table.retire_restored();
        self.table.shrink();
        // Or they would be back at the next start, and others would have to leave for them.
        self.table.log_removed();
        self.found.removed = self.table.removed.items;
        (self.table, self.found)
    }
}

/// Fields in which two configurations differ, with both values.
pub(crate) fn differences(stored: &TableConfig, in_force: &TableConfig) -> Vec<String> {
    let fields = |config: &TableConfig| match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (stored, in_force) = (fields(stored), fields(in_force));
    let names: std::collections::BTreeSet<&String> = stored.keys().chain(in_force.keys()).collect();
    let text = |value: Option<&Value>| value.map_or_else(|| "absent".to_owned(), Value::to_string);
    let mut changed = Vec::new();
    for name in names {
        let (was, is) = (stored.get(name), in_force.get(name));
        if was != is {
            changed.push(format!(
                "{name}: {} stored, {} in force",
                text(was),
                text(is)
            ));
        }
    }
    changed
}
