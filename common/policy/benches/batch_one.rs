//! Time of a sampled action at batch 1: `cargo bench -p pmpo-policy`.
//!
//! 24 observations, hidden 256x256, 6 actions; prints the median over blocks of calls.

use std::hint::black_box;
use std::time::Instant;

use pmpo_policy::{NamedTensor, NetworkConfig, PolicyNetwork, TorsoConfig, snapshot};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn main() {
    const CALLS: u32 = 1000;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for (observation_size, action_size, width) in [(24, 6, 256), (24, 6, 128), (67, 21, 256)] {
        let config = NetworkConfig {
            torso: TorsoConfig::hidden(&[width, width]),
            ..Default::default()
        };
        let specs = config.tensors(observation_size, action_size);
        let tensors: Vec<NamedTensor> = specs
            .expect("a network that can be")
            .iter()
            .map(|spec| spec.filled(|_| rng.random_range(-0.1..0.1)))
            .collect();
        let bytes = snapshot::encode(&config, observation_size, action_size, &tensors)
            .expect("the expected tensors");
        let mut network = PolicyNetwork::from_snapshot(&bytes).expect("a snapshot just written");
        let observation: Vec<f32> = (0..observation_size)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        let mut action = vec![0.0; action_size];
        let mut blocks: Vec<f64> = (0..100)
            .map(|_| {
                let start = Instant::now();
                for _ in 0..CALLS {
                    network.sample(black_box(&observation), &mut rng, &mut action);
                    black_box(&action);
                }
                start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
            })
            .collect();
        blocks.sort_by(f64::total_cmp);
        println!(
            "{observation_size} -> {width} -> {width} -> {action_size}: median {:.2} us, best {:.2} us",
            blocks[50], blocks[0]
        );
    }
}
