//! What a writer has yet to see acknowledged by one shard. Pure bookkeeping: no clock, thread or
//! socket.
//!
//! Steps are numbered in the order they were pushed; where every step is an item, so are the items.
//! The queue starts at `base`, the number of the first step that is not acknowledged; a prefix of it
//! has been sent on the present connection, and a prefix at least as long on any connection. Whether
//! the shard has stored the latter only the shard can tell, so those steps are bound to it; the others
//! may go elsewhere.

use std::collections::VecDeque;

use pmpo_types::StepBatch;

/// Unacknowledged batches in order.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<StepBatch>,
    queued_steps: usize,
    base: u64,
    /// Once the shard has lost steps: items that begin before this number begin with some, and are lost too.
    kept_from: Option<u64>,
    /// Steps of an item, at most.
    sequence_length: u64,
    /// Batches sent on the present connection.
    sent_batches: usize,
    sent_steps: usize,
    /// Batches ever sent; at least `sent_batches`.
    bound_batches: usize,
    acknowledged_items: u64,
    lost_items: u64,
}

/// What the server's first answer on a connection meant for the outbox.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Steps it turned out to have.
    pub acknowledged: usize,
    /// Steps it had acknowledged before and knows no more.
    pub forgotten: u64,
}

impl Outbox {
    /// An outbox for items of at most `sequence_length` steps.
    pub fn new(sequence_length: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            queued_steps: 0,
            base: 0,
            kept_from: None,
            sequence_length: sequence_length as u64,
            sent_batches: 0,
            sent_steps: 0,
            bound_batches: 0,
            acknowledged_items: 0,
            lost_items: 0,
        }
    }

    /// Steps not acknowledged.
    pub fn in_flight_steps(&self) -> usize {
        self.queued_steps
    }

    /// Items acknowledged since the writer's beginning.
    pub fn acknowledged_items(&self) -> u64 {
        self.acknowledged_items
    }

    /// Items that could not be inserted, because the shard has lost steps they begin with.
    pub fn lost_items(&self) -> u64 {
        self.lost_items
    }

    /// Whether anything waits to be sent on this connection.
    pub fn has_unsent(&self) -> bool {
        self.sent_batches < self.queue.len()
    }

    /// Takes a batch in.
    pub fn push(&mut self, batch: StepBatch) {
        let first_sequence = self.base + self.queued_steps as u64;
        let batch = self.whole_items(first_sequence, batch);
        self.queued_steps += batch.len();
        self.queue.push_back(batch);
    }

    /// The next batch to send and the number of its first step; shares the bytes.
    pub fn send_next(&mut self) -> Option<(u64, StepBatch)> {
        let batch = self.queue.get(self.sent_batches)?.clone();
        let first_sequence = self.base + self.sent_steps as u64;
        self.sent_batches += 1;
        self.sent_steps += batch.len();
        self.bound_batches = self.bound_batches.max(self.sent_batches);
        Some((first_sequence, batch))
    }

    /// Gives up the batches that were never sent, for another shard.
    pub fn take_unbound(&mut self) -> VecDeque<StepBatch> {
        let unbound = self.queue.split_off(self.bound_batches);
        self.queued_steps -= unbound.iter().map(StepBatch::len).sum::<usize>();
        unbound
    }

    /// A new connection: the server has all below `next_sequence`, and the rest is to be sent again.
    ///
    /// A server that asks for less than it has acknowledged was restarted without its memory. What it
    /// lost is beyond the writer's reach; the writer goes on with the numbers the server expects.
    ///
    /// # Errors
    /// The server claims more than it can have.
    pub fn resume(&mut self, next_sequence: u64) -> Result<Resumed, String> {
        self.sent_batches = self.bound_batches;
        let bound = self.queue.iter().take(self.bound_batches);
        self.sent_steps = bound.map(StepBatch::len).sum();
        let resumed = if next_sequence < self.base {
            let forgotten = self.base - next_sequence;
            self.base = next_sequence;
            self.kept_from = Some(next_sequence);
            self.drop_incomplete();
            Resumed {
                acknowledged: 0,
                forgotten,
            }
        } else {
            Resumed {
                acknowledged: self.acknowledge(next_sequence)?,
                forgotten: 0,
            }
        };
        self.sent_batches = 0;
        self.sent_steps = 0;
        Ok(resumed)
    }

    /// The server has stored all below `next_sequence`; answers how many steps that acknowledges.
    ///
    /// # Errors
    /// It takes back what it has acknowledged, or claims more than was sent.
    pub fn acknowledge(&mut self, next_sequence: u64) -> Result<usize, String> {
        let sent = self.base + self.sent_steps as u64;
        if !(self.base..=sent).contains(&next_sequence) {
            let base = self.base;
            return Err(format!(
                "next_sequence: expected {base} to {sent}, got {next_sequence}"
            ));
        }
        let acknowledged = (next_sequence - self.base) as usize;
        let mut left = acknowledged;
        while left > 0 {
            let front = self
                .queue
                .front_mut()
                .expect("as many steps are queued as were sent");
            let items = front.items();
            if front.len() <= left {
                self.acknowledged_items += items as u64;
                left -= front.len();
                self.queue.pop_front();
                self.sent_batches -= 1;
                self.bound_batches = self.bound_batches.saturating_sub(1);
            } else {
                *front = front.skip(left);
                self.acknowledged_items += (items - front.items()) as u64;
                left = 0;
            }
        }
        self.base = next_sequence;
        self.queued_steps -= acknowledged;
        self.sent_steps -= acknowledged;
        Ok(acknowledged)
    }

    /// Keeps the items that are whole.
    fn drop_incomplete(&mut self) {
        let mut first_sequence = self.base;
        for batch in std::mem::take(&mut self.queue) {
            let batch = self.whole_items(first_sequence, batch);
            first_sequence += batch.len() as u64;
            self.queue.push_back(batch);
        }
    }

    /// A batch without the items whose first steps the shard has no more.
    fn whole_items(&mut self, first_sequence: u64, batch: StepBatch) -> StepBatch {
        let longest = self.sequence_length;
        let reaches_back = |&kept_from: &u64| first_sequence + 1 < kept_from + longest;
        let Some(kept_from) = self.kept_from.filter(reaches_back) else {
            return batch;
        };
        let whole = batch.retain_items(|end, length| {
            let length = length.map_or(longest, u64::from);
            first_sequence + u64::from(end) + 1 >= kept_from + length
        });
        self.lost_items += (batch.items() - whole.items()) as u64;
        whole
    }
}

