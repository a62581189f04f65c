//! Which item comes next: one small interface for sampling and for removal, after Reverb's
//! `ItemSelector`. A new selector is one file and one variant of [`SelectorKind`].

use rand::Rng;
use serde::{Deserialize, Serialize};

mod age;
mod age_weighted;
mod heap;
mod prioritized;
mod sum_tree;
mod uniform;

pub use age::{ByAge, Fifo, Lifo};
pub use age_weighted::AgeWeighted;
pub use heap::Heap;
pub use prioritized::Prioritized;
pub use uniform::Uniform;

/// Where a table holds an item.
pub type Slot = u32;

/// An ordering, or a distribution, over the slots in use.
pub trait Selector: Send {
    /// So many slots are going to be used: memory for them, which costs nothing before it is used.
    fn reserve(&mut self, slots: usize);

    /// A new item is in `slot`, which was not in use.
    fn insert(&mut self, slot: Slot, priority: f64);

    /// The item in `slot`, which is in use, has another priority.
    fn update(&mut self, slot: Slot, priority: f64);

    /// The item in `slot`, which was in use, is gone.
    fn remove(&mut self, slot: Slot);

    /// Selects an item; answers it and the probability with which it was selected.
    ///
    /// # Panics
    /// If no slot is in use.
    fn select(&self, rng: &mut dyn Rng) -> (Slot, f64);

    /// The slots in use, in an order in which their insertion makes a selector that selects as this one
    /// does, whatever is done with both.
    fn slots(&self) -> Vec<Slot>;
}

/// The selectors there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelectorKind {
    /// Each item with the same probability, with replacement.
    Uniform,
    /// Each item in proportion to a power of its priority, with replacement.
    Prioritized,
    /// Recent items more often than old ones, with replacement.
    AgeWeighted,
    /// The oldest item.
    Fifo,
    /// The newest item.
    Lifo,
    /// The item of the highest priority, the oldest of several.
    MaxHeap,
    /// The item of the lowest priority, the oldest of several.
    MinHeap,
}

/// What makes the weights of items where they are drawn by weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Of [`Prioritized`]: the power of the priority.
    pub priority_exponent: f64,
    /// Of [`AgeWeighted`]: what is left of a weight with every newer item, and at least.
    pub age_decay: f64,
    /// See `age_decay`.
    pub age_floor: f64,
}

impl SelectorKind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Uniform,
        Self::Prioritized,
        Self::AgeWeighted,
        Self::Fifo,
        Self::Lifo,
        Self::MaxHeap,
        Self::MinHeap,
    ];

    /// An empty selector of this kind, of what of `weights` is its own.
    pub fn build(self, weights: Weights) -> Box<dyn Selector> {
        match self {
            Self::Uniform => Box::<Uniform>::default(),
            Self::Prioritized => Box::new(Prioritized::new(weights.priority_exponent)),
            Self::AgeWeighted => Box::new(AgeWeighted::new(weights.age_decay, weights.age_floor)),
            Self::Fifo => Box::<Fifo>::default(),
            Self::Lifo => Box::<Lifo>::default(),
            Self::MaxHeap => Box::new(Heap::max()),
            Self::MinHeap => Box::new(Heap::min()),
        }
    }

    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Prioritized => "prioritized",
            Self::AgeWeighted => "age_weighted",
            Self::Fifo => "fifo",
            Self::Lifo => "lifo",
            Self::MaxHeap => "max_heap",
            Self::MinHeap => "min_heap",
        }
    }

    /// Whether it looks at priorities.
    pub fn uses_priorities(self) -> bool {
        matches!(self, Self::Prioritized | Self::MaxHeap | Self::MinHeap)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The slots a selector may select, by a search through all: their priorities and ages.
    fn allowed(kind: SelectorKind, used: &BTreeMap<Slot, (f64, usize)>) -> Vec<Slot> {
        let best = |order: &dyn Fn(f64, usize) -> (f64, usize)| {
            let key = |&(_, &(priority, age)): &(&Slot, &(f64, usize))| order(priority, age);
            let by_key = |a: &(_, _), b: &(_, _)| key(a).partial_cmp(&key(b)).unwrap();
            used.iter().min_by(by_key).map(|(&slot, _)| slot)
        };
        match kind {
            SelectorKind::Uniform | SelectorKind::Prioritized | SelectorKind::AgeWeighted => {
                used.keys().copied().collect()
            }
            SelectorKind::Fifo => best(&|_, age| (0.0, age)).into_iter().collect(),
            SelectorKind::Lifo => best(&|_, age| (0.0, usize::MAX - age))
                .into_iter()
                .collect(),
            SelectorKind::MaxHeap => best(&|priority, age| (-priority, age))
                .into_iter()
                .collect(),
            SelectorKind::MinHeap => best(&|priority, age| (priority, age)).into_iter().collect(),
        }
    }

    proptest! {
        /// Every selector, after any insertions, updates and removals, selects what a search through
        /// all slots allows, and emptying it through its own selections yields each of them once.
        #[test]
        fn selects_exactly_what_a_search_would(
            changes in prop::collection::vec((0u32..20, 0u8..5, any::<bool>()), 0..100),
            seed in any::<u64>(),
        ) {
            for kind in SelectorKind::ALL {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let mut selector = kind.build(Weights {
                    priority_exponent: 1.0,
                    age_decay: 0.5,
                    age_floor: 0.1,
                });
                let mut used = BTreeMap::new();
                for (age, &(slot, priority, update)) in changes.iter().enumerate() {
                    let priority = f64::from(priority);
                    match used.get_mut(&slot) {
                        None => {
                            used.insert(slot, (priority, age));
                            selector.insert(slot, priority);
                        }
                        Some(entry) if update => {
                            entry.0 = priority;
                            selector.update(slot, priority);
                        }
                        Some(_) => {
                            used.remove(&slot);
                            selector.remove(slot);
                        }
                    }
                    if !used.is_empty() {
                        let (slot, probability) = selector.select(&mut rng);
                        prop_assert!(allowed(kind, &used).contains(&slot), "{kind:?}");
                        prop_assert!(probability > 0.0 && probability <= 1.0, "{kind:?}");
                    }
                }
                while !used.is_empty() {
                    let (slot, _) = selector.select(&mut rng);
                    prop_assert!(used.remove(&slot).is_some());
                    selector.remove(slot);
                }
            }
        }
    }
}
