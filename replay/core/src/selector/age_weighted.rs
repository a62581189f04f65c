//! Recent items more often than old ones, with replacement: the "faded" replay of DR.Q, without its
//! priorities.
//!
//! The newest item has rank 0, and an item as many as there are newer ones. With `n` items,
//!
//! `P(rank) = max(decay^rank, floor) / sum_{r < n} max(decay^r, floor)`.
//!
//! DR.Q lets what it holds fade by 0.9999 with every insert, down to 0.1. With a fifo remover an item's rank
//! is the number of inserts since its own. The sums have closed forms, so a draw is a rank, and the search for
//! the item that has it.

use rand::{Rng, RngExt};

use super::sum_tree::SumTree;
use super::{Selector, Slot};

/// Positions that the order may have without being packed.
const UNPACKED: usize = 1024;

/// The slots in use in the order they came, found by their place in it.
#[derive(Default)]
struct Order {
    /// The slots by position; those of slots that have left are not in `used`.
    slots: Vec<Slot>,
    positions: Vec<u32>,
    /// 1 for positions of slots in use: whole numbers, whose sums are exact.
    used: SumTree,
    len: usize,
}

impl Order {
    fn push(&mut self, slot: Slot) {
        if self.slots.len() >= UNPACKED + 2 * self.len {
            self.pack();
        }
        let index = slot as usize;
        if index >= self.positions.len() {
            self.positions.resize(index + 1, 0);
        }
        self.positions[index] = self.slots.len() as u32;
        self.used.set(self.slots.len(), 1.0);
        self.slots.push(slot);
        self.len += 1;
    }

    fn remove(&mut self, slot: Slot) {
        self.used.set(self.positions[slot as usize] as usize, 0.0);
        self.len -= 1;
    }

    /// The slot that so many in use came before.
    fn at(&self, place: usize) -> Slot {
        self.slots[self.used.find(place as f64)]
    }

    /// Forgets the positions of slots that have left. Between two times at least half of them leave.
    fn pack(&mut self) {
        self.slots = self.in_use();
        self.used = SumTree::default();
        for (position, &slot) in self.slots.iter().enumerate() {
            self.positions[slot as usize] = position as u32;
            self.used.set(position, 1.0);
        }
    }

    fn in_use(&self) -> Vec<Slot> {
        let positions = self.slots.iter().enumerate();
        positions
            .filter(|&(position, _)| self.used.get(position) > 0.0)
            .map(|(_, &slot)| slot)
            .collect()
    }
}

/// An item by how many are newer.
pub struct AgeWeighted {
    decay: f64,
    floor: f64,
    /// Ranks whose weight is above the floor.
    above_floor: f64,
    order: Order,
}

impl AgeWeighted {
    /// Weights of `max(decay^rank, floor)`; `decay` is above 0 and at most 1, `floor` is 0 to 1.
    pub fn new(decay: f64, floor: f64) -> Self {
        let above_floor = if decay == 1.0 || floor == 0.0 {
            f64::INFINITY
        } else {
            (floor.ln() / decay.ln()).ceil()
        };
        Self {
            decay,
            floor,
            above_floor,
            order: Order::default(),
        }
    }

    /// Sum of the weights of the first `ranks`, none of them at the floor.
    fn sum(&self, ranks: f64) -> f64 {
        if self.decay == 1.0 {
            return ranks;
        }
        -(ranks * self.decay.ln()).exp_m1() / (1.0 - self.decay)
    }

    /// The rank at which the weights, added up, pass `sum`: the inverse of [`sum`](Self::sum).
    fn rank(&self, sum: f64) -> f64 {
        if self.decay == 1.0 {
            return sum;
        }
        (-sum * (1.0 - self.decay)).ln_1p() / self.decay.ln()
    }
}

impl Selector for AgeWeighted {
    fn reserve(&mut self, slots: usize) {
        self.order.positions.reserve_exact(slots);
    }

    fn insert(&mut self, slot: Slot, _: f64) {
        self.order.push(slot);
    }

    fn update(&mut self, _: Slot, _: f64) {}

    fn remove(&mut self, slot: Slot) {
        self.order.remove(slot);
    }

    fn select(&self, rng: &mut dyn Rng) -> (Slot, f64) {
        let len = self.order.len;
        assert_ne!(len, 0, "a slot is in use");
        let recent = self.above_floor.min(len as f64);
        let fading = self.sum(recent);
        let total = fading + (len as f64 - recent) * self.floor;
        let point = rng.random::<f64>() * total;
        let rank = if point < fading {
            self.rank(point).min(recent - 1.0)
        } else {
            recent + (point - fading) / self.floor
        };
        // Rounding may carry the point past the last rank.
        let rank = (rank as usize).min(len - 1);
        let weight = self.decay.powf(rank as f64).max(self.floor);
        (self.order.at(len - 1 - rank), weight / total)
    }

    fn slots(&self) -> Vec<Slot> {
        self.order.in_use()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Pearson's chi-squared against the weights as they are defined; 149 is the 0.999 quantile for 99
    /// degrees of freedom.
    #[test]
    fn draws_are_by_rank_whatever_has_come_and_gone() {
        for (decay, floor) in [
            (0.98, 0.1),
            (0.98, 0.0),
            (0.9, 0.5),
            (0.9999, 0.1),
            (1.0, 0.3),
            (0.5, 1.0),
        ] {
            let mut selector = AgeWeighted::new(decay, floor);
            // Through the packing of the order, in a ring of slots and with holes.
            for step in 0..5000u32 {
                if step >= 150 {
                    selector.remove(step % 150);
                }
                selector.insert(step % 150, 1.0);
            }
            (0..150).step_by(3).for_each(|slot| selector.remove(slot));
            // Step 4999 was in slot 49, so the order begins with 50.
            let oldest_first: Vec<Slot> = (0..150)
                .map(|at| (50 + at) % 150)
                .filter(|slot| slot % 3 != 0)
                .collect();
            assert_eq!(selector.slots(), oldest_first);
            let weights: Vec<f64> = (0..100)
                .map(|rank| f64::powi(decay, rank).max(floor))
                .collect();
            let total: f64 = weights.iter().sum();
            let mut probabilities = [0.0; 150];
            for (slot, weight) in oldest_first.iter().rev().zip(weights) {
                probabilities[*slot as usize] = weight / total;
            }
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let mut counts = [0u32; 150];
            let draws = 200_000;
            for _ in 0..draws {
                let (slot, told) = selector.select(&mut rng);
                counts[slot as usize] += 1;
                let expected = probabilities[slot as usize];
                assert!(
                    (told / expected - 1.0).abs() < 1e-9,
                    "{decay}, {floor}: {told}, {expected}"
                );
            }
            let chi_squared: f64 = oldest_first
                .iter()
                .map(|&slot| {
                    let expected = probabilities[slot as usize] * f64::from(draws);
                    (f64::from(counts[slot as usize]) - expected).powi(2) / expected
                })
                .sum();
            assert!(chi_squared < 149.0, "{decay}, {floor}: {chi_squared}");
        }
    }

    /// An order of slots of which few are left is not kept long.
    #[test]
    fn what_has_left_takes_no_memory_for_ever() {
        let mut order = Order::default();
        for step in 0..100_000u32 {
            if step >= 10 {
                order.remove(step % 10);
            }
            order.push(step % 10);
        }
        assert!(order.slots.len() <= UNPACKED + 2 * 11);
        assert_eq!((order.at(0), order.at(9)), (0, 9));
    }
}
