//! The critic: its networks, online and target, and their learning.

use burn::tensor::{Device, Tensor};
use pmpo_kernels::Nonlinearity;
use pmpo_losses::{
    Combination, CriticHead, CriticLoss, CriticLossOutput, CriticTarget, Prediction,
};
use pmpo_policy::{LinearOp, Plan, TorsoConfig};
use pmpo_types::ConfigError;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::network::Network;
use crate::optimizer::{AdamW, OptimizerConfig};

/// Most critics of one run.
const MAX_COUNT: usize = 32;

/// What judges actions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CriticConfig {
    /// The layers between observation and action, side by side, and output.
    pub torso: TorsoConfig,
    /// What it says of a state and an action, and how its error is penalised.
    pub loss: CriticLoss,
    /// Number of critics, which start with weights of their own.
    pub count: usize,
    /// How several critics' predictions become the one that targets and preferences are made of.
    pub combination: Combination,
}

impl Default for CriticConfig {
    fn default() -> Self {
        Self {
            torso: TorsoConfig::default(),
            loss: CriticLoss::default(),
            count: 1,
            combination: Combination::default(),
        }
    }
}

impl CriticConfig {
    /// Refuses what cannot be, for returns of scaled rewards within `range`.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub(crate) fn validate(&self, range: [f64; 2]) -> Result<(), ConfigError> {
        self.torso
            .validate()
            .map_err(|error| error.within("torso"))?;
        self.loss
            .head(range)
            .map_err(|error| error.within("loss"))?;
        if !(1..=MAX_COUNT).contains(&self.count) {
            let expected = format!("1 to {MAX_COUNT}");
            return Err(ConfigError::new("count", expected, self.count));
        }
        Ok(())
    }
}

/// The critics and all that their learning changes.
#[derive(Clone, Debug)]
pub(crate) struct Critic {
    pub(crate) plan: Plan,
    output: LinearOp,
    head: CriticHead,
    combination: Combination,
    pub(crate) online: Vec<Network>,
    /// Copies from some steps ago, which targets and preferences are made of.
    pub(crate) target: Vec<Network>,
    pub(crate) adam: Vec<AdamW>,
}

/// What a step found.
pub(crate) struct CriticStep {
    /// Means over the critics.
    pub(crate) output: CriticLossOutput,
    /// Of the gradient of all critics, before clipping, `[1]`.
    pub(crate) gradient_norm: Tensor<1>,
}

/// What critics learn from: states `[B, O]`, actions `[B, A]`, and what they should have said.
pub(crate) struct CriticLesson {
    pub(crate) observation: Tensor<2>,
    pub(crate) action: Tensor<2>,
    pub(crate) target: CriticTarget,
    /// Factors of the losses, `[B]`.
    pub(crate) weights: Option<Tensor<1>>,
}

impl Critic {
    /// Fresh critics over inputs of size `inputs`, for returns of scaled rewards within `range`.
    pub(crate) fn new(
        config: &CriticConfig,
        inputs: usize,
        range: [f64; 2],
        rng: &mut impl Rng,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        let head = config.loss.head(range)?;
        let mut plan = Plan::torso(&config.torso.layers(), inputs)?;
        let output = plan.output("value", head.outputs(), Nonlinearity::Identity);
        let bias = config.loss.init_bias(&head);
        let mut fresh = || {
            let mut network = Network::new(&plan, rng, device);
            if let Some(bias) = &bias {
                let parameter = &mut network.parameters[output.bias];
                *parameter = parameter.like(bias.clone());
            }
            network
        };
        let online: Vec<Network> = (0..config.count).map(|_| fresh()).collect();
        Ok(Self {
            target: online.clone(),
            adam: online.iter().map(AdamW::new).collect(),
            online,
            plan,
            output,
            head,
            combination: config.combination,
        })
    }

    /// Outputs `[rows, K]` of a critic with these tensors for actions `[rows, A]`, which are clipped to
    /// the canonical range as actors clip them, in states `[rows, O]`.
    pub(crate) fn outputs(
        &self,
        network: &Network,
        observation: Tensor<2>,
        action: Tensor<2>,
    ) -> Tensor<2> {
        let [rows, _] = observation.dims();
        assert_eq!(action.dims()[0], rows, "one action a row");
        let input = Tensor::cat(vec![observation, action.clamp(-1.0, 1.0)], 1);
        network.linear(&self.output, network.features(&self.plan, input))
    }

