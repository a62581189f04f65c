//! How items come into a table and leave it.

use std::collections::VecDeque;
use std::ops::Range;

use pmpo_types::{Signature, StepBatch, WriterId};

use crate::Error;
use crate::items::Item;
use crate::log::Log;
use crate::log::record::{Insert, Priorities, Record};
use crate::rate_limiter::LimiterKind;
use crate::rows::Rows;
use crate::selector::Slot;
use crate::steps::StepPlace;
use crate::table::Table;
use crate::writers::Place;

/// Steps placed at once; bounds the scratch memory of a large insert.
const PLACED_AT_ONCE: usize = 4096;

/// Where an item's steps are.
#[derive(Clone, Copy, Default)]
struct Window {
    /// Row of the first, of sequences.
    first_row: Slot,
    /// How many, where items have lengths of their own.
    length: Option<u32>,
}

impl Table {
    pub(crate) fn insert_transitions(
        &mut self,
        writer: WriterId,
        batch: &StepBatch,
        range: Range<usize>,
    ) -> Result<(), Error> {
        let first_ordinal = self.limiter.inserts();
        for first in range.clone().step_by(PLACED_AT_ONCE) {
            let end = range.end.min(first + PLACED_AT_ONCE);
            let mut rows = std::mem::take(&mut self.rows);
            rows.clear();
            rows.extend(
                (first..end).map(|step| self.place_transition(batch.priorities().get(step))),
            );
            let (_, storage) = self
                .contents
                .as_mut()
                .expect("a writer has opened the table");
            storage.write(&rows, batch.steps(), first);
            self.rows = rows;
        }
        let place = self.advance(writer, range.len())?;
        self.log_insert(place, batch, range.clone(), range, first_ordinal);
        Ok(())
    }

    /// Stores the steps in `range` and the items of `batch` in `items`, which end among them.
    pub(crate) fn insert_sequences(
        &mut self,
        writer: WriterId,
        batch: &StepBatch,
        range: Range<usize>,
        items: Range<usize>,
    ) -> Result<(), Error> {
        let first_ordinal = self.limiter.inserts();
        let ends = batch.ends().unwrap_or_default();
        let (mut tail, place) = {
            let writer = self.writers.get(writer)?;
            let next = (writer.number, writer.next_sequence);
            (std::mem::take(&mut writer.tail), next)
        };
        let segment = self.log.as_ref().map_or(0, Log::current);
        if let Some(log) = &mut self.log {
            log.added(range.len() as u64);
        }
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        let mut item = items.start;
        for (i, step) in range.clone().enumerate() {
            let place = StepPlace {
                number: place.0,
                segment,
                sequence: place.1 + i as u64,
            };
            let steps = self.steps.as_mut().expect("the table holds sequences");
            rows.push(steps.push(&mut tail, place));
            if item < items.end && ends[item] as usize == step {
                let own = batch.lengths().get(item).copied();
                let longest = self.config.sequence_length as u32;
                let length = own.unwrap_or(longest);
                let window = Window {
                    first_row: tail[tail.len() - length as usize],
                    length: self.config.is_ragged().then_some(length),
                };
                self.place_sequence(window, batch.priorities().get(item));
                item += 1;
            }
            self.trim_tail(&mut tail);
        }
        let (_, storage) = self
            .contents
            .as_mut()
            .expect("a writer has opened the table");
        storage.write(&rows, batch.steps(), range.start);
        self.rows = rows;
        self.writers.get(writer)?.tail = tail;
        let place = self.advance(writer, range.len())?;
        self.log_insert(place, batch, range, items, first_ordinal);
        Ok(())
    }

    fn advance(&mut self, writer: WriterId, steps: usize) -> Result<Place, Error> {
        let entry = self.writers.get(writer)?;
        entry.next_sequence += steps as u64;
        Ok(Place {
            writer,
            number: entry.number,
            next_sequence: entry.next_sequence,
        })
    }

