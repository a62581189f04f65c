//! The learner's input on its device: sampled columns, copied there all at once.

use burn::tensor::{Device, Tensor, TensorData};
use bytes::Bytes;
use pmpo_types::{ColumnBatch, step, transition};

use crate::Targets;
use crate::statistics::BatchName;

/// A batch of transitions. `B` transitions, `O` observation size, `A` action size. Where they are the
/// steps of sequences, `B` is sequences times steps, sequence by sequence.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[B, O]`.
    pub observation: Tensor<2>,
    /// `[B, A]`, canonical.
    pub action: Tensor<2>,
    /// n-step sums of rewards, or of sequences the rewards, `[B]`.
    pub reward: Tensor<1>,
    /// What multiplies the value of the next observation, `[B]`.
    pub discount: Tensor<1>,
    /// `[B, O]`.
    pub next_observation: Tensor<2>,
    /// What multiplies the critic's losses, `[B]`, where experience is drawn by priority.
    pub weights: Option<Tensor<1>>,
    /// What sequences have beside.
    pub sequences: Option<Sequences>,
    /// Mean policy version of the transitions.
    pub mean_policy_version: f64,
    /// What a message calls this batch.
    pub name: BatchName,
}

/// How the transitions of a batch follow each other, and who acted.
#[derive(Clone, Debug)]
pub struct Sequences {
    /// Steps of each.
    pub length: usize,
    /// Logarithm of the density or probability that the acting policy gave each action, `[B]`.
    pub log_prob: Tensor<1>,
}

impl Batch {
    /// Copies to `device` what was sampled for these targets.
    ///
    /// # Panics
    /// If the columns are not those that the targets want, which every station before this one has
    /// checked.
    pub fn sampled(targets: &Targets, columns: &ColumnBatch, device: &Device) -> Self {
        match targets {
            Targets::NStep {} => Self::new(columns, device),
            Targets::Retrace(config) => Self::sequences(config.sequence_length, columns, device),
        }
    }

    /// Copies sequences to `device`, each of `length` steps and the one after them, which lends its
    /// observation.
    ///
    /// # Panics
    /// If the columns are not those of [`step::signature`] and of whole sequences.
    pub fn sequences(length: usize, columns: &ColumnBatch, device: &Device) -> Self {
        let stored = length + 1;
        assert_eq!(columns.len() % stored, 0, "whole sequences");
        let (rows, all) = (columns.len() / stored * length, columns.len());
        let columns = columns.columns();
        // Rows `first` to `first + length` of each sequence.
        let part = |index: usize, first: usize| -> Vec<f32> {
            let values = floats(&columns[index]);
            let width = values.len() / all;
            let sequences = values.chunks_exact(stored * width);
            let range = first * width..(first + length) * width;
            sequences
                .flat_map(|values| &values[range.clone()])
                .copied()
                .collect()
        };
        let versions: Vec<i64> = versions(&columns[step::POLICY_VERSION])
            .chunks_exact(stored)
            .flat_map(|versions| &versions[..length])
            .copied()
            .collect();
        let rewards = part(step::REWARD, 0);
        let name = BatchName::new(&versions, &rewards);
        let parts = [
            part(step::OBSERVATION, 0),
            part(step::ACTION, 0),
            rewards,
            part(step::DISCOUNT, 0),
            part(step::OBSERVATION, 1),
            part(step::LOG_PROB, 0),
        ];
        let [
            observation,
            action,
            reward,
            discount,
            next_observation,
            log_prob,
        ] = upload(parts, device);
        Self {
            observation: matrix(observation, rows),
            action: matrix(action, rows),
            reward,
            discount,
            next_observation: matrix(next_observation, rows),
            weights: None,
            sequences: Some(Sequences { length, log_prob }),
            mean_policy_version: mean(&versions),
            name,
        }
    }

    /// Copies transitions to `device`.
    ///
    /// # Panics
    /// If the columns are not those of [`transition::signature`], which every station before this one
    /// has checked.
    pub fn new(columns: &ColumnBatch, device: &Device) -> Self {
        let len = columns.len();
        let columns = columns.columns();
        let versions = versions(&columns[transition::POLICY_VERSION]);
        let rewards = floats(&columns[transition::REWARD]);
        let name = BatchName::new(&versions, &rewards);
        let parts = [
            floats(&columns[transition::OBSERVATION]),
            floats(&columns[transition::ACTION]),
            rewards,
            floats(&columns[transition::DISCOUNT]),
            floats(&columns[transition::NEXT_OBSERVATION]),
        ];
        let [observation, action, reward, discount, next_observation] = upload(parts, device);
        Self {
            observation: matrix(observation, len),
            action: matrix(action, len),
            reward,
            discount,
            next_observation: matrix(next_observation, len),
            weights: None,
            sequences: None,
            mean_policy_version: mean(&versions),
            name,
        }
    }
}

