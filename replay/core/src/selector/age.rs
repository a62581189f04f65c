//! The oldest item, or the newest: a doubly linked list through the slots, so that any of them leaves
//! in constant time.

use rand::Rng;

use super::{Selector, Slot};

const END: Slot = Slot::MAX;

/// The slots in use in the order they came.
struct Order {
    /// (older, newer) for each slot in use.
    links: Vec<(Slot, Slot)>,
    oldest: Slot,
    newest: Slot,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            links: Vec::new(),
            oldest: END,
            newest: END,
        }
    }
}

impl Order {
    fn push(&mut self, slot: Slot) {
        let index = slot as usize;
        if index >= self.links.len() {
            self.links.resize(index + 1, (END, END));
        }
        self.links[index] = (self.newest, END);
        match self.links.get_mut(self.newest as usize) {
            Some(newest) => newest.1 = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
    }

    fn remove(&mut self, slot: Slot) {
        let (older, newer) = self.links[slot as usize];
        match self.links.get_mut(older as usize) {
            Some(older) => older.1 = newer,
            None => self.oldest = newer,
        }
        match self.links.get_mut(newer as usize) {
            Some(newer) => newer.0 = older,
            None => self.newest = older,
        }
    }
}

/// The oldest item.
pub type Fifo = ByAge<false>;

/// The newest item.
pub type Lifo = ByAge<true>;

/// The item at one end of the order.
#[derive(Default)]
pub struct ByAge<const NEWEST: bool>(Order);

impl<const NEWEST: bool> Selector for ByAge<NEWEST> {
    fn reserve(&mut self, slots: usize) {
        self.0.links.reserve_exact(slots);
    }

    fn insert(&mut self, slot: Slot, _: f64) {
        self.0.push(slot);
    }

    fn update(&mut self, _: Slot, _: f64) {}

    fn remove(&mut self, slot: Slot) {
        self.0.remove(slot);
    }

    fn select(&self, _: &mut dyn Rng) -> (Slot, f64) {
        let slot = if NEWEST { self.0.newest } else { self.0.oldest };
        assert_ne!(slot, END, "a slot is in use");
        (slot, 1.0)
    }

    fn slots(&self) -> Vec<Slot> {
        let newer = |&slot: &Slot| self.0.links.get(slot as usize).map(|links| links.1);
        std::iter::successors(Some(self.0.oldest), newer)
            .take_while(|&slot| slot != END)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn drained(mut selector: impl Selector) -> Vec<Slot> {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        [4, 2, 0, 3]
            .into_iter()
            .for_each(|slot| selector.insert(slot, 1.0));
        selector.remove(0);
        selector.insert(0, 1.0);
        let mut order = vec![];
        for _ in 0..4 {
            let (slot, probability) = selector.select(&mut rng);
            assert_eq!(probability, 1.0);
            selector.remove(slot);
            order.push(slot);
        }
        order
    }

    #[test]
    fn selects_by_age_whatever_was_removed() {
        assert_eq!(drained(Fifo::default()), [4, 2, 3, 0]);
        assert_eq!(drained(Lifo::default()), [0, 3, 2, 4]);
    }
}
