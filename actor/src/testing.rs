//! Policies and weights for the tests of this crate.

use std::collections::BTreeMap;

use pmpo_policy::{NamedTensor, NetworkConfig, PolicyNetwork, snapshot};
use pmpo_types::{EnvironmentSpec, PolicyVersion};
use tokio_util::sync::CancellationToken;

use crate::weights::{Policy, WeightsSource};

/// An untrained policy: all weights zero, mean 0.
pub(crate) fn policy(spec: &EnvironmentSpec, version: u64, learner_step: u64) -> Policy {
    let network = NetworkConfig {
        hidden_sizes: vec![8, 8],
        ..NetworkConfig::default()
    };
    let (observations, actions) = (spec.observation_size(), spec.action_size());
    let tensors: Vec<NamedTensor> = snapshot::expected_tensors(&network, observations, actions)
        .into_iter()
        .map(|(name, shape)| {
            let values = vec![0.0; shape.iter().product()];
            NamedTensor {
                name,
                shape,
                values,
            }
        })
        .collect();
    let bytes = snapshot::encode(&network, observations, actions, &tensors).unwrap();
    let network = PolicyNetwork::from_snapshot(&bytes).unwrap();
    Policy {
        version: PolicyVersion(version),
        learner_step,
        network,
        arrival: None,
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