    /// What the target critics together say of actions `[rows, A]` in states `[rows, O]`.
    pub(crate) fn target_prediction(
        &self,
        observation: Tensor<2>,
        action: Tensor<2>,
    ) -> Prediction {
        let predictions = self.target.iter().map(|network| {
            let outputs = self.outputs(network, observation.clone(), action.clone());
            self.head.predict(outputs)
        });
        self.head.combine(predictions.collect(), self.combination)
    }

    /// The gradient of what the online critics together say of actions `tanh u` in states `[rows, O]`, for
    /// `u` `[rows, A]`.
    pub(crate) fn squashed_action_gradient(
        &self,
        observation: Tensor<2>,
        u: Tensor<2>,
    ) -> Tensor<2> {
        let leaf = u.autodiff().require_grad();
        let action = leaf.clone().tanh();
        let values = self.online.iter().map(|network| {
            let outputs = self.outputs(network, observation.clone(), action.clone());
            self.head.values(outputs)
        });
        let count = self.online.len() as f64;
        let combined = values.reduce(|left, right| match self.combination {
            Combination::Mean => left + right,
            Combination::Minimum => left.min_pair(right),
        });
        let combined = combined.expect("at least one critic");
        let sum = match self.combination {
            Combination::Mean => combined.sum() / count,
            Combination::Minimum => combined.sum(),
        };
        let mut gradients = sum.backward();
        let gradient = leaf.grad_remove(&mut gradients);
        gradient.expect("a critic looks at the action")
    }

    /// The target of the batch's actions, from scaled rewards and discounts `[B]` and what was predicted
    /// for the next states, `[N * B]`, samples first.
    pub(crate) fn target(
        &self,
        reward: Tensor<1>,
        discount: Tensor<1>,
        next: Prediction,
    ) -> CriticTarget {
        self.head.target(reward, discount, next)
    }

    /// The loss of the critic with these tensors.
    pub(crate) fn loss(&self, leaves: &Network, lesson: &CriticLesson) -> CriticLossOutput {
        let (observation, action) = (lesson.observation.clone(), lesson.action.clone());
        let outputs = self.outputs(leaves, observation, action);
        let weights = lesson.weights.clone();
        self.head.loss(outputs, lesson.target.clone(), weights)
    }

    /// Moves each online critic down its loss's gradient.
    pub(crate) fn learn(
        &mut self,
        optimizer: &OptimizerConfig,
        lesson: &CriticLesson,
    ) -> CriticStep {
        let mut steps = Vec::with_capacity(self.online.len());
        for i in 0..self.online.len() {
            let leaves = self.online[i].tracked(&self.plan);
            let output = self.loss(&leaves, lesson);
            let mut gradients = output.loss.backward();
            let gradients = leaves.gradients(&self.plan, &mut gradients);
            drop(leaves);
            let norm = self.adam[i].apply_gradients(optimizer, &mut self.online[i], gradients);
            steps.push(CriticStep {
                output: CriticLossOutput {
                    loss: output.loss.without_autodiff(),
                    ..output
                },
                gradient_norm: norm,
            });
        }
        mean_step(steps)
    }

    /// The targets move by `share` of the way to the online critics.
    pub(crate) fn move_target(&mut self, share: f64) {
        if share == 1.0 {
            self.target.clone_from(&self.online);
            return;
        }
        for (target, online) in self.target.iter_mut().zip(&self.online) {
            target.move_towards(online, share);
        }
    }
}

/// The mean over critics, of which there is one at least.
fn mean_step(steps: Vec<CriticStep>) -> CriticStep {
    let count = steps.len() as f64;
    let sum = steps.into_iter().reduce(|mut sum, step| {
        sum.gradient_norm = sum.gradient_norm + step.gradient_norm;
        let (left, right) = (&mut sum.output, step.output);
        left.loss = left.loss.clone() + right.loss;
        left.stats.value = left.stats.value.clone() + right.stats.value;
        left.stats.target = left.stats.target.clone() + right.stats.target;
        left.errors = left.errors.take().zip(right.errors).map(|(l, r)| l + r);
        sum
    });
    let mut mean = sum.expect("at least one critic");
    if count > 1.0 {
        mean.gradient_norm = mean.gradient_norm / count;
        let output = &mut mean.output;
        output.loss = output.loss.clone() / count;
        output.stats.value = output.stats.value.clone() / count;
        output.stats.target = output.stats.target.clone() / count;
        output.errors = output.errors.take().map(|errors| errors / count);
    }
    mean
}