    fn place_transition(&mut self, priority: Option<&f64>) -> Slot {
        while self.is_full() {
            self.remove_one();
        }
        self.add(Window::default(), priority)
    }

    fn place_sequence(&mut self, window: Window, priority: Option<&f64>) {
        while self.limiter.size() >= self.config.max_size as u64 {
            self.remove_one();
        }
        self.steps
            .as_mut()
            .expect("the table holds sequences")
            .hold(window.first_row, window.length);
        self.add(window, priority);
        while self.config.max_bytes > 0
            && self.bytes() > self.config.max_bytes
            && self.limiter.size() > 1
        {
            self.remove_one();
        }
    }

    /// Whether one more transition does not fit.
    fn is_full(&self) -> bool {
        let size = self.limiter.size();
        let (_, rows) = self
            .contents
            .as_ref()
            .expect("a writer has opened the table");
        let bytes = (size + 1) * rows.row_bytes() as u64;
        let max_bytes = self.config.max_bytes;
        size > 0 && (size >= self.config.max_size as u64 || (max_bytes > 0 && bytes > max_bytes))
    }

    fn add(&mut self, window: Window, priority: Option<&f64>) -> Slot {
        let priority = priority.copied().unwrap_or(self.max_priority);
        self.max_priority = self.max_priority.max(priority);
        let slot = self.items.insert(Item {
            ordinal: self.limiter.inserts(),
            times_sampled: 0,
            priority,
            first_row: window.first_row,
            length: window.length,
            segment: self.log.as_ref().map_or(0, Log::current),
        });
        self.sampler.insert(slot, priority);
        self.remover.insert(slot, priority);
        self.limiter.inserted(1);
        self.draws_left += u64::from(self.config.max_times_sampled);
        if let Some(log) = &mut self.log {
            log.added(1);
        }
        slot
    }

    pub(crate) fn remove_one(&mut self) {
        let (slot, _) = self.remover.select(&mut self.rng);
        self.remove(slot);
    }

    /// Removes an item that the selectors know.
    pub(crate) fn remove(&mut self, slot: Slot) {
        self.sampler.remove(slot);
        self.remover.remove(slot);
        let left = self.release(slot);
        self.draws_left -= left;
    }

    /// Items that have been drawn often enough, and are in no selector any more, leave.
    pub(crate) fn retire(&mut self, slots: &[Slot]) {
        for &slot in slots {
            let spent = |item: &Item| item.times_sampled >= self.config.max_times_sampled;
            if self.items.get(slot).is_some_and(|item| spent(&item)) {
                self.release(slot);
            }
        }
        self.log_removed();
    }

    /// Frees what an item held; answers how many draws it had left.
    fn release(&mut self, slot: Slot) -> u64 {
        let item = self.items.remove(slot);
        self.removed.push(item.ordinal, item.times_sampled);
        self.limiter.removed(1);
        if let Some(steps) = &mut self.steps {
            let log = &mut self.log;
            steps.unhold(item.first_row, item.length, |place| {
                gone(log, place.segment);
            });
        }
        gone(&mut self.log, item.segment);
        u64::from(
            self.config
                .max_times_sampled
                .saturating_sub(item.times_sampled),
        )
    }

    /// Removes what is beyond the bounds; a queue keeps what it has.
    pub(crate) fn shrink(&mut self) {
        if self.config.limiter == LimiterKind::Queue {
            return;
        }
        let (max_size, max_bytes) = (self.config.max_size as u64, self.config.max_bytes);
        while self.limiter.size() > max_size
            || (max_bytes > 0 && self.bytes() > max_bytes && self.limiter.size() > 0)
        {
            self.remove_one();
        }
    }

