//! The steps that sequences share.
//!
//! A row knows the row of its writer's next step, so an item is the row it begins at and a walk, and
//! windows may overlap and begin in any message. A row is kept while an item holds it or while it is
//! in its writer's tail, the newest `sequence_length - 1` steps, to which windows to come reach back.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::selector::Slot;

const IN_TAIL: u32 = 1 << 31;

/// Which rows are in use, by whom, and how they follow each other.
#[derive(Serialize, Deserialize)]
pub(crate) struct Steps {
    length: usize,
    links: Vec<Link>,
    /// What the log needs to write a row again; empty without a log.
    places: Option<Vec<StepPlace>>,
    free: Vec<Slot>,
    /// Rows that items hold.
    held: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Link {
    next: Slot,
    /// Items that hold the row, and whether its writer's tail does.
    holders: u32,
}

/// A step's name and where the log holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepPlace {
    /// Number of its writer.
    pub(crate) number: u32,
    pub(crate) segment: u32,
    /// Number of the step.
    pub(crate) sequence: u64,
}

impl Steps {
    pub(crate) fn new(length: usize, log: bool) -> Self {
        Self {
            length,
            links: Vec::new(),
            places: log.then(Vec::new),
            free: Vec::new(),
            held: 0,
        }
    }

    /// Rows of these steps, which are in the order of their names and held by nobody yet.
    pub(crate) fn restored(length: usize, places: Vec<StepPlace>) -> Self {
        let link = |(row, place): (usize, &StepPlace)| {
            let next = places.get(row + 1);
            let follows = |next: &&StepPlace| {
                (next.number, Some(next.sequence)) == (place.number, place.sequence.checked_add(1))
            };
            Link {
                next: next.filter(follows).map_or(Slot::MAX, |_| row as Slot + 1),
                holders: 0,
            }
        };
        let links = places.iter().enumerate().map(link).collect();
        Self {
            links,
            places: Some(places),
            ..Self::new(length, true)
        }
    }

    /// Memory for so many rows.
    pub(crate) fn reserve(&mut self, rows: usize) {
        self.links.reserve_exact(rows);
        if let Some(places) = &mut self.places {
            places.reserve_exact(rows);
        }
    }

    /// These rows are a writer's tail.
    pub(crate) fn hold_tail(&mut self, rows: impl IntoIterator<Item = Slot>) {
        for row in rows {
            self.links[row as usize].holders |= IN_TAIL;
        }
    }

    /// Rows that items hold.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Rows that somebody holds.
    pub(crate) fn rows_in_use(&self) -> u64 {
        (self.links.len() - self.free.len()) as u64
    }

    /// Rows ever used.
    pub(crate) fn rows(&self) -> usize {
        self.links.len()
    }

    /// A row for a writer's next step, at the end of its tail, which thereby may be one too long.
    pub(crate) fn push(&mut self, tail: &mut VecDeque<Slot>, place: StepPlace) -> Slot {
        let new = Link {
            next: Slot::MAX,
            holders: IN_TAIL,
        };
        let row = self.free.pop().unwrap_or_else(|| {
            self.links.push(new);
            if let Some(places) = &mut self.places {
                places.push(place);
            }
            (self.links.len() - 1) as Slot
        });
        self.links[row as usize] = new;
        if let Some(places) = &mut self.places {
            places[row as usize] = place;
        }
        if let Some(&last) = tail.back() {
            self.links[last as usize].next = row;
        }
        tail.push_back(row);
        row
    }

    /// Shortens a tail to the steps that windows to come may need; calls `freed` for rows that nobody
    /// holds any more.
    pub(crate) fn trim(&mut self, tail: &mut VecDeque<Slot>, freed: impl FnMut(StepPlace)) {
        let excess = tail.len().saturating_sub(self.length - 1);
        self.drop_tail(tail.drain(..excess), freed);
    }

    /// Gives up the rows of a tail.
    pub(crate) fn drop_tail(
        &mut self,
        tail: impl IntoIterator<Item = Slot>,
        mut freed: impl FnMut(StepPlace),
    ) {
        for row in tail {
            let link = &mut self.links[row as usize];
            link.holders &= !IN_TAIL;
            if link.holders == 0 {
                self.release(row, &mut freed);
            }
        }
    }

