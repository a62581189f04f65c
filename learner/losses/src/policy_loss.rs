//! How the policy improves: the closed set of losses, and what they share. A loss is one file, one
//! variant here, and its tests beside it.

use burn::tensor::Tensor;
use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

use crate::{
    ActionDistribution, DpoConfig, Family, IpoConfig, MpoConfig, PmpoConfig, dpo_loss, ipo_loss,
    mpo_loss, pmpo_loss,
};

/// What says which actions are good.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a step has one, and tensors are handles of this size"
)]
pub enum Judgement {
    /// An evaluation function's values of the actions, `[N, B]`; compared within a state.
    Values(Tensor<2>),
    /// Somebody's labels, as ones and zeros `[N, B]`; an action may have neither. Their expectations are
    /// over all accepted, and all rejected, actions of the batch.
    Labels {
        /// The accepted ones.
        accepted: Tensor<2>,
        /// The rejected ones.
        rejected: Tensor<2>,
    },
}

/// What a policy is improved with: actions, drawn from a reference policy or found in data, and what is
/// known of their worth. Constants but for the policy.
#[derive(Clone, Debug)]
pub struct Improvement<'a> {
    /// The policy to improve, in `B` states.
    pub policy: &'a ActionDistribution,
    /// The reference policy, in the same states: the one that the KL is to, and that sampled actions
    /// were drawn from.
    pub reference: &'a ActionDistribution,
    /// `[N, B, A]`, as drawn.
    pub actions: Tensor<3>,
    /// Which of the actions are good.
    pub judgement: Judgement,
    /// How much each state counts, `[B]`, with a mean of 1; absent, all the same.
    pub state_weights: Option<Tensor<1>>,
}

impl Improvement<'_> {
    /// Asserts the shapes; returns `[N, B, A]`.
    pub(crate) fn dims(&self) -> [usize; 3] {
        let [batch, size] = self.policy.dims();
        assert_eq!(
            self.reference.dims(),
            [batch, size],
            "reference must be [B, A] as the policy"
        );
        let [samples, b, a] = self.actions.dims();
        assert_eq!([b, a], [batch, size], "actions must be [N, B, A]");
        match &self.judgement {
            Judgement::Values(values) => {
                assert_eq!(values.dims(), [samples, batch], "values must be [N, B]");
            }
            Judgement::Labels { accepted, rejected } => {
                assert_eq!(accepted.dims(), [samples, batch], "accepted must be [N, B]");
                assert_eq!(rejected.dims(), [samples, batch], "rejected must be [N, B]");
            }
        }
        if let Some(weights) = &self.state_weights {
            assert_eq!(weights.dims(), [batch], "state weights must be [B]");
        }
        [samples, batch, size]
    }

    /// The values `[N, B]`, for losses that compare actions.
    ///
    /// # Panics
    /// If there are labels instead, which those losses are not configured with.
    pub(crate) fn values(&self) -> Tensor<2> {
        match &self.judgement {
            Judgement::Values(values) => values.clone().without_autodiff(),
            Judgement::Labels { .. } => panic!("this loss wants values, not labels"),
        }
    }

    /// `per_state` `[K, B]` with each state's weight.
    pub(crate) fn weigh(&self, per_state: Tensor<2>) -> Tensor<2> {
        match &self.state_weights {
            Some(weights) => per_state * weights.clone().unsqueeze::<2>(),
            None => per_state,
        }
    }

    /// `per_state` `[B, K]` with each state's weight.
    pub(crate) fn weigh_rows(&self, per_state: Tensor<2>) -> Tensor<2> {
        let [batch, _] = per_state.dims();
        match &self.state_weights {
            Some(weights) => per_state * weights.clone().reshape([batch, 1]),
            None => per_state,
        }
    }

    /// `ln pi(a)` under the policy, `[N, B]`.
    pub(crate) fn log_prob(&self) -> Tensor<2> {
        self.policy
            .log_prob(self.actions.clone().without_autodiff())
    }

    /// `ln pi(a) - ln pi_ref(a)`, `[N, B]`; its gradient is the policy's alone.
    pub(crate) fn log_ratio(&self) -> Tensor<2> {
        let actions = self.actions.clone().without_autodiff();
        self.log_prob() - self.reference.log_prob(actions).without_autodiff()
    }
}

/// Scalars `[1]` on the device with their names, read when wanted.
pub type PolicyStats = Vec<(&'static str, Tensor<1>)>;

/// The loss and its statistics.
#[derive(Clone, Debug)]
pub struct PolicyLossOutput {
    /// To minimise: `[1]`.
    pub loss: Tensor<1>,
    /// Its parts.
    pub stats: PolicyStats,
}

/// How the policy improves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PolicyLoss {
    /// Preferences over samples: the paper's loss.
    Pmpo(PmpoConfig),
    /// Maximum a posteriori policy optimisation: samples weighted by a softmax of their values.
    Mpo(MpoConfig),
    /// Direct preference optimisation on the best and the worst sample.
    Dpo(DpoConfig),
    /// Identity preference optimisation on the best and the worst sample.
    Ipo(IpoConfig),
}

impl Default for PolicyLoss {
    fn default() -> Self {
        Self::Pmpo(PmpoConfig::default())
    }
}

impl PolicyLoss {
    /// Refuses contradictions, given the number of action samples a state and the policy's head.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self, samples: usize, family: Family) -> Result<(), ConfigError> {
        match self {
            Self::Pmpo(config) => config.validate(samples, family),
            Self::Mpo(config) => config.validate(samples),
            Self::Dpo(config) => config.validate(samples),
            Self::Ipo(config) => config.validate(samples),
        }
    }

    /// What a configuration calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Pmpo(_) => "pmpo",
            Self::Mpo(_) => "mpo",
            Self::Dpo(_) => "dpo",
            Self::Ipo(_) => "ipo",
        }
    }

    /// Initial dual variables of the loss for actions of this size; empty if it has none.
    pub fn initial_duals(&self, action_size: usize, family: Family) -> Vec<f32> {
        match self {
            Self::Mpo(config) => config.initial_duals(action_size, family),
            Self::Pmpo(_) | Self::Dpo(_) | Self::Ipo(_) => Vec::new(),
        }
    }

    /// Adam's learning rate for the dual variables; none without them.
    pub fn dual_learning_rate(&self) -> Option<f64> {
        match self {
            Self::Mpo(config) => Some(config.dual_learning_rate),
            Self::Pmpo(_) | Self::Dpo(_) | Self::Ipo(_) => None,
        }
    }

    /// The loss. `duals` are as many as [`Self::initial_duals`] gave, `None` if it gave none.
    ///
    /// # Panics
    /// If a shape or the number of duals is wrong, or the distributions are not of the family that
    /// this was validated for.
    pub fn loss(
        &self,
        improvement: &Improvement<'_>,
        duals: Option<&Tensor<1>>,
    ) -> PolicyLossOutput {
        match self {
            Self::Pmpo(config) => pmpo_loss(config, improvement),
            Self::Mpo(config) => mpo_loss(config, improvement, duals.expect("MPO has duals")),
            Self::Dpo(config) => dpo_loss(config, improvement),
            Self::Ipo(config) => ipo_loss(config, improvement),
        }
    }
}

/// Refuses fewer than two samples a state.
pub(crate) fn at_least_a_pair(samples: usize) -> Result<(), ConfigError> {
    if samples >= 2 {
        return Ok(());
    }
    let expected = "pmpo, since one action per state makes no pair";
    Err(ConfigError::new(
        "kind",
        expected,
        format!("{samples} action per state"),
    ))
}
