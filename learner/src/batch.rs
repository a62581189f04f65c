//! The learner's input on its device: sampled columns, copied there all at once.

use burn::tensor::{Device, Tensor, TensorData};
use bytes::Bytes;
use pmpo_types::{ColumnBatch, transition};

use crate::statistics::BatchName;

/// A batch of transitions. `B` transitions, `O` observation size, `A` action size.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[B, O]`.
    pub observation: Tensor<2>,
    /// `[B, A]`, canonical.
    pub action: Tensor<2>,
    /// n-step sums of rewards, `[B]`.
    pub reward: Tensor<1>,
    /// What multiplies the value of the next observation, `[B]`.
    pub discount: Tensor<1>,
    /// `[B, O]`.
    pub next_observation: Tensor<2>,
    /// Mean policy version of the transitions.
    pub mean_policy_version: f64,
    /// What a message calls this batch.
    pub name: BatchName,
}

/// The columns that go to the device.
const UPLOADED: [usize; 5] = [
    transition::OBSERVATION,
    transition::ACTION,
    transition::REWARD,
    transition::DISCOUNT,
    transition::NEXT_OBSERVATION,
];

impl Batch {
    /// Copies transitions to `device`: one transfer of one buffer, whose parts the tensors are.
    ///
    /// # Panics
    /// If the columns are not those of [`transition::signature`], which every station before this one
    /// has checked.
    pub fn new(columns: &ColumnBatch, device: &Device) -> Self {
        let len = columns.len();
        let columns = columns.columns();
        let mut values = Vec::with_capacity(UPLOADED.iter().map(|&c| columns[c].len() / 4).sum());
        let parts = UPLOADED.map(|column| {
            let start = values.len();
            values.extend(floats(&columns[column]));
            start..values.len()
        });
        let count = values.len();
        let uploaded = Tensor::<1>::from_data(TensorData::new(values, [count]), device);
        let [observation, action, reward, discount, next_observation] =
            parts.map(|part| uploaded.clone().slice(part));
        let matrix = |tensor: Tensor<1>| {
            let width = tensor.dims()[0] / len;
            tensor.reshape([len, width])
        };
        let versions = versions(&columns[transition::POLICY_VERSION]);
        Self {
            observation: matrix(observation),
            action: matrix(action),
            reward,
            discount,
            next_observation: matrix(next_observation),
            mean_policy_version: versions.iter().map(|&v| v as f64).sum::<f64>() / len as f64,
            name: BatchName::new(&versions, floats(&columns[transition::REWARD])),
        }
    }
}

fn versions(column: &Bytes) -> Vec<i64> {
    column
        .chunks_exact(8)
        .map(|bytes| i64::from_le_bytes(bytes.try_into().expect("eight bytes")))
        .collect()
}

fn floats(column: &Bytes) -> impl Iterator<Item = f32> + Clone {
    column
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
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
        assert_eq!(batch.name.rewards, "20 to 21");
    }
}
