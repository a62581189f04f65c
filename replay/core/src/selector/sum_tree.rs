//! Weights and their sums, for drawing in proportion to a weight.
//!
//! A node has eight children, a cache line of them, so a million weights are seven levels and a draw
//! reads seven lines. A node is summed anew from its children whenever one changes, never corrected by
//! a difference: rounding errors do not pile up, and what is empty sums to exactly 0.

const CHILDREN: usize = 8;

/// Weights, all 0 at first.
#[derive(Default)]
pub(crate) struct SumTree {
    /// The weights, then the sums of eight of the level before, up to a single line. Each level's
    /// length is a multiple of eight.
    levels: Vec<Vec<f64>>,
}

impl SumTree {
    /// Memory for so many weights, of which there are none yet.
    pub(crate) fn reserve(&mut self, weights: usize) {
        if self.levels.is_empty() {
            let weights = weights.next_multiple_of(CHILDREN);
            self.levels.push(Vec::with_capacity(weights));
        }
    }

    /// The sum of all weights.
    pub(crate) fn total(&self) -> f64 {
        self.levels.last().map_or(0.0, |top| top.iter().sum())
    }

    pub(crate) fn get(&self, index: usize) -> f64 {
        self.levels
            .first()
            .and_then(|weights| weights.get(index))
            .copied()
            .unwrap_or(0.0)
    }

    pub(crate) fn set(&mut self, index: usize, weight: f64) {
        self.grow(index);
        let mut index = index;
        self.levels[0][index] = weight;
        for level in 1..self.levels.len() {
            index /= CHILDREN;
            let children = &self.levels[level - 1][index * CHILDREN..][..CHILDREN];
            self.levels[level][index] = children.iter().sum();
        }
    }

    /// The index at `point`, from 0 up to but not including the total: its weight is not 0.
    ///
    /// # Panics
    /// If the total is 0.
    pub(crate) fn find(&self, mut point: f64) -> usize {
        let mut index = 0;
        for level in self.levels.iter().rev() {
            let line = &level[index * CHILDREN..][..CHILDREN];
            let mut last = None;
            for (child, &weight) in line.iter().enumerate() {
                if weight > 0.0 {
                    last = Some(child);
                    if point < weight {
                        break;
                    }
                    point -= weight;
                }
            }
            // Rounding may carry the point past the last child; then it is that child.
            let child = last.expect("a node with a weight has a child with one");
            point = point.min(line[child]);
            index = index * CHILDREN + child;
        }
        index
    }

    fn grow(&mut self, index: usize) {
        if self
            .levels
            .first()
            .is_some_and(|weights| index < weights.len())
        {
            return;
        }
        let mut needed = index + 1;
        let mut level = 0;
        loop {
            needed = needed.next_multiple_of(CHILDREN);
            if level == self.levels.len() {
                let below = level.checked_sub(1).map(|below| &self.levels[below]);
                let sums = below.map(|below| below.chunks(CHILDREN).map(|line| line.iter().sum()));
                let sums = sums.map_or_else(Vec::new, Iterator::collect);
                self.levels.push(sums);
            }
            if self.levels[level].len() < needed {
                self.levels[level].resize(needed, 0.0);
            }
            if needed == CHILDREN {
                return;
            }
            needed /= CHILDREN;
            level += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The index at `point` by adding up from the first.
    fn naive(weights: &[f64], mut point: f64) -> usize {
        for (index, &weight) in weights.iter().enumerate() {
            if point < weight {
                return index;
            }
            point -= weight;
        }
        panic!("beyond the total")
    }

    proptest! {
        /// With whole weights all sums are exact, so both must agree to the bit.
        #[test]
        fn equals_adding_up_from_the_first(
            changes in prop::collection::vec((0usize..700, 0u32..1_000), 1..300),
            points in prop::collection::vec(0.0f64..1.0, 10),
        ) {
            let mut tree = SumTree::default();
            let mut weights = vec![0.0; 700];
            for (index, weight) in changes {
                tree.set(index, weight.into());
                weights[index] = f64::from(weight);
                prop_assert_eq!(tree.get(index), f64::from(weight));
            }
            let total: f64 = weights.iter().sum();
            prop_assert_eq!(tree.total(), total);
            if total > 0.0 {
                for point in points {
                    let point = (point * total).floor();
                    prop_assert_eq!(tree.find(point), naive(&weights, point));
                }
            }
        }

        /// Whatever the magnitudes, what is found has a weight, at both ends too.
        #[test]
        fn finds_only_what_has_a_weight(
            changes in prop::collection::vec((0usize..200, -30i32..30), 1..100),
            point in 0.0f64..1.0,
        ) {
            let mut tree = SumTree::default();
            for (index, power) in changes {
                tree.set(index, if power % 3 == 0 { 0.0 } else { 10f64.powi(power) });
            }
            let total = tree.total();
            if total > 0.0 {
                for point in [0.0, point * total, total.next_down(), total] {
                    prop_assert!(tree.get(tree.find(point)) > 0.0);
                }
            }
        }
    }

    #[test]
    fn what_is_emptied_sums_to_nothing() {
        let mut tree = SumTree::default();
        for index in 0..5_000 {
            tree.set(index, 0.1 * index as f64);
        }
        (0..5_000).for_each(|index| tree.set(index, 0.0));
        assert_eq!(tree.total(), 0.0);
    }
}
