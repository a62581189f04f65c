//! Inserts that are traced, until one of their items is drawn: that batch continues the trace.
//!
//! An item is drawn many times, and a batch holds items of many inserts. The first batch that holds an
//! item of a traced insert belongs to its trace, and no later one does: so a trace stays finite, and
//! shows how soon a step is learned from. Where several such inserts meet in a batch, it continues the
//! oldest's trace and is linked to the others', which a later batch continues.

use std::collections::VecDeque;
use std::ops::Range;

use pmpo_types::TraceContext;

/// Inserts remembered; beyond it, the oldest is forgotten, and its trace ends where it is stored.
const MAX_INSERTS: usize = 256;

#[derive(Default)]
pub(super) struct Traced {
    /// How many items had been inserted before and after each, ascending.
    inserts: VecDeque<(Range<u64>, TraceContext)>,
}

impl Traced {
    /// Items with these ordinals were inserted.
    pub(super) fn inserted(&mut self, items: Range<u64>, context: TraceContext) {
        if items.is_empty() {
            return;
        }
        if self.inserts.len() == MAX_INSERTS {
            self.inserts.pop_front();
        }
        self.inserts.push_back((items, context));
    }

    /// Items were drawn of which these are the lower halves of the ordinals, when `inserted` items had
    /// been inserted. Answers the traces of their inserts, the one to be continued first.
    pub(super) fn drawn(
        &mut self,
        inserted: u64,
        ordinals: impl Iterator<Item = u32>,
    ) -> Vec<TraceContext> {
        if self.inserts.is_empty() {
            return Vec::new();
        }
        let mut positions: Vec<usize> = ordinals
            .filter_map(|low| {
                let since = (inserted as u32).wrapping_sub(low);
                self.find(inserted.checked_sub(since.into())?)
            })
            .collect();
        positions.sort_unstable();
        let mut traces: Vec<TraceContext> = positions.iter().map(|&i| self.inserts[i].1).collect();
        // An insert that the limiter let in piece by piece has several places, one after another.
        traces.dedup();
        if let Some(&continued) = traces.first() {
            self.inserts.retain(|(_, context)| *context != continued);
        }
        traces
    }

    fn find(&self, ordinal: u64) -> Option<usize> {
        let after = self
            .inserts
            .partition_point(|(items, _)| items.start <= ordinal);
        let position = after.checked_sub(1)?;
        self.inserts[position]
            .0
            .contains(&ordinal)
            .then_some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(span_id: u64) -> TraceContext {
        TraceContext {
            trace_id: 7,
            span_id,
        }
    }

    #[test]
    fn the_oldest_traced_insert_in_a_batch_is_continued_once() {
        let mut traced = Traced::default();
        assert!(traced.drawn(100, [5].into_iter()).is_empty());
        traced.inserted(10..20, context(1));
        traced.inserted(30..40, context(2));
        traced.inserted(40..50, context(2));
        assert!(traced.drawn(100, [9, 20, 29, 50].into_iter()).is_empty());
        let both = [45, 19, 12, 33];
        assert_eq!(
            traced.drawn(100, both.into_iter()),
            [context(1), context(2)]
        );
        assert_eq!(traced.drawn(100, both.into_iter()), [context(2)]);
        assert!(traced.drawn(100, both.into_iter()).is_empty());
    }

    #[test]
    fn ordinals_beyond_32_bits_are_found_by_their_lower_half() {
        let mut traced = Traced::default();
        let start = (7u64 << 32) - 2;
        traced.inserted(start..start + 4, context(1));
        assert!(
            traced
                .drawn(start + 5, [(start as u32).wrapping_sub(1)].into_iter())
                .is_empty()
        );
        let drawn = traced.drawn(start + 5, [1].into_iter());
        assert_eq!(drawn, [context(1)]);
    }

    #[test]
    fn few_are_remembered() {
        let mut traced = Traced::default();
        for i in 0..1000 {
            traced.inserted(i..i + 1, context(i));
        }
        assert_eq!(traced.inserts.len(), MAX_INSERTS);
        assert!(traced.drawn(1000, [743].into_iter()).is_empty());
        assert_eq!(traced.drawn(1000, [744].into_iter()), [context(744)]);
    }
}
