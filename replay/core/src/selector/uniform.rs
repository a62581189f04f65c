//! Each item with the same probability, with replacement.

use rand::{Rng, RngExt};

use super::{Selector, Slot};

/// A dense list of the slots in use, and where in it each slot is.
#[derive(Default)]
pub struct Uniform {
    slots: Vec<Slot>,
    positions: Vec<u32>,
}

impl Selector for Uniform {
    fn reserve(&mut self, slots: usize) {
        self.slots.reserve_exact(slots);
        self.positions.reserve_exact(slots);
    }

    fn insert(&mut self, slot: Slot, _: f64) {
        let index = slot as usize;
        if index >= self.positions.len() {
            self.positions.resize(index + 1, 0);
        }
        self.positions[index] = self.slots.len() as u32;
        self.slots.push(slot);
    }

    fn update(&mut self, _: Slot, _: f64) {}

    fn remove(&mut self, slot: Slot) {
        let position = self.positions[slot as usize];
        self.slots.swap_remove(position as usize);
        if let Some(&moved) = self.slots.get(position as usize) {
            self.positions[moved as usize] = position;
        }
    }

    fn select(&self, rng: &mut dyn Rng) -> (Slot, f64) {
        let len = self.slots.len();
        (self.slots[rng.random_range(0..len)], 1.0 / len as f64)
    }

    fn slots(&self) -> Vec<Slot> {
        self.slots.clone()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Pearson's chi-squared over 100 slots; 149 is the 0.999 quantile for 99 degrees of freedom.
    #[test]
    fn draws_are_uniform() {
        let mut selector = Uniform::default();
        (0..150).for_each(|slot| selector.insert(slot, 1.0));
        (0..150).step_by(3).for_each(|slot| selector.remove(slot));
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut counts = [0u32; 150];
        let draws = 100_000;
        for _ in 0..draws {
            let (slot, probability) = selector.select(&mut rng);
            counts[slot as usize] += 1;
            assert_eq!(probability, 0.01);
        }
        let expected = f64::from(draws) / 100.0;
        let used = (0..150).filter(|slot| slot % 3 != 0);
        let chi_squared: f64 = used
            .map(|slot| (f64::from(counts[slot]) - expected).powi(2) / expected)
            .sum();
        assert!(chi_squared < 149.0, "{chi_squared}");
    }
}
