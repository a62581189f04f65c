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

use frame::{Mark, append};
use record::Record;

pub use frame::is_of_an_older_version;
pub use record::Run;

/// The buffer, and how much of each segment is alive.
pub(crate) struct Log {
    pub(crate) buffer: Vec<u8>,
    /// Number of the oldest segment.
    oldest: u32,
    segments: VecDeque<Segment>,
    /// What the last record's frame says.
    last: Mark,
    /// All records up to this one are safe.
    safe: u64,
    /// `samples` as the log has it.
    pub(crate) samples: u64,
    /// How far the oldest segment has been searched for what is alive.
    pub(crate) cursor: Cursor,
}

/// A segment as the log knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Items and steps in it that were neither removed nor written again.
    pub(crate) live: u64,
    /// Number of its first record.
    pub(crate) first: u64,
}

/// Where a search for what is alive is: slots of items, then rows of steps.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cursor {
    pub(crate) slot: usize,
    pub(crate) row: usize,
}

impl Log {
    /// A log behind these segments, from `oldest` on; their last record has the number `last`, and all of
    /// them are safe.
    pub(crate) fn new(oldest: u32, segments: VecDeque<Segment>, last: u64, samples: u64) -> Self {
        Self {
            buffer: Vec::new(),
            oldest,
            segments,
            last: Mark {
                number: last,
                safe: 0,
            },
            safe: last,
            samples,
            cursor: Cursor::default(),
        }
    }

    /// Number of the segment that is being written.
    pub(crate) fn current(&self) -> u32 {
        self.oldest + self.segments.len() as u32 - 1
    }

    /// Number of the oldest segment, unless it is the one that is being written.
    pub(crate) fn oldest(&self) -> Option<u32> {
        (self.segments.len() > 1).then_some(self.oldest)
    }

    /// The oldest segment holds nothing any more, and was safe as a whole.
    pub(crate) fn oldest_is_dead(&self) -> bool {
        self.oldest_is_within(self.safe) && self.segments[0].live == 0
    }

    /// The log says that the oldest segment was safe. Were it not to say so, a reader would take the first
    /// record behind it for one behind a hole.
    pub(crate) fn oldest_is_told_safe(&self) -> bool {
        self.oldest_is_within(self.last.safe)
    }

    fn oldest_is_within(&self, safe: u64) -> bool {
        let next = self.segments.get(1);
        next.is_some_and(|next| next.first <= safe + 1)
    }

    pub(crate) fn drop_oldest(&mut self) -> u32 {
        self.segments.pop_front();
        self.oldest += 1;
        self.cursor = Cursor::default();
        self.oldest - 1
    }

    pub(crate) fn begin_segment(&mut self) -> u32 {
        self.segments.push_back(Segment {
            live: 0,
            first: self.last.number + 1,
        });
        self.current()
    }

    /// Number of the last record.
    pub(crate) fn last_record(&self) -> u64 {
        self.last.number
    }

    pub(crate) fn safe_up_to(&mut self, number: u64) {
        self.safe = self.safe.max(number);
    }

    /// This many items or steps were written to the current segment.
    pub(crate) fn added(&mut self, count: u64) {
        self.segments.back_mut().expect("a segment has begun").live += count;
    }

    /// Everything logged so far is gone.
    pub(crate) fn reset(&mut self) {
        for segment in &mut self.segments {
            segment.live = 0;
        }
        self.cursor = Cursor::default();
        self.append(&Record::Reset);
    }

    /// An item or step of this segment is gone, or is in another.
    pub(crate) fn gone(&mut self, segment: u32) {
        let index = (segment - self.oldest) as usize;
        if let Some(segment) = self.segments.get_mut(index) {
            segment.live -= 1;
        }
    }

    pub(crate) fn append(&mut self, record: &Record) {
        self.append_with(record, |_| {});
    }

    /// Appends a record and the columns of its steps.
    pub(crate) fn append_with(&mut self, record: &Record, columns: impl FnOnce(&mut Vec<u8>)) {
        self.last = Mark {
            number: self.last.number + 1,
            safe: self.safe,
        };
        append(&mut self.buffer, self.last, |buffer| {
            record.encode(buffer);
            columns(buffer);
        });
    }
}
