//! Each item in proportion to a power of its priority, with replacement: prioritized experience replay
//! (Schaul et al. 2016, equation 1), over a sum tree.

use rand::{Rng, RngExt};

use super::sum_tree::SumTree;
use super::{Selector, Slot, Uniform};

/// The weights of the slots in use. Where all are 0 the draw is uniform, as in Reverb.
pub struct Prioritized {
    exponent: f64,
    weights: SumTree,
    used: Uniform,
}

impl Prioritized {
    /// Draws in proportion to `priority^exponent`.
    pub fn new(exponent: f64) -> Self {
        Self {
            exponent,
            weights: SumTree::default(),
            used: Uniform::default(),
        }
    }

    fn weight(&self, priority: f64) -> f64 {
        // 0^0 is 1, but an item of priority 0 is not to be drawn.
        if priority == 0.0 {
            0.0
        } else {
            priority.powf(self.exponent)
        }
    }
}

impl Selector for Prioritized {
    fn reserve(&mut self, slots: usize) {
        self.weights.reserve(slots);
        self.used.reserve(slots);
    }

    fn insert(&mut self, slot: Slot, priority: f64) {
        self.used.insert(slot, priority);
        self.update(slot, priority);
    }

    fn update(&mut self, slot: Slot, priority: f64) {
        self.weights.set(slot as usize, self.weight(priority));
    }

    fn remove(&mut self, slot: Slot) {
        self.used.remove(slot);
        self.weights.set(slot as usize, 0.0);
    }

    fn select(&self, rng: &mut dyn Rng) -> (Slot, f64) {
        let total = self.weights.total();
        if total <= 0.0 {
            return self.used.select(rng);
        }
        let index = self.weights.find(rng.random::<f64>() * total);
        (index as Slot, self.weights.get(index) / total)
    }

    fn slots(&self) -> Vec<Slot> {
        self.used.slots()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Pearson's chi-squared against `priority^exponent`; 149 is the 0.999 quantile for 99 degrees of
    /// freedom.
    #[test]
    fn draws_are_in_proportion_to_a_power_of_the_priority() {
        for exponent in [0.0, 0.6, 1.0, 2.0] {
            let mut selector = Prioritized::new(exponent);
            (0..150).for_each(|slot| selector.insert(slot, 1.0));
            (0..150).step_by(3).for_each(|slot| selector.remove(slot));
            let used: Vec<Slot> = (0..150).filter(|slot| slot % 3 != 0).collect();
            let priority = |slot: Slot| 0.5 + f64::from(slot % 17);
            for &slot in &used {
                selector.update(slot, priority(slot));
            }
            let total: f64 = used.iter().map(|&slot| priority(slot).powf(exponent)).sum();
            let probability = |slot: Slot| priority(slot).powf(exponent) / total;
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let mut counts = [0u32; 150];
            let draws = 200_000;
            for _ in 0..draws {
                let (slot, drawn_with) = selector.select(&mut rng);
                counts[slot as usize] += 1;
                assert!((drawn_with - probability(slot)).abs() < 1e-12);
            }
            let chi_squared: f64 = used
                .iter()
                .map(|&slot| {
                    let expected = probability(slot) * f64::from(draws);
                    (f64::from(counts[slot as usize]) - expected).powi(2) / expected
                })
                .sum();
            assert!(chi_squared < 149.0, "{exponent}: {chi_squared}");
        }
    }

    #[test]
    fn without_any_priority_draws_are_uniform_and_with_one_only_that_is_drawn() {
        let mut selector = Prioritized::new(0.0);
        (0..3).for_each(|slot| selector.insert(slot, 0.0));
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seen = [false; 3];
        for _ in 0..50 {
            let (slot, probability) = selector.select(&mut rng);
            seen[slot as usize] = true;
            assert_eq!(probability, 1.0 / 3.0);
        }
        assert_eq!(seen, [true; 3]);
        selector.update(1, 1e-30);
        for _ in 0..50 {
            assert_eq!(selector.select(&mut rng), (1, 1.0));
        }
    }
}
