//! The item of the highest priority, or of the lowest: a binary heap that knows where each slot is, so
//! that any item can leave or change its priority in logarithmic time. Of equal ones the oldest is
//! first, which Reverb leaves open.

use std::cmp::Ordering;

use rand::Rng;

use super::{Selector, Slot};

/// A heap with the selected slot on top.
pub struct Heap {
    /// 1 if the lowest priority is on top, -1 if the highest is.
    sign: f64,
    heap: Vec<Entry>,
    /// Where in the heap each slot is.
    positions: Vec<u32>,
    /// Counts insertions, to tell ages.
    inserted: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    key: f64,
    age: u64,
    slot: Slot,
}

impl Entry {
    fn is_before(&self, other: &Self) -> bool {
        match self.key.total_cmp(&other.key) {
            Ordering::Less => true,
            Ordering::Equal => self.age < other.age,
            Ordering::Greater => false,
        }
    }
}

impl Heap {
    /// The highest priority is selected.
    pub fn max() -> Self {
        Self::new(-1.0)
    }

    /// The lowest priority is selected.
    pub fn min() -> Self {
        Self::new(1.0)
    }

    fn new(sign: f64) -> Self {
        Self {
            sign,
            heap: Vec::new(),
            positions: Vec::new(),
            inserted: 0,
        }
    }

    fn place(&mut self, position: usize, entry: Entry) {
        self.heap[position] = entry;
        self.positions[entry.slot as usize] = position as u32;
    }

    /// Restores the order after the entry at `position` has changed.
    fn settle(&mut self, mut position: usize) {
        let entry = self.heap[position];
        while position > 0 {
            let parent = (position - 1) / 2;
            if !entry.is_before(&self.heap[parent]) {
                break;
            }
            self.place(position, self.heap[parent]);
            position = parent;
        }
        loop {
            let left = 2 * position + 1;
            let children = left..self.heap.len().min(left + 2);
            let first = children.reduce(|a, b| {
                if self.heap[b].is_before(&self.heap[a]) {
                    b
                } else {
                    a
                }
            });
            match first.filter(|&child| self.heap[child].is_before(&entry)) {
                Some(child) => self.place(position, self.heap[child]),
                None => break,
            }
            position = first.expect("it was a child's");
        }
        self.place(position, entry);
    }
}

impl Selector for Heap {
    fn reserve(&mut self, slots: usize) {
        self.heap.reserve_exact(slots);
        self.positions.reserve_exact(slots);
    }

    fn insert(&mut self, slot: Slot, priority: f64) {
        let index = slot as usize;
        if index >= self.positions.len() {
            self.positions.resize(index + 1, 0);
        }
        // Adding 0 makes one zero of the two.
        let key = self.sign * priority + 0.0;
        let age = self.inserted;
        self.inserted += 1;
        self.heap.push(Entry { key, age, slot });
        self.settle(self.heap.len() - 1);
    }

    fn update(&mut self, slot: Slot, priority: f64) {
        let position = self.positions[slot as usize] as usize;
        self.heap[position].key = self.sign * priority + 0.0;
        self.settle(position);
    }

    fn remove(&mut self, slot: Slot) {
        let position = self.positions[slot as usize] as usize;
        self.heap.swap_remove(position);
        if position < self.heap.len() {
            self.settle(position);
        }
    }

    fn select(&self, _: &mut dyn Rng) -> (Slot, f64) {
        (self.heap[0].slot, 1.0)
    }

    fn slots(&self) -> Vec<Slot> {
        let mut entries = self.heap.clone();
        entries.sort_unstable_by_key(|entry| entry.age);
        entries.iter().map(|entry| entry.slot).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn selects_by_priority_then_by_age() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for (mut heap, expected) in [(Heap::max(), [3, 1, 0, 2]), (Heap::min(), [2, 0, 1, 3])] {
            for (slot, priority) in [(1, 5.0), (0, -0.0), (2, 7.0), (3, 5.0)] {
                heap.insert(slot, priority);
            }
            heap.update(3, 9.0);
            heap.update(2, 0.0);
            heap.remove(0);
            heap.insert(0, 0.5);
            let order = std::array::from_fn(|_| {
                let (slot, _) = heap.select(&mut rng);
                heap.remove(slot);
                slot
            });
            assert_eq!(order, expected);
        }
    }
}