impl Batch {
    /// The same with the importance weights of its items, of which each row has its item's.
    pub(crate) fn weighted(self, weights: &[f32], device: &Device) -> Self {
        let rows = self.reward.dims()[0] / weights.len();
        let weights: Vec<f32> = weights
            .iter()
            .flat_map(|&weight| std::iter::repeat_n(weight, rows))
            .collect();
        Self {
            weights: Some(Tensor::from_floats(weights.as_slice(), device)),
            ..self
        }
    }
}

/// One transfer of one buffer to `device`, whose parts the vectors are.
fn upload<const K: usize>(parts: [Vec<f32>; K], device: &Device) -> [Tensor<1>; K] {
    let lengths = parts.each_ref().map(Vec::len);
    let values = parts.concat();
    let count = values.len();
    let uploaded = Tensor::<1>::from_data(TensorData::new(values, [count]), device);
    let mut start = 0;
    lengths.map(|length| {
        start += length;
        uploaded.clone().slice(start - length..start)
    })
}

fn matrix(values: Tensor<1>, rows: usize) -> Tensor<2> {
    let width = values.dims()[0] / rows;
    values.reshape([rows, width])
}

fn mean(versions: &[i64]) -> f64 {
    let sum: f64 = versions.iter().map(|&version| version as f64).sum();
    sum / versions.len() as f64
}

fn versions(column: &Bytes) -> Vec<i64> {
    column
        .chunks_exact(8)
        .map(|bytes| i64::from_le_bytes(bytes.try_into().expect("eight bytes")))
        .collect()
}

fn floats(column: &Bytes) -> Vec<f32> {
    column
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_become_tensors_of_their_shapes() {
        let signature = transition::signature(3, 2);
        let columns = signature.columns.iter().enumerate().map(|(c, spec)| {
            let elements = spec.elements() * 2;
            match c {
                transition::POLICY_VERSION => [4i64, 7]
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect::<Bytes>(),
                _ => (0..elements)
                    .flat_map(|i| ((10 * c + i) as f32).to_le_bytes())
                    .collect(),
            }
        });
        let columns = ColumnBatch::new(&signature, 2, columns.collect()).unwrap();
        let batch = Batch::new(&columns, &Device::flex());
        let values = |data: TensorData| data.try_into_vec::<f32>().unwrap();
        assert_eq!(batch.observation.dims(), [2, 3]);
        assert_eq!(
            values(batch.observation.into_data()),
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        );
        assert_eq!(values(batch.action.into_data()), [10.0, 11.0, 12.0, 13.0]);
        assert_eq!(values(batch.reward.into_data()), [20.0, 21.0]);
        assert_eq!(values(batch.discount.into_data()), [30.0, 31.0]);
        assert_eq!(
            values(batch.next_observation.into_data())[3..],
            [43.0, 44.0, 45.0]
        );
        assert_eq!(batch.mean_policy_version, 5.5);
        assert_eq!(batch.name.policy_versions, 4..=7);
        assert_eq!(batch.name.rewards, 20.0..=21.0);
    }

    /// Two sequences of two steps and the step after: rows 0 to 2 and 3 to 5.
    #[test]
    fn sequences_become_steps_with_the_observation_after_them() {
        let signature = step::signature(1, 2);
        let columns = signature.columns.iter().enumerate().map(|(c, spec)| {
            let elements = spec.elements() * 6;
            match c {
                step::POLICY_VERSION => (0..6i64).flat_map(i64::to_le_bytes).collect::<Bytes>(),
                _ => (0..elements)
                    .flat_map(|i| ((20 * c + i) as f32).to_le_bytes())
                    .collect(),
            }
        });
        let columns = ColumnBatch::new(&signature, 6, columns.collect()).unwrap();
        let batch = Batch::sequences(2, &columns, &Device::flex());
        let values = |data: TensorData| data.try_into_vec::<f32>().unwrap();
        assert_eq!(batch.observation.dims(), [4, 1]);
        assert_eq!(values(batch.observation.into_data()), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(
            values(batch.next_observation.into_data()),
            [1.0, 2.0, 4.0, 5.0]
        );
        assert_eq!(
            values(batch.action.into_data()),
            [20.0, 21.0, 22.0, 23.0, 26.0, 27.0, 28.0, 29.0]
        );
        assert_eq!(values(batch.reward.into_data()), [40.0, 41.0, 43.0, 44.0]);
        assert_eq!(values(batch.discount.into_data()), [60.0, 61.0, 63.0, 64.0]);
        let sequences = batch.sequences.unwrap();
        assert_eq!(sequences.length, 2);
        assert_eq!(
            values(sequences.log_prob.into_data()),
            [80.0, 81.0, 83.0, 84.0]
        );
        assert_eq!(batch.mean_policy_version, 2.0);
        assert_eq!(batch.name.policy_versions, 0..=4);
        assert_eq!(batch.name.rewards, 40.0..=44.0);
    }
}
