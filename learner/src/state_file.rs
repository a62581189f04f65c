//! A [`TrainState`] as safetensors: `online.policy.torso.0.weight` and so on for each network of
//! online and target, and `adam.policy.first`, `.second` for the optimisers. What is no tensor
//! (step, optimiser steps, generator) is in [`Scalars`].

use std::collections::{BTreeMap, HashMap};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use pmpo_policy::NamedTensor;
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::adam::Adam;
use crate::parameters::{named_tensors, with_named_tensors};
use crate::update::{Networks, TrainState};

/// The part of a [`TrainState`] that is no tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scalars {
    pub(crate) learner_steps: u64,
    policy_adam_steps: u64,
    critic_adam_steps: u64,
    rng: ChaCha8Rng,
}

impl Scalars {
    pub(crate) fn of(state: &TrainState) -> Self {
        Self {
            learner_steps: state.step,
            policy_adam_steps: state.policy_adam.steps,
            critic_adam_steps: state.critic_adam.steps,
            rng: state.rng.clone(),
        }
    }
}

/// The tensors of `state` as a file.
pub(crate) fn encode(state: &TrainState) -> Vec<u8> {
    let mut tensors = BTreeMap::new();
    let mut add = |prefix: &str, named: Vec<NamedTensor>| {
        for tensor in named {
            let bytes: Vec<u8> = tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            tensors.insert(format!("{prefix}.{}", tensor.name), (tensor.shape, bytes));
        }
    };
    for (prefix, networks) in [("online", &state.online), ("target", &state.target)] {
        add(&format!("{prefix}.policy"), named_tensors(&networks.policy));
        add(&format!("{prefix}.critic"), named_tensors(&networks.critic));
    }
    for (prefix, adam) in [
        ("policy", &state.policy_adam),
        ("critic", &state.critic_adam),
    ] {
        let named =
            [("first", &adam.first), ("second", &adam.second)].map(|(name, moment)| NamedTensor {
                name: name.to_owned(),
                shape: moment.dims().to_vec(),
                values: moment.to_data().try_into_vec().expect("moments are f32"),
            });
        add(&format!("adam.{prefix}"), named.into());
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name, view.expect("as many bytes as the shape says"))
    });
    safetensors::serialize(views, None).expect("names are unique and shapes fit")
}

/// `state` with the tensors of a file and the scalars that belong to it.
///
/// # Errors
/// The file is no safetensors file, or does not hold exactly the tensors of `state`.
pub(crate) fn restore(
    state: TrainState,
    file: &[u8],
    scalars: Scalars,
) -> Result<TrainState, String> {
    let mut tensors = decode(file)?;
    let device = state.device().clone();
    let adam =
        |old: Adam, moments: Vec<NamedTensor>, steps| restore_adam(old, moments, steps, &device);
    let restored = TrainState {
        online: restore_networks(state.online, &mut tensors, "online")?,
        target: restore_networks(state.target, &mut tensors, "target")?,
        policy_adam: adam(
            state.policy_adam,
            tensors.remove("adam.policy").unwrap_or_default(),
            scalars.policy_adam_steps,
        )?,
        critic_adam: adam(
            state.critic_adam,
            tensors.remove("adam.critic").unwrap_or_default(),
            scalars.critic_adam_steps,
        )?,
        step: scalars.learner_steps,
        rng: scalars.rng,
        device: device.clone(),
    };
    match tensors.into_keys().next() {
        None => Ok(restored),
        Some(group) => Err(format!("{group}: unknown")),
    }
}

/// The tensors by the first two parts of their names.
fn decode(file: &[u8]) -> Result<HashMap<String, Vec<NamedTensor>>, String> {
    let file = SafeTensors::deserialize(file).map_err(|error| error.to_string())?;
    let mut groups = HashMap::<String, Vec<NamedTensor>>::new();
    for (name, view) in file.tensors() {
        let second = name.match_indices('.').nth(1).map(|(at, _)| at);
        let at = second.ok_or_else(|| format!("{name}: unknown"))?;
        if view.dtype() != Dtype::F32 {
            return Err(format!("{name}: expected F32, got {:?}", view.dtype()));
        }
        let values = view.data().chunks_exact(4);
        let tensor = NamedTensor {
            name: name[at + 1..].to_owned(),
            shape: view.shape().to_vec(),
            values: values
                .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
                .collect(),
        };
        groups
            .entry(name[..at].to_owned())
            .or_default()
            .push(tensor);
    }
    Ok(groups)
}

fn restore_networks(
    networks: Networks,
    tensors: &mut HashMap<String, Vec<NamedTensor>>,
    prefix: &str,
) -> Result<Networks, String> {
    let mut take = |name: &str| {
        tensors
            .remove(&format!("{prefix}.{name}"))
            .unwrap_or_default()
    };
    let (policy, critic) = (take("policy"), take("critic"));
    Ok(Networks {
        policy: restore_module(networks.policy, policy, &format!("{prefix}.policy"))?,
        critic: restore_module(networks.critic, critic, &format!("{prefix}.critic"))?,
    })
}

fn restore_module<M: Module>(
    module: M,
    tensors: Vec<NamedTensor>,
    prefix: &str,
) -> Result<M, String> {
    with_named_tensors(module, tensors).map_err(|error| format!("{prefix}: {error}"))
}

fn restore_adam(
    old: Adam,
    moments: Vec<NamedTensor>,
    steps: u64,
    device: &Device,
) -> Result<Adam, String> {
    let [parameters] = old.first.dims();
    let mut moments: HashMap<String, NamedTensor> = moments
        .into_iter()
        .map(|tensor| (tensor.name.clone(), tensor))
        .collect();
    let mut take = |name: &str| match moments.remove(name) {
        Some(tensor) if tensor.shape == [parameters] => {
            let data = TensorData::new(tensor.values, [parameters]);
            Ok(Tensor::from_data(data, device))
        }
        _ => Err(format!("adam moment `{name}`: expected [{parameters}]")),
    };
    Ok(Adam {
        first: take("first")?,
        second: take("second")?,
        steps,
    })
}
