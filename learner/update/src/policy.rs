//! The policy: its online network, the reference it is held to, and its improvement.

use burn::tensor::{Device, Tensor};
use pmpo_losses::{
    ActionDistribution, CategoricalActions, DiagonalGaussian, Family, Improvement, LEAST_DUAL,
    PolicyLoss, PolicyLossOutput,
};
use pmpo_policy::{GaussianHead, HeadConfig, HeadPlan, NetworkConfig, PolicyPlan};
use pmpo_types::ConfigError;
use rand::Rng;

use crate::network::{Network, Parameter};
use crate::normaliser::ObservationNormaliser;
use crate::optimizer::{AdamW, OptimizerConfig, VectorAdam};

/// The largest action of which it is asked what it is the hyperbolic tangent of.
const LARGEST_ACTION: f64 = 1.0 - 1e-6;

/// What is computed with a policy's tensors.
#[derive(Clone, Debug)]
pub(crate) struct PolicyModel {
    pub(crate) plan: PolicyPlan,
    head: HeadConfig,
}

impl PolicyModel {
    pub(crate) fn new(
        network: &NetworkConfig,
        [observation_size, action_size]: [usize; 2],
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            plan: network.plan(observation_size, action_size)?,
            head: network.head.clone(),
        })
    }

    /// The canonical actions of samples that a distribution gave.
    pub(crate) fn actions<const D: usize>(&self, drawn: Tensor<D>) -> Tensor<D> {
        if squashes(&self.head) {
            drawn.tanh()
        } else {
            drawn
        }
    }

    /// What a distribution gave where an actor stored these actions.
    pub(crate) fn drawn<const D: usize>(&self, stored: Tensor<D>) -> Tensor<D> {
        if !squashes(&self.head) {
            return stored;
        }
        // Rounding makes 1 of actions from 9 standard deviations of 1 on.
        let inside = stored.clamp(-LARGEST_ACTION, LARGEST_ACTION);
        ((inside.clone() + 1.0) / (-inside + 1.0)).log() * 0.5
    }

    /// The distributions `[rows, A]` in states `[rows, O]`, normalised where the policy does that.
    pub(crate) fn distribution(
        &self,
        network: &Network,
        observation: Tensor<2>,
    ) -> ActionDistribution {
        let features = network.features(&self.plan.network, observation);
        match (&self.head, self.plan.head) {
            (HeadConfig::Gaussian(head), HeadPlan::Gaussian { mean, std }) => {
                let std = network.linear(&std, features.clone());
                ActionDistribution::Gaussian(DiagonalGaussian {
                    mean: network.linear(&mean, features),
                    std: std * head.std_scale() + head.min_std,
                })
            }
            (HeadConfig::Categorical(head), HeadPlan::Categorical { logits }) => {
                let logits = network.linear(&logits, features);
                let [rows, outputs] = logits.dims();
                let shape = [rows, outputs / head.bins, head.bins];
                ActionDistribution::Categorical(CategoricalActions::new(logits.reshape(shape)))
            }
            _ => unreachable!("a plan has the head of its network"),
        }
    }
}

/// The dual variables of a policy's loss.
#[derive(Clone, Debug)]
pub(crate) struct Duals {
    /// `[duals]`, a constant.
    pub(crate) values: Tensor<1>,
    pub(crate) adam: VectorAdam,
    learning_rate: f64,
}

/// The policy and all that its improvement changes.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) model: PolicyModel,
    pub(crate) online: Network,
    /// A copy from some steps ago: actions are drawn from it, and the loss's KL is to it.
    pub(crate) reference: Network,
    pub(crate) adam: AdamW,
    pub(crate) duals: Option<Duals>,
}

