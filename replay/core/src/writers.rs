//! Where each writer is in its numbered stream of steps: what makes delivering again harmless.

use std::collections::{BTreeMap, VecDeque};

use pmpo_types::{Signature, WriterId};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::selector::Slot;

/// The writers, at most `limit` of them.
#[derive(Serialize, Deserialize)]
pub(crate) struct Writers {
    entries: BTreeMap<WriterId, Writer>,
    limit: usize,
    /// Counts openings and closings, to order entries by their last use.
    uses: u64,
    /// Number of the next new writer.
    next_number: u32,
}

/// One writer's place.
#[derive(Serialize, Deserialize)]
pub(crate) struct Writer {
    /// Tells a writer that comes back after it was forgotten from what it was before.
    pub(crate) number: u32,
    /// Number of the step it is to send next.
    pub(crate) next_sequence: u64,
    /// Rows of its newest steps, to which windows to come may reach back.
    pub(crate) tail: VecDeque<Slot>,
    /// What it means to send into a table that had no signature when it connected.
    #[serde(skip)]
    pub(crate) signature: Option<Signature>,
    connected: bool,
    last_use: u64,
}

/// What of a writer outlives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) writer: WriterId,
    pub(crate) number: u32,
    pub(crate) next_sequence: u64,
}

impl Writers {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            limit,
            uses: 0,
            next_number: 0,
        }
    }

    /// A writer connects, with a signature where the table has none; answers the number of the step it is
    /// to send next. When all places are taken, the writer that has been disconnected for longest is
    /// forgotten, and its tail answered.
    pub(crate) fn open(
        &mut self,
        writer: WriterId,
        signature: Option<Signature>,
    ) -> Result<(u64, VecDeque<Slot>), Error> {
        let mut forgotten = VecDeque::new();
        if !self.entries.contains_key(&writer) && self.entries.len() >= self.limit {
            forgotten = self.forget().ok_or(Error::TooManyWriters(self.limit))?;
        }
        self.uses += 1;
        let uses = self.uses;
        let number = self.next_number;
        let entry = self.entries.entry(writer).or_insert_with(|| Writer {
            number,
            next_sequence: 0,
            tail: VecDeque::new(),
            signature: None,
            connected: true,
            last_use: 0,
        });
        if entry.number == number {
            self.next_number += 1;
        }
        entry.signature = signature;
        entry.connected = true;
        entry.last_use = uses;
        Ok((entry.next_sequence, forgotten))
    }

    /// Forgets the writer that has been disconnected for longest; answers its tail.
    pub(crate) fn forget(&mut self) -> Option<VecDeque<Slot>> {
        let disconnected = self.entries.iter().filter(|(_, entry)| !entry.connected);
        let (&forgotten, _) = disconnected.min_by_key(|(_, entry)| entry.last_use)?;
        self.entries.remove(&forgotten).map(|entry| entry.tail)
    }

    /// Forgets the writers that were disconnected when `uses` were counted, and have not been used since;
    /// answers their tails.
    pub(crate) fn forget_until(&mut self, uses: u64) -> Vec<VecDeque<Slot>> {
        let unused = |_: &WriterId, entry: &mut Writer| !entry.connected && entry.last_use <= uses;
        let forgotten = self.entries.extract_if(.., unused);
        forgotten.map(|(_, entry)| entry.tail).collect()
    }

    /// Steps in the tails of disconnected writers.
    pub(crate) fn disconnected_steps(&self) -> u64 {
        let disconnected = self.entries.values().filter(|entry| !entry.connected);
        disconnected.map(|entry| entry.tail.len() as u64).sum()
    }

    /// Openings and closings so far.
    pub(crate) fn uses(&self) -> u64 {
        self.uses
    }

    /// A writer has disconnected.
    pub(crate) fn close(&mut self, writer: WriterId) {
        self.uses += 1;
        if let Some(entry) = self.entries.get_mut(&writer) {
            entry.connected = false;
            entry.last_use = self.uses;
        }
    }

    /// What writers mean to send into a table that has no signature.
    pub(crate) fn meant(&self) -> Vec<(WriterId, Signature)> {
        let entries = self.entries.iter();
        let meant = |(&writer, entry): (&WriterId, &Writer)| {
            let signature = entry.signature.clone()?;
            Some((writer, signature))
        };
        entries.filter_map(meant).collect()
    }

    pub(crate) fn set_meant(&mut self, meant: Vec<(WriterId, Signature)>) {
        for (writer, signature) in meant {
            if let Some(entry) = self.entries.get_mut(&writer) {
                entry.signature = Some(signature);
            }
        }
    }

    /// All writers are disconnected and no window reaches back any more; their numbers stay.
    pub(crate) fn reset(&mut self) {
        for entry in self.entries.values_mut() {
            entry.tail.clear();
            entry.signature = None;
            entry.connected = false;
        }
    }

    /// A connected writer's place.
    pub(crate) fn get(&mut self, writer: WriterId) -> Result<&mut Writer, Error> {
        match self.entries.get_mut(&writer) {
            Some(entry) if entry.connected => Ok(entry),
            _ => Err(Error::UnknownWriter(writer)),
        }
    }

    /// All places, the least recently used first.
    pub(crate) fn places(&self) -> Vec<Place> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_unstable_by_key(|(_, entry)| entry.last_use);
        let place = |(&writer, entry): (&WriterId, &Writer)| Place {
            writer,
            number: entry.number,
            next_sequence: entry.next_sequence,
        };
        entries.into_iter().map(place).collect()
    }

    /// Number of the next new writer.
    pub(crate) fn next_number(&self) -> u32 {
        self.next_number
    }

    /// Takes up places, the least recently used first, with their tails; all disconnected. Answers
    /// the tails of those for whom there is no place, or a later one.
    pub(crate) fn restore(
        &mut self,
        next_number: u32,
        places: Vec<(Place, VecDeque<Slot>)>,
    ) -> Vec<VecDeque<Slot>> {
        self.next_number = next_number;
        let mut left = Vec::new();
        for (place, tail) in places {
            self.uses += 1;
            let entry = Writer {
                number: place.number,
                next_sequence: place.next_sequence,
                tail,
                signature: None,
                connected: false,
                last_use: self.uses,
            };
            // A writer that was forgotten and came back has two places, of which the later counts.
            let former = self.entries.insert(place.writer, entry);
            left.extend(former.map(|former| former.tail));
        }
        while self.entries.len() > self.limit {
            left.extend(self.forget());
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(writers: &mut Writers, id: u128) -> Result<u64, Error> {
        writers.open(WriterId(id), None).map(|(next, _)| next)
    }

    #[test]
    fn a_writer_that_comes_back_goes_on_where_it_was() {
        let mut writers = Writers::new(2);
        assert_eq!(open(&mut writers, 1), Ok(0));
        writers.get(WriterId(1)).unwrap().next_sequence += 5;
        writers.close(WriterId(1));
        assert!(matches!(
            writers.get(WriterId(1)),
            Err(Error::UnknownWriter(WriterId(1)))
        ));
        assert_eq!(open(&mut writers, 1), Ok(5));
    }

    #[test]
    fn the_longest_disconnected_is_forgotten_and_the_connected_never() {
        let mut writers = Writers::new(3);
        for id in 0..3 {
            open(&mut writers, id).unwrap();
            let writer = writers.get(WriterId(id)).unwrap();
            writer.next_sequence = 10 + id as u64;
            writer.tail.push_back(id as Slot);
        }
        assert_eq!(open(&mut writers, 3), Err(Error::TooManyWriters(3)));
        writers.close(WriterId(2));
        writers.close(WriterId(1));
        assert_eq!(writers.open(WriterId(3), None), Ok((0, [2].into())));
        assert_eq!(open(&mut writers, 1), Ok(11), "closed last, so remembered");
        assert_eq!(
            open(&mut writers, 2),
            Err(Error::TooManyWriters(3)),
            "forgotten"
        );
        assert_eq!(open(&mut writers, 0), Ok(10));
        let numbers = [0, 1, 3].map(|id| writers.get(WriterId(id)).unwrap().number);
        assert_eq!(numbers, [0, 1, 3], "a number is given once");
    }

    #[test]
    fn who_has_been_away_since_then_is_forgotten() {
        let mut writers = Writers::new(9);
        for id in [0, 1, 2] {
            open(&mut writers, id).unwrap();
        }
        writers.get(WriterId(1)).unwrap().tail.extend([3, 4]);
        assert_eq!(writers.disconnected_steps(), 0);
        writers.close(WriterId(1));
        assert_eq!(writers.disconnected_steps(), 2);
        let then = writers.uses();
        writers.close(WriterId(2));
        assert_eq!(writers.forget_until(then).len(), 1);
        let left: Vec<u128> = writers
            .places()
            .iter()
            .map(|place| place.writer.0)
            .collect();
        assert_eq!(left, [0, 2], "one is connected, one was then");
        assert_eq!(writers.forget_until(writers.uses()).len(), 1);
    }

    /// Of a writer that was forgotten and came back within one segment of the log.
    #[test]
    fn of_two_places_the_later_counts_and_the_tail_of_the_other_is_given_back() {
        let place = |number, next_sequence| Place {
            writer: WriterId(7),
            number,
            next_sequence,
        };
        let places = vec![(place(0, 9), [1, 2].into()), (place(1, 4), [3].into())];
        let mut writers = Writers::new(9);
        assert_eq!(writers.restore(2, places), [VecDeque::from([1, 2])]);
        assert_eq!(writers.places(), [place(1, 4)]);
    }

    #[test]
    fn places_are_taken_up_in_the_order_of_their_use() {
        let mut writers = Writers::new(3);
        for id in [0, 1, 2, 0] {
            open(&mut writers, id).unwrap();
        }
        let places = writers.places();
        assert_eq!(
            places.iter().map(|p| p.number).collect::<Vec<_>>(),
            [1, 2, 0]
        );
        let with_tails = places.iter().map(|&place| (place, [7].into())).collect();
        let mut fewer = Writers::new(2);
        assert_eq!(fewer.restore(3, with_tails), [VecDeque::from([7])]);
        assert_eq!(fewer.places(), places[1..]);
        assert!(fewer.get(WriterId(0)).is_err(), "not connected");
    }
}
