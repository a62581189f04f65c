//! A [`TrainState`] as safetensors: `policy.online.torso.0.weight` and so on for the networks of policy
//! (`online`, `reference`) and critics (`critic.0.online`, `critic.0.target`), `adam.first` and
//! `adam.second` beside them for the optimisers' moments, `duals.values` for the dual variables of a loss
//! that has some. Running statistics are F64, all else F32. What is no tensor (counts of steps, the
//! generator) is in [`Scalars`].

use std::collections::{BTreeMap, HashMap};

use burn::tensor::{Device, Tensor, TensorData};
use pmpo_policy::{NamedTensor, Plan};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::TrainState;
use crate::network::Network;
use crate::optimizer::AdamW;

/// The part of a [`TrainState`] that is no tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scalars {
    /// Steps taken.
    pub learner_steps: u64,
    policy_adam_steps: u64,
    critic_adam_steps: Vec<u64>,
    #[serde(default)]
    dual_adam_steps: u64,
    rng: ChaCha8Rng,
}

impl TrainState {
    /// What [`Self::to_file`] leaves out.
    pub fn scalars(&self) -> Scalars {
        let duals = self.policy.duals.as_ref();
        Scalars {
            learner_steps: self.step,
            policy_adam_steps: self.policy.adam.steps,
            critic_adam_steps: self.critic.adam.iter().map(|adam| adam.steps).collect(),
            dual_adam_steps: duals.map_or(0, |duals| duals.adam.steps),
            rng: self.rng.clone(),
        }
    }

    /// The tensors as a safetensors file.
    pub fn to_file(&self) -> Vec<u8> {
        let mut file = Writer::default();
        let (policy, plan) = (&self.policy, &self.policy.model.plan.network);
        file.network("policy.online", plan, &policy.online);
        file.network("policy.reference", plan, &policy.reference);
        file.adam("policy", plan, &policy.adam);
        let critic = &self.critic;
        for i in 0..critic.online.len() {
            let prefix = format!("critic.{i}");
            file.network(&format!("{prefix}.online"), &critic.plan, &critic.online[i]);
            file.network(&format!("{prefix}.target"), &critic.plan, &critic.target[i]);
            file.adam(&prefix, &critic.plan, &critic.adam[i]);
        }
        if let Some(duals) = &policy.duals {
            file.vector("duals.values", &duals.values);
            file.vector("duals.adam.first", &duals.adam.first);
            file.vector("duals.adam.second", &duals.adam.second);
        }
        if let Some(temperature) = &self.temperature {
            file.vector("temperature.log", &temperature.log);
        }
        if let Some(normaliser) = &self.normaliser {
            file.statistics("normaliser.mean", &normaliser.mean);
            file.statistics("normaliser.variance", &normaliser.variance);
            file.statistics("normaliser.count", &[normaliser.count]);
        }
        let scale = &self.reward_scale;
        let statistics = [
            scale.largest,
            scale.mean,
            scale.square,
            scale.episodes as f64,
        ];
        file.statistics("reward_scale", &statistics);
        file.finish()
    }

    /// This state, which is a fresh one, with the networks of a file and what scales their inputs and outputs;
    /// steps, optimisers and the loss's own variables begin anew.
    ///
    /// # Errors
    /// The file is no safetensors file, or lacks a tensor; the message names it.
    pub fn with_networks_of(mut self, file: &[u8]) -> Result<Self, String> {
        let mut file = Reader::new(file)?;
        let device = self.device.clone();
        let plan = &self.policy.model.plan.network;
        self.policy.online = file.network("policy.online", plan, &device)?;
        self.policy.refresh_reference();
        let critic = &mut self.critic;
        for i in 0..critic.online.len() {
            critic.online[i] =
                file.network(&format!("critic.{i}.online"), &critic.plan, &device)?;
            critic.target[i] =
                file.network(&format!("critic.{i}.target"), &critic.plan, &device)?;
        }
        self.take_statistics(&mut file)?;
        Ok(self)
    }

    /// What observations and rewards are scaled by.
    fn take_statistics(&mut self, file: &mut Reader) -> Result<(), String> {
        if let Some(normaliser) = &mut self.normaliser {
            let size = normaliser.mean.len();
            normaliser.mean = file.statistics("normaliser.mean", size)?;
            normaliser.variance = file.statistics("normaliser.variance", size)?;
            normaliser.count = file.statistics("normaliser.count", 1)?[0];
        }
        let scale = file.statistics("reward_scale", 4)?;
        self.reward_scale.largest = scale[0];
        self.reward_scale.mean = scale[1];
        self.reward_scale.square = scale[2];
        self.reward_scale.episodes = scale[3] as u64;
        Ok(())
    }

