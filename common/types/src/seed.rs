//! Every random generator of a run is seeded from (run seed, generator, index): no two share a stream,
//! and a run is described by one number.

/// A random generator, by the part of the system that draws from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Generator {
    /// Initialisation of an actor's environment; index: the environment's number in the run.
    Environment = 1,
    /// An actor's action noise; index: the environment's number in the run.
    ActorPolicy = 2,
    /// Initialisation of an evaluator's environment; index: the evaluator's number.
    Evaluator = 3,
    /// The replay table's selector; index: the table's number.
    Replay = 4,
    /// The learner's action samples and network initialisation; index: 0.
    Learner = 5,
    /// Which steps of a data set are learned from; index: 0.
    Data = 6,
}

/// Derives the seed of one generator. Mixes with SplitMix64's finaliser (Steele, Lea and Flood 2014),
/// so that neighbouring run seeds and indices give unrelated seeds.
pub fn derive_seed(run_seed: u64, generator: Generator, index: u64) -> u64 {
    let mixed = split_mix(run_seed ^ split_mix(generator as u64));
    split_mix(mixed ^ split_mix(index.wrapping_add(0x5851_f42d_4c95_7f2d)))
}

fn split_mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn neighbouring_seeds_generators_and_indices_are_distinct() {
        let generators = [
            Generator::Environment,
            Generator::ActorPolicy,
            Generator::Evaluator,
            Generator::Replay,
            Generator::Learner,
            Generator::Data,
        ];
        let mut seen = HashSet::new();
        for run in 0..20 {
            for generator in generators {
                for index in 0..50 {
                    assert!(seen.insert(derive_seed(run, generator, index)));
                }
            }
        }
    }
}
