//! The random numbers of the update: what actions are drawn with. They come from the run's own generator
//! on the host, whatever the device, and travel with the batch: a checkpoint restores them, and a
//! resumed run draws what the uninterrupted one would have.

use pmpo_losses::Family;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// `count` numbers as [`ActionDistribution::sample`](pmpo_losses::ActionDistribution::sample) wants
/// them.
pub(crate) fn draw(rng: &mut ChaCha8Rng, family: Family, count: usize) -> Vec<f32> {
    match family {
        Family::Gaussian => StandardNormal.sample_iter(rng).take(count).collect(),
        Family::Categorical => (0..count).map(|_| rng.random()).collect(),
    }
}
