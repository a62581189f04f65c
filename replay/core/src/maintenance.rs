//! What the owner of a table's log calls: to take what is to be written, to begin segments, and to
//! keep the log in proportion to the table.

use crate::log::record::{Kind, MOVED_ITEM_BYTES, MOVED_STEP_BYTES, MovedItem, Record, State};
use crate::log::{Cursor, Log};
use crate::selector::Slot;
use crate::table::Table;

/// Slots looked at for one that is moved.
const SEARCHED_FOR_ONE: usize = 64;

impl Table {
    /// Appends to `out` what has been done since the last call, as records.
    pub fn take_log(&mut self, out: &mut Vec<u8>) {
        let samples = self.limiter.samples();
        let Some(log) = &mut self.log else { return };
        if log.samples != samples {
            log.samples = samples;
            log.append(&Record::Samples(samples, Vec::new()));
        }
        if out.is_empty() {
            std::mem::swap(out, &mut log.buffer);
        } else {
            out.append(&mut log.buffer);
        }
    }

    /// From here on, the log goes to a new segment, whose number is answered; everything before must
    /// have been taken. `None` if the table has no log.
    pub fn begin_segment(&mut self) -> Option<u32> {
        let number = self.log.as_mut()?.begin_segment();
        self.log_state();
        Some(number)
    }

    /// Bytes that what is alive takes in a log which holds nothing else.
    pub fn live_log_bytes(&self) -> u64 {
        let size = self.limiter.size();
        let (rows, beside) = match &self.steps {
            None => (size, 0),
            Some(steps) => (steps.rows_in_use(), MOVED_STEP_BYTES),
        };
        let row_bytes = self
            .contents
            .as_ref()
            .map_or(0, |(_, rows)| rows.row_bytes());
        let length_bytes = if self.config.is_ragged() { 4 } else { 0 };
        rows * (row_bytes + beside) as u64 + size * (MOVED_ITEM_BYTES + length_bytes) as u64
    }

    /// The number of the segment that is being written, if the table has a log.
    pub fn current_segment(&self) -> Option<u32> {
        self.log.as_ref().map(Log::current)
    }

    /// The number of the last record; they are counted through all segments.
    pub fn last_record(&self) -> u64 {
        self.log.as_ref().map_or(0, Log::last_record)
    }

    /// All records up to this one are safe from a power failure: those to come say so.
    pub fn safe_up_to(&mut self, number: u64) {
        if let Some(log) = &mut self.log {
            log.safe_up_to(number);
        }
    }

    /// The number of the oldest segment, if nothing of what it holds is alive: it may be deleted once
    /// what has been logged so far is safe, of which this call's record, if it wrote one, is the last.
    pub fn drop_dead_segment(&mut self) -> Option<u32> {
        let samples = self.limiter.samples();
        let log = self.log.as_mut().filter(|log| log.oldest_is_dead())?;
        if !log.oldest_is_told_safe() {
            log.samples = samples;
            log.append(&Record::Samples(samples, Vec::new()));
        }
        Some(log.drop_oldest())
    }

    /// Writes up to about `count` of those items and steps again that keep the oldest segment alive.
    pub fn move_from_oldest_segment(&mut self, count: usize) {
        let Some(log) = &self.log else { return };
        let (Some(oldest), Cursor { slot, row }) = (log.oldest(), log.cursor) else {
            return;
        };
        let reach = count.saturating_mul(SEARCHED_FOR_ONE);
        let in_oldest = |&slot: &Slot| {
            let item = self.items.get(slot);
            item.is_some_and(|item| item.segment == oldest)
        };
        let slot_end = self.items.slots().min(slot.saturating_add(reach));
        let slots: Vec<Slot> = (slot as Slot..slot_end as Slot).filter(in_oldest).collect();
        let row_end = self
            .steps
            .as_ref()
            .map_or(0, |steps| steps.rows().min(row.saturating_add(reach)));
        let rows: Vec<Slot> = match &self.steps {
            None => Vec::new(),
            Some(steps) => (row as Slot..row_end as Slot)
                .filter(|&row| steps.in_use(row) && steps.place(row).segment == oldest)
                .collect(),
        };
        // A cursor stops behind the last that is moved now.
        let cut = |all: &[Slot], end| all.get(count).map_or(end, |&next| next as usize);
        let cursor = Cursor {
            slot: cut(&slots, slot_end),
            row: cut(&rows, row_end),
        };
        let (slots, rows) = (
            &slots[..slots.len().min(count)],
            &rows[..rows.len().min(count)],
        );
        self.write_again(slots, rows);
        if let Some(log) = &mut self.log {
            log.cursor = cursor;
        }
    }

    fn write_again(&mut self, slots: &[Slot], rows: &[Slot]) {
        let (Some(log), Some((_, storage))) = (&mut self.log, &self.contents) else {
            return;
        };
        if slots.is_empty() && rows.is_empty() {
            return;
        }
        let steps = self.steps.as_ref();
        let items = slots.iter().map(|&slot| {
            let item = self.items.get(slot).expect("it was found in use");
            let last = steps.and_then(|steps| {
                let row = steps.window(item.first_row, item.length).last()?;
                Some(steps.place(row))
            });
            MovedItem {
                ordinal: item.ordinal,
                priority: item.priority,
                times_sampled: item.times_sampled,
                end: last.map_or((0, 0), |place| (place.number, place.sequence)),
                length: item.length,
            }
        });
        let names = rows.iter().filter_map(|&row| {
            let place = steps?.place(row);
            Some((place.number, place.sequence))
        });
        let record = Record::Moved(items.collect(), names.collect());
        let moved = if steps.is_some() { rows } else { slots };
        let runs = storage.runs(moved.iter().copied());
        log.append_with(&record, |buffer| storage.append(&runs, buffer));
        let (current, oldest) = (log.current(), log.oldest().expect("it was searched"));
        log.added((slots.len() + rows.len()) as u64);
        for &slot in slots {
            self.items.set_segment(slot, current);
            log.gone(oldest);
        }
        for &row in rows {
            if let Some(steps) = &mut self.steps {
                steps.set_segment(row, current);
            }
            log.gone(oldest);
        }
    }

    pub(crate) fn log_state(&mut self) {
        let Some(log) = &mut self.log else { return };
        let state = State {
            kind: Kind {
                config: self.config.clone(),
                signature: self
                    .contents
                    .as_ref()
                    .map(|(signature, _)| signature.clone()),
            },
            limiter: self.limiter.state(),
            max_priority: self.max_priority,
            next_number: self.writers.next_number(),
            writers: self.writers.places(),
        };
        log.append(&Record::State(state));
    }
}
