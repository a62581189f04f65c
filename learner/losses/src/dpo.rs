//! Direct preference optimisation (Rafailov et al., 2023) on the best and the worst of a state's
//! samples, as the paper compares it (section "Bandit RL" and Figure 2):
//!
//! `L = -ln sigmoid(beta (ln pi(a_w) / pi_ref(a_w) - ln pi(a_l) / pi_ref(a_l)))`,
//!
//! averaged over the states; `a_w` has the highest value, `a_l` the lowest. Samples between them are
//! left out.

use burn::tensor::{Tensor, activation};
use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

use crate::policy_loss::at_least_a_pair;
use crate::preference::best_and_worst;
use crate::{Improvement, Judgement, PolicyLossOutput};

/// Configuration of the DPO loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoConfig {
    /// Strength of the implicit regularisation. The paper finds that Gaussian policies need a high
    /// one, 20.
    pub beta: f64,
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self { beta: 20.0 }
    }
}

impl DpoConfig {
    /// Refuses what cannot be.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self, samples: usize) -> Result<(), ConfigError> {
        at_least_a_pair(samples)?;
        ConfigError::positive("beta", self.beta)
    }
}

/// The loss; its statistic `log_ratio_margin` is the mean of what `beta` multiplies.
pub fn dpo_loss(config: &DpoConfig, improvement: &Improvement<'_>) -> PolicyLossOutput {
    let margin = log_ratio_margin(improvement);
    let loss = -improvement
        .weigh(activation::log_sigmoid(margin.clone() * config.beta))
        .mean();
    PolicyLossOutput {
        loss,
        stats: vec![("log_ratio_margin", margin.without_autodiff().mean())],
    }
}

/// `ln pi(a_w) / pi_ref(a_w) - ln pi(a_l) / pi_ref(a_l)` of each state, `[1, B]`; of labelled actions, one
/// of which is accepted and one rejected in each state, those.
pub(crate) fn log_ratio_margin(improvement: &Improvement<'_>) -> Tensor<2> {
    improvement.dims();
    let (best, worst) = match &improvement.judgement {
        Judgement::Values(values) => best_and_worst(values.clone()),
        Judgement::Labels { accepted, rejected } => (accepted.clone(), rejected.clone()),
    };
    ((best - worst) * improvement.log_ratio()).sum_dim(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, constant, gaussian, gradient_check, stat, values};

    /// Reference N(0, 0.5), policy N(0.2, 1), samples -0.5, 0.1 and 0.5 with values 1, 1.5, 2. The
    /// margin is `ln pi(.5) - ln pi(-.5) - (ln pi_ref(.5) - ln pi_ref(-.5)) = 0.2 - 0`, the loss
    /// `ln(1 + e^-0.4)` with beta 2. d margin/d mu = `(0.3 + 0.7) / 1 = 1`, so
    /// d loss/d mu = `-2 sigmoid(-0.4)`; d margin/d std = `0.3^2 - 0.7^2 = -0.4`.
    #[test]
    fn loss_and_gradient_by_hand() {
        let reference = gaussian(constant(&[0.0, 0.5], [2]), [1, 1]);
        let loss = |x| {
            let improvement = Improvement {
                policy: &gaussian(x, [1, 1]),
                reference: &reference,
                actions: constant(&[-0.5, 0.1, 0.5], [3, 1, 1]),
                judgement: Judgement::Values(constant(&[1.0, 1.5, 2.0], [3, 1])),
                state_weights: None,
            };
            dpo_loss(&DpoConfig { beta: 2.0 }, &improvement)
        };
        let output = loss(constant(&[0.2, 1.0], [2]));
        assert_close(&stat(&output, "log_ratio_margin"), &[0.2], 1e-12);
        assert_close(&values(output.loss), &[(-0.4f64).exp().ln_1p()], 1e-12);
        let gradient = gradient_check(&[0.2, 1.0], |x| loss(x).loss);
        let slope = -2.0 / (1.0 + 0.4f64.exp());
        assert_close(&gradient, &[slope, slope * -0.4], 1e-9);
    }

    #[test]
    fn refuses_a_single_sample_and_a_beta_of_zero() {
        let config = DpoConfig::default();
        config.validate(2).unwrap();
        assert_eq!(
            config.validate(1).unwrap_err().to_string(),
            "kind: expected pmpo, since one action per state makes no pair, \
             got 1 action per state"
        );
        let message = DpoConfig { beta: 0.0 }.validate(4).unwrap_err();
        assert_eq!(
            message.to_string(),
            "beta: expected a finite number above 0, got 0"
        );
    }
}
