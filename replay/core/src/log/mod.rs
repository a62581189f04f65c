//! The table's log: everything it has done, as records, so that another process can do it again.
//!
//! The table appends records to a buffer; whoever owns it writes the buffer to a file before it
//! answers callers, and says when to begin a new file, a segment. Segments go in the order they came:
//! each begins with all that is no item or step, and the items that are left in the oldest are written
//! again at the end, a few at a time, until it can be deleted. Nothing ever waits for a checkpoint,
//! and removing an item costs eight bytes, or none where neighbours go together.

pub(crate) mod frame;
pub(crate) mod record;

use std::collections::VecDeque;

use frame::append;
use record::Record;

pub use record::Run;

/// The buffer, and how much of each segment is alive.
pub(crate) struct Log {
    pub(crate) buffer: Vec<u8>,
    /// Number of the oldest segment.
    oldest: u32,
    /// Items and steps in each segment that were neither removed nor written again.
    live: VecDeque<u64>,
    /// `samples` as the log has it.
    pub(crate) samples: u64,
    /// How far the oldest segment has been searched for what is alive.
    pub(crate) cursor: Cursor,
}

/// Where a search for what is alive is: slots of items, then rows of steps.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cursor {
    pub(crate) slot: usize,
    pub(crate) row: usize,
}

impl Log {
    /// A log behind segments from `oldest` on of which this much is alive.
    pub(crate) fn new(oldest: u32, live: VecDeque<u64>, samples: u64) -> Self {
        Self {
            buffer: Vec::new(),
            oldest,
            live,
            samples,
            cursor: Cursor::default(),
        }
    }

    /// Number of the segment that is being written.
    pub(crate) fn current(&self) -> u32 {
        self.oldest + self.live.len() as u32 - 1
    }

    /// Number of the oldest segment, unless it is the one that is being written.
    pub(crate) fn oldest(&self) -> Option<u32> {
        (self.live.len() > 1).then_some(self.oldest)
    }

    /// The oldest segment holds nothing any more.
    pub(crate) fn oldest_is_dead(&self) -> bool {
        self.live.len() > 1 && self.live[0] == 0
    }

    pub(crate) fn drop_oldest(&mut self) -> u32 {
        self.live.pop_front();
        self.oldest += 1;
        self.cursor = Cursor::default();
        self.oldest - 1
    }

    pub(crate) fn begin_segment(&mut self) -> u32 {
        self.live.push_back(0);
        self.current()
    }

    /// This many items or steps were written to the current segment.
    pub(crate) fn added(&mut self, count: u64) {
        *self.live.back_mut().expect("a segment has begun") += count;
    }

    /// An item or step of this segment is gone, or is in another.
    pub(crate) fn gone(&mut self, segment: u32) {
        if let Some(live) = self.live.get_mut((segment - self.oldest) as usize) {
            *live -= 1;
        }
    }

    pub(crate) fn append(&mut self, record: &Record) {
        append(&mut self.buffer, |buffer| record.encode(buffer));
    }

    /// Appends a record and the columns of its steps.
    pub(crate) fn append_with(&mut self, record: &Record, columns: impl FnOnce(&mut Vec<u8>)) {
        append(&mut self.buffer, |buffer| {
            record.encode(buffer);
            columns(buffer);
        });
    }
}
