//! Where a writer's steps go, over all its shards. Pure: no clock, thread or socket; time is what the
//! caller says.
//!
//! What is pushed goes to the outbox of the shard in use. When another comes into use, steps that were
//! never sent go there with all that follow; steps that were sent stay with their shard, which alone
//! knows whether it has them. Items of several steps stay with their steps, sent or not, and the shard
//! that comes into use gets the steps that the next items begin with: once more, but as no items.

use std::collections::VecDeque;
use std::time::Instant;

use pmpo_types::StepBatch;

use crate::outbox::Outbox;
use crate::route::Route;

/// The outboxes, and which of them is in use.
#[derive(Debug)]
pub struct Dispatch {
    outboxes: Vec<Outbox>,
    route: Route,
    /// The newest steps that were pushed, as many as an item may begin with before the next one.
    tail: Tail,
}

/// What a shard's opening or failure led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The shard in use before and now, if they differ.
    pub moved: Option<(usize, usize)>,
    /// A shard to connect to.
    pub connect: Option<usize>,
}

impl Dispatch {
    /// Nothing pushed; the first of `shards` shards is being connected to.
    pub fn new(shards: usize, sequence_length: usize, now: Instant) -> Self {
        let outboxes = (0..shards).map(|_| Outbox::new(sequence_length));
        Self {
            outboxes: outboxes.collect(),
            route: Route::new(shards, now),
            tail: Tail::new(sequence_length),
        }
    }

    /// Takes the next steps; answers for which shard.
    pub fn push(&mut self, batch: StepBatch) -> usize {
        let current = self.route.current();
        self.tail.push(&batch);
        self.outboxes[current].push(batch);
        current
    }

    /// A shard's outbox.
    pub fn outbox(&mut self, shard: usize) -> &mut Outbox {
        &mut self.outboxes[shard]
    }

    /// A shard has accepted a stream.
    pub fn opened(&mut self, shard: usize) -> Changes {
        let before = self.route.current();
        self.route.opened(shard);
        self.changed(before, None)
    }

    /// A connection was lost, or not made.
    pub fn failed(&mut self, shard: usize, now: Instant) -> Changes {
        let before = self.route.current();
        let connect = self.route.failed(shard, now);
        self.changed(before, connect)
    }

    /// Steps not acknowledged by the shard in use.
    pub fn current_in_flight_steps(&self) -> usize {
        self.outboxes[self.route.current()].in_flight_steps()
    }

    /// Steps not acknowledged.
    pub fn in_flight_steps(&self) -> usize {
        self.outboxes.iter().map(Outbox::in_flight_steps).sum()
    }

    /// Items acknowledged since the beginning.
    pub fn acknowledged_items(&self) -> u64 {
        self.outboxes.iter().map(Outbox::acknowledged_items).sum()
    }

    /// Items that could not be inserted, see [`Outbox::lost_items`].
    pub fn lost_items(&self) -> u64 {
        self.outboxes.iter().map(Outbox::lost_items).sum()
    }

    fn changed(&mut self, before: usize, connect: Option<usize>) -> Changes {
        let now = self.route.current();
        if before == now {
            return Changes {
                moved: None,
                connect,
            };
        }
        let moving = if self.tail.capacity == 0 {
            self.outboxes[before].take_unbound()
        } else {
            self.tail.without_items()
        };
        for batch in moving {
            self.outboxes[now].push(batch);
        }
        Changes {
            moved: Some((before, now)),
            connect,
        }
    }
}

#[derive(Debug)]
struct Tail {
    batches: VecDeque<StepBatch>,
    steps: usize,
    /// Steps kept: all but one of an item's.
    capacity: usize,
}

impl Tail {
    fn new(sequence_length: usize) -> Self {
        Self {
            batches: VecDeque::new(),
            steps: 0,
            capacity: sequence_length - 1,
        }
    }

    fn push(&mut self, batch: &StepBatch) {
        if self.capacity == 0 {
            return;
        }
        self.steps += batch.len();
        self.batches.push_back(batch.clone());
        while let Some(front) = self.batches.front()
            && self.steps - front.len() >= self.capacity
        {
            self.steps -= front.len();
            self.batches.pop_front();
        }
    }

    fn without_items(&self) -> VecDeque<StepBatch> {
        let bare = |batch: &StepBatch| batch.retain_items(|_, _| false);
        self.batches.iter().map(bare).collect()
    }
}

#[cfg(test)]
mod tests {
    use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature};

    use super::*;
    use crate::route::FAILOVER_AFTER;

    fn steps(ids: std::ops::Range<i64>, length: usize, ends: &[u32]) -> StepBatch {
        let column = ColumnSpec::new("id", DType::I64, &[]);
        let signature = Signature {
            columns: vec![column],
        };
        let len = ids.clone().count();
        let column = ids.flat_map(i64::to_le_bytes).collect();
        let columns = ColumnBatch::new(&signature, len, vec![column]).unwrap();
        StepBatch::new(length, columns, ends.to_vec(), vec![]).unwrap()
    }

    /// Shard 0 was open and is away for good, shard 1 comes into use.
    fn move_on(dispatch: &mut Dispatch) {
        let start = Instant::now();
        dispatch.failed(0, start);
        let changes = dispatch.failed(0, start + FAILOVER_AFTER);
        assert_eq!(changes.connect, Some(1));
        assert_eq!(dispatch.opened(1).moved, Some((0, 1)));
    }

    #[test]
    fn steps_that_were_never_sent_move() {
        let mut dispatch = Dispatch::new(2, 1, Instant::now());
        dispatch.opened(0);
        for start in [0, 4, 8] {
            assert_eq!(dispatch.push(steps(start..start + 4, 1, &[])), 0);
        }
        dispatch.outbox(0).send_next().unwrap();
        move_on(&mut dispatch);
        assert_eq!(dispatch.push(steps(12..13, 1, &[])), 1);
        let outbox = dispatch.outbox(1);
        assert_eq!(outbox.send_next(), Some((0, steps(4..8, 1, &[]))));
        assert_eq!(outbox.send_next(), Some((4, steps(8..12, 1, &[]))));
        assert_eq!(outbox.send_next(), Some((8, steps(12..13, 1, &[]))));
        assert_eq!(dispatch.in_flight_steps(), 13);
    }

    #[test]
    fn items_of_several_steps_stay_and_the_next_ones_get_their_first_steps() {
        let mut dispatch = Dispatch::new(2, 4, Instant::now());
        dispatch.opened(0);
        for start in [0, 2, 4] {
            dispatch.push(steps(start..start + 2, 4, &[1]));
        }
        move_on(&mut dispatch);
        dispatch.push(steps(6..8, 4, &[0, 1]));
        assert_eq!(dispatch.outbox(0).in_flight_steps(), 6);
        let outbox = dispatch.outbox(1);
        assert_eq!(outbox.send_next(), Some((0, steps(2..4, 4, &[]))));
        assert_eq!(outbox.send_next(), Some((2, steps(4..6, 4, &[]))));
        assert_eq!(outbox.send_next(), Some((4, steps(6..8, 4, &[0, 1]))));
    }
}
