//! The oldest item.

use std::collections::VecDeque;

use rand::Rng;

use super::{Selector, Slot};

/// The slots in use, oldest first.
///
/// Removing the oldest, which is all a FIFO remover does, takes constant time; removing another one
/// searches for it.
#[derive(Default)]
pub struct Fifo {
    slots: VecDeque<Slot>,
}

impl Selector for Fifo {
    fn insert(&mut self, slot: Slot) {
        self.slots.push_back(slot);
    }

    fn remove(&mut self, slot: Slot) {
        // The search starts at the oldest.
        let position = self.slots.iter().position(|&other| other == slot);
        self.slots
            .remove(position.expect("only slots in use are removed"));
    }

    fn select(&self, _: &mut dyn Rng) -> Slot {
        *self.slots.front().expect("a slot is in use")
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn selects_the_oldest_whatever_was_removed() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut fifo = Fifo::default();
        [4, 2, 0, 3].into_iter().for_each(|slot| fifo.insert(slot));
        fifo.remove(0);
        fifo.insert(0);
        let mut order = vec![];
        for _ in 0..4 {
            let slot = fifo.select(&mut rng);
            fifo.remove(slot);
            order.push(slot);
        }
        assert_eq!(order, [4, 2, 3, 0]);
    }
}
