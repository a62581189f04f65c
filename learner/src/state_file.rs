//! A [`TrainState`] as safetensors: `online.policy.torso.0.weight` and so on for each network of
//! online and target, and `adam.policy.first`, `.second` for the optimisers, and
//! `duals.loss.values` for the dual variables of a loss that has some. What is no tensor (step,
//! optimiser steps, generator) is in [`Scalars`].

use std::collections::{BTreeMap, HashMap};

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use pmpo_policy::NamedTensor;
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::adam::Adam;
use crate::parameters::{named_tensors, with_named_tensors};
use crate::update::{Duals, Networks, TrainState};

/// The part of a [`TrainState`] that is no tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scalars {
    pub(crate) learner_steps: u64,
    policy_adam_steps: u64,
    critic_adam_steps: u64,
    #[serde(default)]
    dual_adam_steps: u64,
    rng: ChaCha8Rng,
}

impl Scalars {
    pub(crate) fn of(state: &TrainState) -> Self {
        Self {
            learner_steps: state.step,
            policy_adam_steps: state.policy_adam.steps,
            critic_adam_steps: state.critic_adam.steps,
            dual_adam_steps: state.duals.as_ref().map_or(0, |duals| duals.adam.steps),
            rng: state.noise.rng.clone(),
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
    let mut adams = vec![
        ("policy", &state.policy_adam),
        ("critic", &state.critic_adam),
    ];
    if let Some(duals) = &state.duals {
        add("duals.loss", vec![vector("values", &duals.values)]);
        adams.push(("duals", &duals.adam));
    }
    for (prefix, adam) in adams {
        let moments = vec![vector("first", &adam.first), vector("second", &adam.second)];
        add(&format!("adam.{prefix}"), moments);
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
    let mut take = |group: &str| tensors.remove(group).unwrap_or_default();
    let restored = TrainState {
        policy_adam: restore_adam(
            state.policy_adam,
            take("adam.policy"),
            scalars.policy_adam_steps,
        )?,
        critic_adam: restore_adam(
            state.critic_adam,
            take("adam.critic"),
            scalars.critic_adam_steps,
        )?,
        duals: match state.duals {
            None => None,
            Some(duals) => Some(Duals {
                values: take_vector(&mut by_name(take("duals.loss")), "values", &duals.values)?,
                adam: restore_adam(duals.adam, take("adam.duals"), scalars.dual_adam_steps)?,
            }),
        },
        online: restore_networks(state.online, &mut tensors, "online")?,
        target: restore_networks(state.target, &mut tensors, "target")?,
        step: scalars.learner_steps,
        noise: state.noise.with_rng(scalars.rng),
        device,
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

fn restore_adam(old: Adam, moments: Vec<NamedTensor>, steps: u64) -> Result<Adam, String> {
    let mut moments = by_name(moments);
    Ok(Adam {
        first: take_vector(&mut moments, "first", &old.first)?,
        second: take_vector(&mut moments, "second", &old.second)?,
        steps,
    })
}

fn by_name(tensors: Vec<NamedTensor>) -> HashMap<String, NamedTensor> {
    tensors.into_iter().map(|t| (t.name.clone(), t)).collect()
}

fn vector(name: &str, tensor: &Tensor<1>) -> NamedTensor {
    NamedTensor {
        name: name.to_owned(),
        shape: tensor.dims().to_vec(),
        values: tensor.to_data().try_into_vec().expect("vectors are f32"),
    }
}

/// The vector of this name, of the length of the one it replaces and on its device.
fn take_vector(
    tensors: &mut HashMap<String, NamedTensor>,
    name: &str,
    like: &Tensor<1>,
) -> Result<Tensor<1>, String> {
    let [length] = like.dims();
    match tensors.remove(name) {
        Some(tensor) if tensor.shape == [length] => {
            let data = TensorData::new(tensor.values, [length]);
            Ok(Tensor::from_data(data, &like.device()))
        }
        found => {
            let found = found.map_or("none".to_owned(), |tensor| format!("{:?}", tensor.shape));
            Err(format!("`{name}`: expected [{length}], got {found}"))
        }
    }
}