/// What a step found.
pub(crate) struct PolicyStep {
    pub(crate) output: PolicyLossOutput,
    /// Of the gradient, before clipping, `[1]`.
    pub(crate) gradient_norm: Tensor<1>,
    /// How much the policy explores, by name.
    pub(crate) exploration: (&'static str, Tensor<1>),
}

/// The states and actions that a policy is improved with; `judge` says which actions are good.
pub(crate) struct Samples {
    /// `[B, O]`.
    pub(crate) observation: Tensor<2>,
    pub(crate) reference: ActionDistribution,
    /// `[N, B, A]`.
    pub(crate) actions: Tensor<3>,
    pub(crate) judgement: pmpo_losses::Judgement,
    pub(crate) state_weights: Option<Tensor<1>>,
}

impl Policy {
    pub(crate) fn new(
        network: &NetworkConfig,
        loss: &PolicyLoss,
        sizes: [usize; 2],
        rng: &mut impl Rng,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        let model = PolicyModel::new(network, sizes)?;
        let [_, action_size] = sizes;
        let online = Network::new(&model.plan.network, rng, device);
        let initial = loss.initial_duals(action_size, family(&network.head));
        let duals = loss.dual_learning_rate().map(|learning_rate| Duals {
            values: Tensor::from_floats(initial.as_slice(), device),
            adam: VectorAdam::new(initial.len(), device),
            learning_rate,
        });
        Ok(Self {
            reference: online.clone(),
            adam: AdamW::new(&online),
            online,
            model,
            duals,
        })
    }

    pub(crate) fn family(&self) -> Family {
        family(&self.model.head)
    }

    /// What the reference policy would do in states `[B, O]`.
    pub(crate) fn reference(&self, observation: Tensor<2>) -> ActionDistribution {
        self.model.distribution(&self.reference, observation)
    }

    /// The loss on `samples` of the policy with these tensors, and how much that policy explores.
    pub(crate) fn loss(
        &self,
        loss: &PolicyLoss,
        leaves: &Network,
        duals: Option<&Tensor<1>>,
        samples: &Samples,
    ) -> (PolicyLossOutput, (&'static str, Tensor<1>)) {
        let policy = self.model.distribution(leaves, samples.observation.clone());
        let improvement = Improvement {
            policy: &policy,
            reference: &samples.reference,
            actions: samples.actions.clone(),
            judgement: samples.judgement.clone(),
            state_weights: samples.state_weights.clone(),
        };
        (loss.loss(&improvement, duals), policy.exploration())
    }

    /// Moves the online policy and the dual variables down the loss's gradient.
    pub(crate) fn improve(
        &mut self,
        loss: &PolicyLoss,
        optimizer: &OptimizerConfig,
        samples: &Samples,
    ) -> PolicyStep {
        let leaves = self.online.tracked(&self.model.plan.network);
        let duals = self
            .duals
            .as_ref()
            .map(|duals| duals.values.clone().autodiff().require_grad());
        let (output, exploration) = self.loss(loss, &leaves, duals.as_ref(), samples);
        let mut gradients = output.loss.backward();
        if let (Some(duals), Some(leaf)) = (&mut self.duals, duals) {
            let gradient = leaf.grad_remove(&mut gradients);
            let gradient = gradient.expect("each dual has a part in the loss");
            let values = duals
                .adam
                .step(duals.values.clone(), gradient, duals.learning_rate);
            duals.values = values.clamp_min(LEAST_DUAL);
        }
        let gradients = leaves.gradients(&self.model.plan.network, &mut gradients);
        drop(leaves);
        let gradient_norm = self
            .adam
            .apply_gradients(optimizer, &mut self.online, gradients);
        PolicyStep {
            output: PolicyLossOutput {
                loss: output.loss.without_autodiff(),
                ..output
            },
            gradient_norm,
            exploration,
        }
    }

    /// The online policy becomes the reference.
    pub(crate) fn refresh_reference(&mut self) {
        self.reference = self.online.clone();
    }

    /// Puts the normaliser's statistics where the policy is published from.
    pub(crate) fn set_normaliser(&mut self, normaliser: &ObservationNormaliser, device: &Device) {
        if let Some(places) = self.model.plan.normaliser {
            for (place, values) in places.into_iter().zip(normaliser.tensors()) {
                let tensor = Tensor::from_floats(values.as_slice(), device);
                self.online.parameters[place] = Parameter::Vector(tensor);
            }
        }
    }
}

/// Whether actions are hyperbolic tangents of what a head's distribution gives.
pub(crate) fn squashes(head: &HeadConfig) -> bool {
    matches!(
        head,
        HeadConfig::Gaussian(GaussianHead { squash: true, .. })
    )
}

/// The family of distributions that a head gives.
pub(crate) fn family(head: &HeadConfig) -> Family {
    match head {
        HeadConfig::Gaussian(_) => Family::Gaussian,
        HeadConfig::Categorical(_) => Family::Categorical,
    }
}