    /// Puts an item of the log where it was; the limiter is told of all of them at once.
    pub(crate) fn restore_item(&mut self, item: Item) -> Slot {
        if let Some(steps) = &mut self.steps {
            steps.hold(item.first_row, item.length);
        }
        let slot = self.items.insert(item);
        self.sampler.insert(slot, item.priority);
        self.remover.insert(slot, item.priority);
        let limit = self.config.max_times_sampled;
        self.draws_left += u64::from(limit.saturating_sub(item.times_sampled));
        slot
    }

    /// Restored items that the `max_times_sampled` in force leaves no draws go.
    pub(crate) fn retire_restored(&mut self) {
        let limit = self.config.max_times_sampled;
        if limit == 0 {
            return;
        }
        let spent = |&slot: &Slot| {
            let item = self.items.get(slot);
            item.is_some_and(|item| item.times_sampled >= limit)
        };
        let slots: Vec<Slot> = (0..self.items.slots() as Slot).filter(spent).collect();
        for slot in slots {
            self.sampler.remove(slot);
            self.remover.remove(slot);
            self.release(slot);
        }
    }

    pub(crate) fn drop_tail(&mut self, tail: VecDeque<Slot>) {
        if let Some(steps) = &mut self.steps {
            let log = &mut self.log;
            steps.drop_tail(tail, |place| gone(log, place.segment));
        }
    }

    fn trim_tail(&mut self, tail: &mut VecDeque<Slot>) {
        if let Some(steps) = &mut self.steps {
            let log = &mut self.log;
            steps.trim(tail, |place| gone(log, place.segment));
        }
    }

    pub(crate) fn adopt(&mut self, signature: &Signature) {
        if self.contents.is_none() {
            self.adopt_silently(signature);
            self.log_state();
        }
    }

    pub(crate) fn adopt_silently(&mut self, signature: &Signature) {
        let rows = self
            .config
            .max_size
            .saturating_mul(self.config.sequence_length);
        self.contents = Some((signature.clone(), Rows::new(signature, rows)));
    }

    fn log_insert(
        &mut self,
        place: Place,
        batch: &StepBatch,
        range: Range<usize>,
        items: Range<usize>,
        first_ordinal: u64,
    ) {
        let Some(log) = &mut self.log else { return };
        if range.is_empty() {
            return;
        }
        let shift = |ends: &[u32]| {
            let ends = ends[items.clone()].iter();
            ends.map(|end| end - range.start as u32).collect()
        };
        let lengths = batch.lengths().get(items.clone()).unwrap_or_default();
        let priorities = batch.priorities();
        let record = Record::Insert(Insert {
            place,
            first_sequence: place.next_sequence - range.len() as u64,
            steps: range.len() as u32,
            first_ordinal,
            samples: self.limiter.samples(),
            ends: batch.ends().map(shift),
            lengths: lengths.to_vec(),
            priorities: match priorities.get(items) {
                Some(each) if !each.is_empty() => Priorities::Each(each.to_vec()),
                _ => Priorities::All(self.max_priority),
            },
            removed: self.removed.runs.clone(),
        });
        log.samples = self.limiter.samples();
        let rows = batch.steps().len();
        log.append_with(&record, |buffer| {
            for column in batch.steps().columns() {
                let bytes = column.len() / rows;
                buffer.extend_from_slice(&column[range.start * bytes..range.end * bytes]);
            }
        });
    }

    pub(crate) fn log_removed(&mut self) {
        if let Some(log) = self.log.as_mut().filter(|_| self.removed.items > 0) {
            log.append(&Record::Removed(self.removed.runs.clone()));
        }
    }

    pub(crate) fn log_draws(&mut self, slots: &[Slot]) {
        let Some(log) = &mut self.log else { return };
        let ordinal = |&slot: &Slot| self.items.get(slot).map(|item| item.ordinal);
        let drawn = slots.iter().filter_map(ordinal).collect();
        log.samples = self.limiter.samples();
        log.append(&Record::Samples(log.samples, drawn));
    }
}

fn gone(log: &mut Option<Log>, segment: u32) {
    if let Some(log) = log {
        log.gone(segment);
    }
}
