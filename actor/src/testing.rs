//! Policies and weights for the tests of this crate.

use std::collections::BTreeMap;

use pmpo_policy::{NamedTensor, NetworkConfig, PolicyNetwork, TorsoConfig, snapshot};
use pmpo_types::{
    ActionSpec, EnvironmentSpec, ObservationField, PolicyVersion, StepType, TimeStep,
};
use tokio_util::sync::CancellationToken;

use crate::environment::{EnvironmentError, VectorEnvironment};
use crate::weights::{Policy, WeightsSource};

/// An untrained policy: all weights zero, mean 0.
pub(crate) fn policy(spec: &EnvironmentSpec, version: u64, learner_step: u64) -> Policy {
    let network = NetworkConfig {
        torso: TorsoConfig::hidden(&[8, 8]),
        ..NetworkConfig::default()
    };
    let (observations, actions) = (spec.observation_size(), spec.action_size());
    let specs = network.tensors(observations, actions).unwrap();
    let tensors: Vec<NamedTensor> = specs.iter().map(|spec| spec.filled(|_| 0.0)).collect();
    let bytes = snapshot::encode(&network, observations, actions, &tensors).unwrap();
    let network = PolicyNetwork::from_snapshot(&bytes).unwrap();
    Policy {
        version: PolicyVersion(version),
        learner_step,
        network,
        arrival: None,
    }
}

/// An environment with vectors of these sizes.
pub(crate) fn spec(observations: usize, actions: usize) -> EnvironmentSpec {
    EnvironmentSpec {
        task: "test-task".to_owned(),
        observation: vec![ObservationField {
            name: "x".to_owned(),
            size: observations,
        }],
        action: ActionSpec {
            minimum: vec![-1.0; actions],
            maximum: vec![1.0; actions],
        },
        control_timestep: 0.01,
        step_limit: None,
        action_repeat: 1,
    }
}

/// Environments of the suite as a vector, which begin anew with the step that ends an episode or with the next.
pub(crate) struct SideBySide {
    environments: Vec<pmpo_suite::Environment>,
    same_step: bool,
    /// What each has come to: kind, reward and observation.
    now: Vec<(StepType, f64, Vec<f64>)>,
    begun: Vec<Option<Vec<f64>>>,
}

impl SideBySide {
    pub(crate) fn new(environments: Vec<pmpo_suite::Environment>, same_step: bool) -> Self {
        Self {
            now: Vec::new(),
            begun: vec![None; environments.len()],
            environments,
            same_step,
        }
    }
}

impl VectorEnvironment for SideBySide {
    fn spec(&self) -> &EnvironmentSpec {
        self.environments[0].spec()
    }

    fn count(&self) -> usize {
        self.environments.len()
    }

    fn reset(&mut self) -> Result<(), EnvironmentError> {
        self.begun.fill(None);
        self.now.clear();
        for environment in &mut self.environments {
            let first = environment.reset()?.observation.to_vec();
            self.now.push((StepType::First, 0.0, first));
        }
        Ok(())
    }

    fn step(&mut self, actions: &[f64]) -> Result<(), EnvironmentError> {
        let actions = actions.chunks_exact(self.spec().action_size());
        let actions: Vec<Vec<f64>> = actions.map(<[f64]>::to_vec).collect();
        for (index, environment) in self.environments.iter_mut().enumerate() {
            let over = self.now[index].0 == StepType::Last && !self.same_step;
            let step = if over {
                environment.reset()?
            } else {
                environment.step(&actions[index])?
            };
            let reward = step.reward.unwrap_or_default();
            self.now[index] = (step.step_type, reward, step.observation.to_vec());
            self.begun[index] = None;
            if self.same_step && self.now[index].0 == StepType::Last {
                self.begun[index] = Some(environment.reset()?.observation.to_vec());
            }
        }
        Ok(())
    }

    fn outcome(&self, index: usize) -> TimeStep<'_> {
        let (step_type, reward, ref observation) = self.now[index];
        let is_first = step_type == StepType::First;
        TimeStep {
            step_type,
            reward: (!is_first).then_some(reward),
            discount: (!is_first).then_some(1.0),
            observation,
        }
    }

    fn begun(&self, index: usize) -> Option<TimeStep<'_>> {
        let observation = self.begun[index].as_ref()?;
        Some(TimeStep {
            step_type: StepType::First,
            reward: None,
            discount: None,
            observation,
        })
    }
}

/// Policies by the number of times one was asked for; after `steps` times it ends the process.
pub(crate) struct Script {
    pub(crate) first: Option<Policy>,
    pub(crate) later: BTreeMap<usize, Policy>,
    pub(crate) steps: usize,
    asked: usize,
    shutdown: CancellationToken,
}

impl Script {
    pub(crate) fn new(shutdown: &CancellationToken) -> Self {
        Self {
            first: None,
            later: BTreeMap::new(),
            steps: usize::MAX,
            asked: 0,
            shutdown: shutdown.clone(),
        }
    }
}

impl WeightsSource for Script {
    fn newer(&mut self) -> Option<Policy> {
        let policy = self.later.remove(&self.asked);
        self.asked += 1;
        if self.asked == self.steps {
            self.shutdown.cancel();
        }
        policy
    }

    /// `first`, then `later` in order.
    fn wait(&mut self) -> Option<Policy> {
        self.first
            .take()
            .or_else(|| Some(self.later.pop_first()?.1))
    }
}
