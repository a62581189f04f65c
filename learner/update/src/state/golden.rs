//! Three steps against the same in another tensor library: the numbers of `golden.json` are those of
//! `python learner/benches/jax_learner.py --golden FILE`, in double precision.

use std::collections::BTreeMap;

use pmpo_losses::{DecoupledWeights, KlPenalty, PmpoConfig, PolicyLoss};
use pmpo_policy::{NamedTensor, Plan, TorsoConfig};
use serde::Deserialize;

use super::*;
use crate::network::Network;
use crate::statistics::BatchName;

/// Tensors of a network by name.
type Tensors = BTreeMap<String, Vec<f32>>;

#[derive(Deserialize)]
struct Golden {
    before: BTreeMap<String, Tensors>,
    steps: Vec<Step>,
    after: BTreeMap<String, Tensors>,
}

#[derive(Deserialize)]
struct Step {
    observation: Vec<f32>,
    action: Vec<f32>,
    reward: Vec<f32>,
    discount: Vec<f32>,
    next_observation: Vec<f32>,
    noise: Vec<f32>,
    /// Losses of policy and critic, the norms of their gradients, and what the losses are of.
    statistics: Vec<f32>,
}

impl Step {
    fn batch(&self) -> Batch {
        let rows = Rows {
            observation: self.observation.clone(),
            action: self.action.clone(),
            reward: self.reward.clone(),
            discount: self.discount.clone(),
            next_observation: self.next_observation.clone(),
            ..Rows::default()
        };
        let extras = Extras {
            noise: self.noise.clone(),
            weights: Vec::new(),
            state_weights: Vec::new(),
            labels: Vec::new(),
            sequence_length: None,
            mean_policy_version: 1.0,
            name: BatchName::new(&[1], &self.reward),
        };
        Batch::upload(rows, extras, &Device::flex())
    }
}

fn network(plan: &Plan, tensors: &Tensors) -> Network {
    let named = plan.tensors.iter().map(|spec| NamedTensor {
        name: spec.name.clone(),
        shape: spec.shape.clone(),
        values: tensors[&spec.name].clone(),
    });
    Network::from_named(plan, named.collect(), &Device::flex()).unwrap()
}

fn assert_near(got: f32, expected: f32, what: &str) {
    let tolerance = 2e-5 * expected.abs().max(1.0);
    assert!(
        (got - expected).abs() < tolerance,
        "{what}: {got}, not {expected}"
    );
}

#[test]
fn three_steps_are_those_of_jax() {
    let golden: Golden = serde_json::from_str(include_str!("golden.json")).unwrap();
    let mut config = AgentConfig::default();
    config.policy.torso = TorsoConfig::hidden(&[8, 8]);
    config.critic.torso = TorsoConfig::hidden(&[8, 8]);
    config.update.policy_loss = PolicyLoss::Pmpo(PmpoConfig {
        kl: KlPenalty::Decoupled(DecoupledWeights {
            beta_mean: 1.0,
            beta_std: 100.0,
        }),
        ..PmpoConfig::default()
    });
    config.update.policy.learning_rate = 3e-4;
    config.update.critic.learning_rate = 3e-4;
    config.update.target_period_steps = 2;
    config.update.reference_period_steps = 2;
    let mut state = TrainState::new(&config, [3, 2], 1, &Device::flex()).unwrap();
    let [policy_plan, critic_plan] =
        [&state.policy.model.plan.network, &state.critic.plan].map(Plan::clone);
    let policy = network(&policy_plan, &golden.before["policy"]);
    let critic = network(&critic_plan, &golden.before["critic"]);
    (state.policy.online, state.policy.reference) = (policy.clone(), policy);
    (state.critic.online, state.critic.target) = (vec![critic.clone()], vec![critic]);

    let names = [
        "policy_loss",
        "critic_loss",
        "policy_gradient_norm",
        "critic_gradient_norm",
    ];
    for (i, step) in golden.steps.iter().enumerate() {
        let statistics: BTreeMap<_, _> = state.update(&step.batch()).read().into_iter().collect();
        for (name, expected) in names.iter().zip(&step.statistics) {
            assert_near(statistics[name], *expected, &format!("step {i}, {name}"));
        }
    }
    let networks = [
        ("policy", state.policy.online.named(&policy_plan)),
        ("critic", state.critic.online[0].named(&critic_plan)),
    ];
    for (network, tensors) in networks {
        for tensor in tensors {
            let expected = &golden.after[network][&tensor.name];
            for (got, expected) in tensor.values.iter().zip(expected) {
                assert_near(*got, *expected, &format!("{network}, {}", tensor.name));
            }
        }
    }
}
