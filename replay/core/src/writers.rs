//! Where each writer is in its numbered stream of items: what makes delivering again harmless.

use std::collections::HashMap;

use pmpo_types::WriterId;

use crate::Error;

/// Sequence numbers of the writers, at most `limit` of them.
pub(crate) struct Writers {
    entries: HashMap<WriterId, Entry>,
    limit: usize,
    /// Counts openings and closings, to order entries by their last use.
    uses: u64,
}

struct Entry {
    next_sequence: u64,
    connected: bool,
    last_use: u64,
}

impl Writers {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: HashMap::new(),
            limit,
            uses: 0,
        }
    }

    /// A writer connects; answers the number of the item it is to send next. When all places are
    /// taken, the writer that has been disconnected for longest is forgotten.
    pub(crate) fn open(&mut self, writer: WriterId) -> Result<u64, Error> {
        if !self.entries.contains_key(&writer) && self.entries.len() >= self.limit {
            let disconnected = self.entries.iter().filter(|(_, entry)| !entry.connected);
            let (&forgotten, _) = disconnected
                .min_by_key(|(_, entry)| entry.last_use)
                .ok_or(Error::TooManyWriters(self.limit))?;
            self.entries.remove(&forgotten);
        }
        self.uses += 1;
        let new = Entry {
            next_sequence: 0,
            connected: true,
            last_use: 0,
        };
        let entry = self.entries.entry(writer).or_insert(new);
        entry.connected = true;
        entry.last_use = self.uses;
        Ok(entry.next_sequence)
    }

    /// A writer has disconnected.
    pub(crate) fn close(&mut self, writer: WriterId) {
        self.uses += 1;
        if let Some(entry) = self.entries.get_mut(&writer) {
            entry.connected = false;
            entry.last_use = self.uses;
        }
    }

    /// The number of the item that a connected writer is to send next.
    pub(crate) fn next_sequence(&mut self, writer: WriterId) -> Result<&mut u64, Error> {
        match self.entries.get_mut(&writer) {
            Some(entry) if entry.connected => Ok(&mut entry.next_sequence),
            _ => Err(Error::UnknownWriter(writer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_comes_back_goes_on_where_it_was() {
        let mut writers = Writers::new(2);
        assert_eq!(writers.open(WriterId(1)), Ok(0));
        *writers.next_sequence(WriterId(1)).unwrap() += 5;
        writers.close(WriterId(1));
        assert_eq!(
            writers.next_sequence(WriterId(1)),
            Err(Error::UnknownWriter(WriterId(1)))
        );
        assert_eq!(writers.open(WriterId(1)), Ok(5));
    }

    #[test]
    fn the_longest_disconnected_is_forgotten_and_the_connected_never() {
        let mut writers = Writers::new(3);
        for id in 0..3 {
            writers.open(WriterId(id)).unwrap();
            *writers.next_sequence(WriterId(id)).unwrap() = 10 + id as u64;
        }
        assert_eq!(writers.open(WriterId(3)), Err(Error::TooManyWriters(3)));
        writers.close(WriterId(2));
        writers.close(WriterId(1));
        assert_eq!(writers.open(WriterId(3)), Ok(0));
        assert_eq!(
            writers.open(WriterId(1)),
            Ok(11),
            "closed last, so remembered"
        );
        assert_eq!(
            writers.open(WriterId(2)),
            Err(Error::TooManyWriters(3)),
            "forgotten"
        );
        assert_eq!(writers.open(WriterId(0)), Ok(10));
    }
}
