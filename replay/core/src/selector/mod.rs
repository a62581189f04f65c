//! Which item comes next: one small interface for sampling and for removal, after Reverb's
//! `ItemSelector`. A new selector is one file and one variant of [`SelectorKind`].

use rand::Rng;
use serde::{Deserialize, Serialize};

mod fifo;
mod uniform;

pub use fifo::Fifo;
pub use uniform::Uniform;

/// Where a table holds an item. Slots are dense: a table of n items uses 0 to n - 1.
pub type Slot = u32;

/// An ordering, or a distribution, over the slots in use.
pub trait Selector: Send {
    /// A new item is in `slot`, which was not in use.
    fn insert(&mut self, slot: Slot);

    /// The item in `slot`, which was in use, is gone.
    fn remove(&mut self, slot: Slot);

    /// Selects an item.
    ///
    /// # Panics
    /// If no slot is in use.
    fn select(&self, rng: &mut dyn Rng) -> Slot;
}

/// The selectors there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SelectorKind {
    /// Each item with the same probability, with replacement.
    Uniform,
    /// The oldest item.
    Fifo,
}

impl SelectorKind {
    /// An empty selector of this kind.
    pub fn build(self) -> Box<dyn Selector> {
        match self {
            Self::Uniform => Box::<Uniform>::default(),
            Self::Fifo => Box::<Fifo>::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    proptest! {
        /// Every selector, after any insertions and removals, selects only slots in use, and
        /// emptying it through its own selections yields each of them once.
        #[test]
        fn selects_exactly_the_slots_in_use(
            toggles in prop::collection::vec(0u32..20, 0..100),
            seed in any::<u64>(),
        ) {
            for kind in [SelectorKind::Uniform, SelectorKind::Fifo] {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let mut selector = kind.build();
                let mut used = BTreeSet::new();
                for &slot in &toggles {
                    if used.insert(slot) {
                        selector.insert(slot);
                    } else {
                        used.remove(&slot);
                        selector.remove(slot);
                    }
                    if !used.is_empty() {
                        prop_assert!(used.contains(&selector.select(&mut rng)));
                    }
                }
                while !used.is_empty() {
                    let slot = selector.select(&mut rng);
                    prop_assert!(used.remove(&slot));
                    selector.remove(slot);
                }
            }
        }
    }
}
