//! What a writer has yet to see acknowledged. Pure bookkeeping: no clock, thread or socket.
//!
//! Items are numbered in the order they were pushed. The queue starts at `base`, the number of the
//! first item that is not acknowledged; a prefix of it has been sent on the present connection.

use std::collections::VecDeque;

use pmpo_types::ColumnBatch;

/// Unacknowledged batches in order.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: VecDeque<ColumnBatch>,
    queued_items: usize,
    base: u64,
    sent_batches: usize,
    sent_items: usize,
    acknowledged: u64,
}

/// What the server's first answer on a connection meant for the outbox.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Resumed {
    /// Items it turned out to have.
    pub(crate) acknowledged: usize,
    /// Items it had acknowledged before and knows no more.
    pub(crate) forgotten: u64,
}

impl Outbox {
    /// Items not acknowledged.
    pub(crate) fn in_flight_items(&self) -> usize {
        self.queued_items
    }

    /// Items acknowledged since the writer's beginning.
    pub(crate) fn acknowledged_items(&self) -> u64 {
        self.acknowledged
    }

    /// Whether anything waits to be sent on this connection.
    pub(crate) fn has_unsent(&self) -> bool {
        self.sent_batches < self.queue.len()
    }

    pub(crate) fn push(&mut self, batch: ColumnBatch) {
        self.queued_items += batch.len();
        self.queue.push_back(batch);
    }

    /// The next batch to send and the number of its first item; shares the bytes.
    pub(crate) fn send_next(&mut self) -> Option<(u64, ColumnBatch)> {
        let batch = self.queue.get(self.sent_batches)?.clone();
        let first_sequence = self.base + self.sent_items as u64;
        self.sent_batches += 1;
        self.sent_items += batch.len();
        Some((first_sequence, batch))
    }

    /// A new connection: the server has all below `next_sequence`, and the rest is to be sent again.
    ///
    /// A server that asks for less than it has acknowledged was restarted without its memory. What it
    /// lost is beyond the writer's reach; the writer goes on with the numbers the server expects.
    pub(crate) fn resume(&mut self, next_sequence: u64) -> Result<Resumed, String> {
        self.sent_batches = self.queue.len();
        self.sent_items = self.queued_items;
        let resumed = if next_sequence < self.base {
            let forgotten = self.base - next_sequence;
            self.base = next_sequence;
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
        self.sent_items = 0;
        Ok(resumed)
    }

    /// The server has stored all below `next_sequence`; answers how many items that acknowledges.
    pub(crate) fn acknowledge(&mut self, next_sequence: u64) -> Result<usize, String> {
        let sent = self.base + self.sent_items as u64;
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
                .expect("as many items are queued as were sent");
            if front.len() <= left {
                left -= front.len();
                self.queue.pop_front();
                self.sent_batches -= 1;
            } else {
                *front = front.skip(left);
                left = 0;
            }
        }
        self.base = next_sequence;
        self.queued_items -= acknowledged;
        self.sent_items -= acknowledged;
        self.acknowledged += acknowledged as u64;
        Ok(acknowledged)
    }
}

#[cfg(test)]
mod tests {
    use pmpo_types::{ColumnSpec, DType, Signature};

    use super::*;

    fn signature() -> Signature {
        let column = ColumnSpec {
            name: "id".to_owned(),
            dtype: DType::I64,
            shape: vec![],
        };
        Signature {
            columns: vec![column],
        }
    }

    fn batch(ids: std::ops::Range<i64>) -> ColumnBatch {
        let len = ids.clone().count();
        let column = ids.flat_map(i64::to_le_bytes).collect();
        ColumnBatch::new(&signature(), len, vec![column]).unwrap()
    }

    fn outbox(sent: usize) -> Outbox {
        let mut outbox = Outbox::default();
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
            (outbox.in_flight_items(), outbox.acknowledged_items()),
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
    fn what_was_stored_but_never_sent_on_this_connection_is_not_sent_again() {
        let mut outbox = outbox(0);
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
            (outbox.in_flight_items(), outbox.acknowledged_items()),
            (0, 12)
        );
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
        assert!(outbox.resume(13).is_err());
    }
}