#[cfg(test)]
mod tests {
    use pmpo_types::{ColumnBatch, ColumnSpec, DType, Signature};

    use super::*;

    fn signature() -> Signature {
        let column = ColumnSpec::new("id", DType::I64, &[]);
        Signature {
            columns: vec![column],
        }
    }

    fn batch(ids: std::ops::Range<i64>) -> StepBatch {
        StepBatch::transitions(columns(ids))
    }

    fn columns(ids: std::ops::Range<i64>) -> ColumnBatch {
        let len = ids.clone().count();
        let column = ids.flat_map(i64::to_le_bytes).collect();
        ColumnBatch::new(&signature(), len, vec![column]).unwrap()
    }

    fn outbox(sent: usize) -> Outbox {
        let mut outbox = Outbox::new(1);
        for start in [0, 4, 8] {
            outbox.push(batch(start..start + 4));
        }
        for _ in 0..sent {
            outbox.send_next().unwrap();
        }
        outbox
    }

    #[test]
    fn batches_are_sent_in_order_under_their_numbers() {
        let mut outbox = outbox(0);
        for start in [0, 4, 8] {
            assert_eq!(
                outbox.send_next(),
                Some((start, batch(start as i64..start as i64 + 4)))
            );
        }
        assert_eq!(outbox.send_next(), None);
        assert!(!outbox.has_unsent());
    }

    #[test]
    fn acknowledgements_free_items_even_within_a_batch() {
        let mut outbox = outbox(2);
        assert_eq!(outbox.acknowledge(6), Ok(6));
        assert_eq!(
            (outbox.in_flight_steps(), outbox.acknowledged_items()),
            (6, 6)
        );
        assert_eq!(outbox.acknowledge(6), Ok(0));
        assert_eq!(outbox.send_next(), Some((8, batch(8..12))));
    }

    #[test]
    fn a_new_connection_goes_on_where_the_server_is() {
        let mut outbox = outbox(3);
        outbox.acknowledge(2).unwrap();
        assert_eq!(
            outbox.resume(5),
            Ok(Resumed {
                acknowledged: 3,
                forgotten: 0
            })
        );
        assert_eq!(outbox.send_next(), Some((5, batch(5..8))));
        assert_eq!(outbox.send_next(), Some((8, batch(8..12))));
    }

    #[test]
    fn what_was_stored_but_not_sent_on_this_connection_is_not_sent_again() {
        let mut outbox = outbox(3);
        outbox.resume(0).unwrap();
        assert_eq!(
            outbox.resume(12),
            Ok(Resumed {
                acknowledged: 12,
                forgotten: 0
            })
        );
        assert!(!outbox.has_unsent());
    }

