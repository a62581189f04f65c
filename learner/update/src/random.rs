//! A batch of random windows in the middle of episodes: for measurements and for a device that is to meet
//! its shapes before it is needed.

use bytes::Bytes;
use pmpo_types::{ColumnBatch, DType, SampledBatch, SampledItems, StepType, TableCounters, step};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::Window;

/// `items` windows of standard normal numbers with discounts of 0.95, drawn from `seed`.
pub fn random_windows(
    [observation_size, action_size]: [usize; 2],
    items: usize,
    window: Window,
    seed: u64,
) -> SampledBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let signature = step::signature(observation_size, action_size);
    let len = items * window.rows();
    let columns = signature.columns.iter().map(|spec| {
        let count = spec.elements() * len;
        match (spec.dtype, spec.name.as_str()) {
            (DType::I64, "step_type") => {
                let mid = StepType::Mid.number().to_le_bytes();
                Bytes::from(mid.repeat(count))
            }
            (DType::I64, _) => Bytes::from(vec![0; count * 8]),
            (_, "discount") => (0..count).flat_map(|_| 0.95f32.to_le_bytes()).collect(),
            _ => StandardNormal
                .sample_iter(&mut rng)
                .take(count)
                .flat_map(|value: f32| value.to_le_bytes())
                .collect(),
        }
    });
    SampledBatch {
        columns: ColumnBatch::new(&signature, len, columns.collect())
            .expect("made to the signature"),
        counters: TableCounters {
            size: items as u64,
            ..TableCounters::default()
        },
        items: SampledItems {
            keys: (0..items as u64).collect(),
            probabilities: vec![1.0 / items as f64; items],
            priorities: Vec::new(),
            times_sampled: vec![1; items],
            lengths: Vec::new(),
        },
    }
}