    /// This state with the tensors of a file and the scalars that belong to it.
    ///
    /// # Errors
    /// The file is no safetensors file, or does not hold exactly the tensors of this state; the message
    /// names the first that is amiss.
    pub fn restored(mut self, file: &[u8], scalars: Scalars) -> Result<Self, String> {
        let mut file = Reader::new(file)?;
        let device = self.device.clone();
        let plan = &self.policy.model.plan.network;
        self.policy.online = file.network("policy.online", plan, &device)?;
        self.policy.reference = file.network("policy.reference", plan, &device)?;
        self.policy.adam = file.adam("policy", plan, &device, scalars.policy_adam_steps)?;
        let critic = &mut self.critic;
        let (expected, got) = (critic.online.len(), scalars.critic_adam_steps.len());
        if expected != got {
            return Err(format!("critics: expected {expected}, got {got}"));
        }
        for (i, steps) in scalars.critic_adam_steps.into_iter().enumerate() {
            let prefix = format!("critic.{i}");
            let online = file.network(&format!("{prefix}.online"), &critic.plan, &device)?;
            let target = file.network(&format!("{prefix}.target"), &critic.plan, &device)?;
            (critic.online[i], critic.target[i]) = (online, target);
            critic.adam[i] = file.adam(&prefix, &critic.plan, &device, steps)?;
        }
        if let Some(duals) = &mut self.policy.duals {
            duals.values = file.vector("duals.values", &duals.values)?;
            duals.adam.first = file.vector("duals.adam.first", &duals.adam.first)?;
            duals.adam.second = file.vector("duals.adam.second", &duals.adam.second)?;
            duals.adam.steps = scalars.dual_adam_steps;
        }
        if let Some(temperature) = &mut self.temperature {
            temperature.log = file.vector("temperature.log", &temperature.log)?;
        }
        self.take_statistics(&mut file)?;
        self.step = scalars.learner_steps;
        self.rng = scalars.rng;
        match file.0.into_keys().min() {
            None => Ok(self),
            Some(name) => Err(format!("{name}: unknown")),
        }
    }
}

#[derive(Default)]
struct Writer(BTreeMap<String, Stored>);

struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Writer {
    fn network(&mut self, prefix: &str, plan: &Plan, network: &Network) {
        for tensor in network.named(plan) {
            let name = format!("{prefix}.{}", tensor.name);
            self.floats(name, tensor.shape, &tensor.values);
        }
    }

    fn adam(&mut self, prefix: &str, plan: &Plan, adam: &AdamW) {
        self.network(&format!("{prefix}.adam.first"), plan, &adam.first);
        self.network(&format!("{prefix}.adam.second"), plan, &adam.second);
    }

    fn vector(&mut self, name: &str, tensor: &Tensor<1>) {
        let values: Vec<f32> = tensor.to_data().try_into_vec().expect("vectors are f32");
        self.floats(name.to_owned(), vec![values.len()], &values);
    }

    fn floats(&mut self, name: String, shape: Vec<usize>, values: &[f32]) {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let dtype = Dtype::F32;
        self.0.insert(
            name,
            Stored {
                dtype,
                shape,
                bytes,
            },
        );
    }

    fn statistics(&mut self, name: &str, values: &[f64]) {
        let stored = Stored {
            dtype: Dtype::F64,
            shape: vec![values.len()],
            bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        self.0.insert(name.to_owned(), stored);
    }

    fn finish(self) -> Vec<u8> {
        let views = self.0.iter().map(|(name, stored)| {
            let view = TensorView::new(stored.dtype, stored.shape.clone(), &stored.bytes);
            (name, view.expect("as many bytes as the shape says"))
        });
        safetensors::serialize(views, None).expect("names are unique and shapes fit")
    }
}

/// What is left of a file.
struct Reader(HashMap<String, Stored>);

impl Reader {
    fn new(file: &[u8]) -> Result<Self, String> {
        let file = SafeTensors::deserialize(file).map_err(|error| error.to_string())?;
        let stored = file.tensors().into_iter().map(|(name, view)| {
            let stored = Stored {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            (name, stored)
        });
        Ok(Self(stored.collect()))
    }

    fn network(&mut self, prefix: &str, plan: &Plan, device: &Device) -> Result<Network, String> {
        let mut tensors = Vec::with_capacity(plan.tensors.len());
        for spec in &plan.tensors {
            let (name, shape) = (format!("{prefix}.{}", spec.name), &spec.shape);
            tensors.push(NamedTensor {
                name: spec.name.clone(),
                shape: shape.clone(),
                values: self.take(&name, Dtype::F32, shape, f32::from_le_bytes)?,
            });
        }
        Network::from_named(plan, tensors, device).map_err(|error| format!("{prefix}: {error}"))
    }

    fn adam(
        &mut self,
        prefix: &str,
        plan: &Plan,
        device: &Device,
        steps: u64,
    ) -> Result<AdamW, String> {
        Ok(AdamW {
            first: self.network(&format!("{prefix}.adam.first"), plan, device)?,
            second: self.network(&format!("{prefix}.adam.second"), plan, device)?,
            steps,
        })
    }

    /// The vector of this name, of the length of the one it replaces and on its device.
    fn vector(&mut self, name: &str, like: &Tensor<1>) -> Result<Tensor<1>, String> {
        let shape = like.dims();
        let values = self.take(name, Dtype::F32, &shape, f32::from_le_bytes)?;
        Ok(Tensor::from_data(
            TensorData::new(values, shape),
            &like.device(),
        ))
    }

    fn statistics(&mut self, name: &str, size: usize) -> Result<Vec<f64>, String> {
        self.take(name, Dtype::F64, &[size], f64::from_le_bytes)
    }

    fn take<T, const BYTES: usize>(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        read: impl Fn([u8; BYTES]) -> T,
    ) -> Result<Vec<T>, String> {
        match self.0.remove(name) {
            Some(stored) if stored.dtype == dtype && stored.shape == shape => {
                let (values, _) = stored.bytes.as_chunks::<BYTES>();
                Ok(values.iter().map(|bytes| read(*bytes)).collect())
            }
            found => {
                let found = found.map_or("nothing".to_owned(), |stored| {
                    format!("{:?} {:?}", stored.dtype, stored.shape)
                });
                Err(format!("{name}: expected {dtype:?} {shape:?}, got {found}"))
            }
        }
    }
}
