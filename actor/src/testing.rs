//! Policies and weights for the tests of this crate.

use std::collections::BTreeMap;

use pmpo_policy::{NamedTensor, NetworkConfig, PolicyNetwork, TorsoConfig, snapshot};
use pmpo_types::{ActionSpec, EnvironmentSpec, ObservationField, PolicyVersion};
use tokio_util::sync::CancellationToken;

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
