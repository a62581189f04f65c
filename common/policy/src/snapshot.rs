//! Snapshots: a policy network's tensors and description as safetensors bytes.
//!
//! The metadata entry `pmpo.policy` holds the network's configuration and sizes as JSON. Matrices are
//! `[in, out]`, row-major: `y = x W + b`. The network's plan alone owns names and shapes; writing and
//! reading both check against it, and that every value is finite.

use std::collections::HashMap;

use bytes::Bytes;
use pmpo_types::{PolicyVersion, SpecDigest};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::{NetworkConfig, SnapshotError, TensorSpec};

const METADATA_KEY: &str = "pmpo.policy";

/// One publication of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySnapshot {
    /// Counts publications, from 1.
    pub version: PolicyVersion,
    /// Updates of the learner when it was published.
    pub learner_step: u64,
    /// The environment it acts in.
    pub spec_digest: SpecDigest,
    /// The encoded network, see [`encode`].
    pub weights: Bytes,
}

/// A tensor with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Name, for example `torso.0.weight`; [`Plan::tensors`](crate::Plan::tensors) has them.
    pub name: String,
    /// Shape; matrices are `[in, out]`.
    pub shape: Vec<usize>,
    /// Values, row-major.
    pub values: Vec<f32>,
}

/// A decoded snapshot: the network and its tensors, in the order of its plan.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyWeights {
    /// The network.
    pub network: NetworkConfig,
    /// Length of an observation.
    pub observation_size: usize,
    /// Length of an action.
    pub action_size: usize,
    /// The tensors.
    pub tensors: Vec<NamedTensor>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    network: NetworkConfig,
    observation_size: usize,
    action_size: usize,
}

/// Writes a snapshot. The tensors may come in any order.
///
/// # Errors
/// The network is refused, or a tensor is missing, unknown, of another shape or not finite.
pub fn encode(
    network: &NetworkConfig,
    observation_size: usize,
    action_size: usize,
    tensors: &[NamedTensor],
) -> Result<Bytes, SnapshotError> {
    let expected = network.tensors(observation_size, action_size)?;
    refuse_unknown(&expected, tensors.iter().map(|t| t.name.as_str()))?;
    let given = Tensors::new(tensors);
    let data = expected
        .iter()
        .map(|TensorSpec { name, shape, .. }| {
            let tensor = given.get(name)?;
            check_shape(name, shape, &tensor.shape)?;
            check_finite(name, &tensor.values)?;
            let mut bytes = vec![0; 4 * tensor.values.len()];
            for (bytes, value) in bytes.chunks_exact_mut(4).zip(&tensor.values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            Ok(bytes)
        })
        .collect::<Result<Vec<Vec<u8>>, SnapshotError>>()?;
    let views = expected
        .iter()
        .zip(&data)
        .map(|(TensorSpec { name, shape, .. }, data)| {
            Ok((
                name.as_str(),
                TensorView::new(Dtype::F32, shape.clone(), data)?,
            ))
        })
        .collect::<Result<Vec<_>, SnapshotError>>()?;
    let description = Description {
        network: network.clone(),
        observation_size,
        action_size,
    };
    let json = serde_json::to_string(&description).map_err(unreadable)?;
    let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
    Ok(safetensors::serialize(views, Some(metadata))?.into())
}

/// Reads a snapshot.
///
/// # Errors
/// The bytes are no safetensors file, do not describe a network, or a tensor is missing, unknown, of
/// another shape or type, or not finite.
pub fn decode(snapshot: &[u8]) -> Result<PolicyWeights, SnapshotError> {
    let (_, metadata) = SafeTensors::read_metadata(snapshot)?;
    let json = metadata
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get(METADATA_KEY))
        .ok_or_else(|| unreadable("absent"))?;
    let Description {
        network,
        observation_size,
        action_size,
    } = serde_json::from_str(json).map_err(unreadable)?;
    let expected = network.tensors(observation_size, action_size)?;

    let file = SafeTensors::deserialize(snapshot)?;
    refuse_unknown(&expected, file.names())?;
    let mut tensors = Vec::with_capacity(expected.len());
    for TensorSpec { name, shape, .. } in expected {
        let view = file
            .tensor(&name)
            .map_err(|_| SnapshotError::tensor(&name, "a tensor of this name", "none"))?;
        if view.dtype() != Dtype::F32 {
            return Err(SnapshotError::tensor(
                &name,
                "F32",
                format!("{:?}", view.dtype()),
            ));
        }
        check_shape(&name, &shape, view.shape())?;
        let values: Vec<f32> = view
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("chunks of four")))
            .collect();
        check_finite(&name, &values)?;
        tensors.push(NamedTensor {
            name,
            shape,
            values,
        });
    }
    Ok(PolicyWeights {
        network,
        observation_size,
        action_size,
        tensors,
    })
}

/// What a snapshot says of itself under `key`, beside its network.
///
/// # Errors
/// The bytes are no safetensors file.
pub fn entry(snapshot: &[u8], key: &str) -> Result<Option<String>, SnapshotError> {
    let (_, metadata) = SafeTensors::read_metadata(snapshot)?;
    let entries = metadata.metadata().as_ref();
    Ok(entries.and_then(|entries| entries.get(key)).cloned())
}

/// The snapshot, saying these things of itself, too, under these keys.
///
/// # Errors
/// The bytes are no safetensors file.
pub fn with_entries(
    snapshot: &[u8],
    entries: impl IntoIterator<Item = (String, String)>,
) -> Result<Bytes, SnapshotError> {
    let (_, metadata) = SafeTensors::read_metadata(snapshot)?;
    let mut all = metadata.metadata().clone().unwrap_or_default();
    all.extend(entries);
    let file = SafeTensors::deserialize(snapshot)?;
    Ok(safetensors::serialize(file.tensors(), Some(all))?.into())
}

/// Tensors by name.
pub(crate) struct Tensors<'a>(HashMap<&'a str, &'a NamedTensor>);

impl<'a> Tensors<'a> {
    pub(crate) fn new(tensors: &'a [NamedTensor]) -> Self {
        Self(
            tensors
                .iter()
                .map(|tensor| (tensor.name.as_str(), tensor))
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> Result<&'a NamedTensor, SnapshotError> {
        self.0
            .get(name)
            .copied()
            .ok_or_else(|| SnapshotError::tensor(name, "a tensor of this name", "none"))
    }
}

fn check_shape(name: &str, expected: &[usize], got: &[usize]) -> Result<(), SnapshotError> {
    if expected == got {
        return Ok(());
    }
    Err(SnapshotError::tensor(
        name,
        format!("shape {expected:?}"),
        format!("{got:?}"),
    ))
}

fn refuse_unknown<'a>(
    expected: &[TensorSpec],
    names: impl IntoIterator<Item = &'a str>,
) -> Result<(), SnapshotError> {
    for name in names {
        if !expected.iter().any(|known| known.name == name) {
            return Err(SnapshotError::tensor(name, "no tensor of this name", "one"));
        }
    }
    Ok(())
}

fn check_finite(name: &str, values: &[f32]) -> Result<(), SnapshotError> {
    // Without an early end this takes many values at a time.
    if values
        .iter()
        .fold(true, |all, value| all & value.is_finite())
    {
        return Ok(());
    }
    let i = values.iter().position(|value| !value.is_finite());
    let i = i.expect("one is not finite");
    let got = format!("{} at element {i}", values[i]);
    Err(SnapshotError::tensor(name, "finite values", got))
}

fn unreadable(reason: impl ToString) -> SnapshotError {
    SnapshotError::Metadata {
        key: METADATA_KEY,
        reason: reason.to_string(),
    }
}