    #[test]
    fn a_server_without_memory_gets_what_was_not_acknowledged() {
        let mut outbox = outbox(3);
        outbox.acknowledge(5).unwrap();
        assert_eq!(
            outbox.resume(0),
            Ok(Resumed {
                acknowledged: 0,
                forgotten: 5
            })
        );
        assert_eq!(outbox.send_next(), Some((0, batch(5..8))));
        assert_eq!(outbox.send_next(), Some((3, batch(8..12))));
        assert_eq!(outbox.acknowledge(7), Ok(7));
        assert_eq!(
            (outbox.in_flight_steps(), outbox.acknowledged_items()),
            (0, 12)
        );
    }

    #[test]
    fn items_that_begin_with_forgotten_steps_are_lost_and_counted() {
        let sequence = |ids: std::ops::Range<i64>, ends: &[u32]| {
            StepBatch::new(3, columns(ids), ends.to_vec(), vec![]).unwrap()
        };
        let mut outbox = Outbox::new(3);
        outbox.push(sequence(0..4, &[2, 3]));
        outbox.push(sequence(4..8, &[0, 1, 2, 3]));
        outbox.send_next().unwrap();
        outbox.send_next().unwrap();
        outbox.acknowledge(3).unwrap();
        assert_eq!(outbox.acknowledged_items(), 1);
        outbox.resume(0).unwrap();
        // Step 3 has number 0 now, so the first whole item ends at step 5.
        assert_eq!(outbox.send_next(), Some((0, sequence(3..4, &[]))));
        assert_eq!(outbox.send_next(), Some((1, sequence(4..8, &[1, 2, 3]))));
        assert_eq!(outbox.lost_items(), 2);
        outbox.acknowledge(5).unwrap();
        assert_eq!(outbox.acknowledged_items(), 4);

        // So are items that are pushed later.
        outbox.resume(1).unwrap();
        outbox.push(sequence(8..11, &[0, 1, 2]));
        assert_eq!(outbox.send_next(), Some((1, sequence(8..11, &[2]))));
        assert_eq!(outbox.lost_items(), 4);
    }

    #[test]
    fn of_items_with_lengths_those_are_lost_that_begin_with_forgotten_steps() {
        let sequence = |ids: std::ops::Range<i64>, ends: &[u32], lengths: &[u32]| {
            StepBatch::new(4, columns(ids), ends.to_vec(), vec![])
                .and_then(|batch| batch.with_lengths(1..=4, lengths.to_vec()))
                .unwrap()
        };
        let mut outbox = Outbox::new(4);
        outbox.push(sequence(0..4, &[3], &[1]));
        outbox.push(sequence(4..8, &[0, 1, 2, 3], &[1, 3, 2, 4]));
        outbox.send_next().unwrap();
        outbox.acknowledge(4).unwrap();
        outbox.resume(0).unwrap();
        // The second would begin with step 3, the others with 4, 5 and 4.
        let whole = sequence(4..8, &[0, 2, 3], &[1, 2, 4]);
        assert_eq!(outbox.send_next(), Some((0, whole)));
        assert_eq!(outbox.lost_items(), 1);
    }

    #[test]
    fn only_what_was_never_sent_may_go_elsewhere() {
        let mut outbox = outbox(2);
        outbox.acknowledge(4).unwrap();
        // A lost connection does not unbind what was sent on it.
        outbox.resume(4).unwrap();
        assert_eq!(outbox.take_unbound(), [batch(8..12)]);
        assert_eq!(outbox.in_flight_steps(), 4);
        outbox.push(batch(12..14));
        assert_eq!(outbox.send_next(), Some((4, batch(4..8))));
        assert_eq!(outbox.send_next(), Some((8, batch(12..14))));
        assert!(outbox.take_unbound().is_empty());
        outbox.acknowledge(10).unwrap();
        outbox.push(batch(14..15));
        assert_eq!(outbox.take_unbound(), [batch(14..15)]);
        assert_eq!(outbox.in_flight_steps(), 0);
    }

    #[test]
    fn acknowledging_what_was_not_sent_or_twice_is_refused() {
        let mut outbox = outbox(1);
        assert_eq!(
            outbox.acknowledge(5),
            Err("next_sequence: expected 0 to 4, got 5".to_owned())
        );
        outbox.acknowledge(4).unwrap();
        assert!(outbox.acknowledge(3).is_err());
        assert!(outbox.resume(5).is_err(), "never sent");
    }
}