    /// The rows of the item that begins at `first`; of `length` steps, if it has a length of its own.
    pub(crate) fn window(&self, first: Slot, length: Option<u32>) -> impl Iterator<Item = Slot> {
        let next = |&row: &Slot| Some(self.links[row as usize].next);
        std::iter::successors(Some(first), next).take(self.length_of(length))
    }

    fn length_of(&self, own: Option<u32>) -> usize {
        own.map_or(self.length, |length| length as usize)
    }

    /// An item holds its rows.
    pub(crate) fn hold(&mut self, first: Slot, length: Option<u32>) {
        let mut row = first;
        for _ in 0..self.length_of(length) {
            let link = &mut self.links[row as usize];
            self.held += u64::from(link.holders & !IN_TAIL == 0);
            link.holders += 1;
            row = link.next;
        }
    }

    /// An item gives up its rows; calls `freed` for those that nobody holds any more.
    pub(crate) fn unhold(
        &mut self,
        first: Slot,
        length: Option<u32>,
        mut freed: impl FnMut(StepPlace),
    ) {
        let mut row = first;
        let first_freed = self.free.len();
        for _ in 0..self.length_of(length) {
            let link = &mut self.links[row as usize];
            let next = link.next;
            link.holders -= 1;
            self.held -= u64::from(link.holders & !IN_TAIL == 0);
            if link.holders == 0 {
                self.release(row, &mut freed);
            }
            row = next;
        }
        // The first is to be used first, so that neighbours stay neighbours.
        self.free[first_freed..].reverse();
    }

    fn release(&mut self, row: Slot, freed: &mut impl FnMut(StepPlace)) {
        self.free.push(row);
        if let Some(places) = &self.places {
            freed(places[row as usize]);
        }
    }

    /// Whether anybody holds the row.
    pub(crate) fn in_use(&self, row: Slot) -> bool {
        self.links[row as usize].holders != 0
    }

    /// Where a row is in the log.
    pub(crate) fn place(&self, row: Slot) -> StepPlace {
        let places = self.places.as_ref().expect("there is a log");
        places[row as usize]
    }

    pub(crate) fn set_segment(&mut self, row: Slot, segment: u32) {
        if let Some(places) = &mut self.places {
            places[row as usize].segment = segment;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(sequence: u64) -> StepPlace {
        StepPlace {
            number: 1,
            segment: 2,
            sequence,
        }
    }

    #[test]
    fn rows_are_kept_for_items_and_for_windows_to_come_and_then_used_again() {
        let mut steps = Steps::new(3, true);
        let mut tail = VecDeque::new();
        let mut freed = vec![];
        let mut push = |steps: &mut Steps, tail: &mut VecDeque<Slot>, sequence| {
            let row = steps.push(tail, place(sequence));
            let window = (tail.len() == 3).then(|| tail[0]);
            if sequence != 3 {
                window.iter().for_each(|&first| steps.hold(first, None));
            }
            steps.trim(tail, |place| freed.push(place.sequence));
            row
        };
        let rows: Vec<Slot> = (0..5).map(|i| push(&mut steps, &mut tail, i)).collect();
        assert_eq!(rows, [0, 1, 2, 3, 4]);
        // Items end at steps 2 and 4 and share step 2.
        assert_eq!(steps.held(), 5);
        assert!(steps.window(2, None).eq([2, 3, 4]));
        assert!(steps.window(2, Some(2)).eq([2, 3]));
        steps.unhold(0, None, |place| freed.push(place.sequence));
        assert_eq!((steps.held(), &freed[..]), (3, &[0, 1][..]));
        assert_eq!([0, 1].map(|i| steps.push(&mut tail, place(5 + i))), [0, 1]);
        assert_eq!(steps.place(1), place(6));
        steps.unhold(2, None, |place| freed.push(place.sequence));
        assert_eq!(freed, [0, 1, 2], "3 and 4 are in the tail");
        let counts = (steps.held(), steps.rows_in_use(), steps.rows());
        assert_eq!(counts, (0, 4, 5));
        steps.drop_tail(tail.drain(..), |place| freed.push(place.sequence));
        assert_eq!(freed, [0, 1, 2, 3, 4, 5, 6]);
        assert!((0..5).all(|row| !steps.in_use(row)));
    }
}
