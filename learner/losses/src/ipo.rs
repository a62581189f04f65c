//! Identity preference optimisation (Azar et al., 2023) on the best and the worst of a state's samples,
//! in the form of the paper's appendix "Link Between IPO and PMPO":
//!
//! `L = -ln pi(a_w) + ln pi(a_l) + beta (ln pi(a_w) / pi_ref(a_w) - ln pi(a_l) / pi_ref(a_l))^2`,
//!
//! averaged over the states. It is the square loss of Azar et al. up to a constant factor and a term
//! without the policy, their `tau` being `beta`.

use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

use crate::dpo::log_ratio_margin;
use crate::policy_loss::at_least_a_pair;
use crate::{Improvement, PolicyLossOutput};

/// Configuration of the IPO loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IpoConfig {
    /// Weight of the squared difference of the log-ratios.
    pub beta: f64,
}

impl Default for IpoConfig {
    fn default() -> Self {
        Self { beta: 1.0 }
    }
}

impl IpoConfig {
    /// Refuses what cannot be.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self, samples: usize) -> Result<(), ConfigError> {
        at_least_a_pair(samples)?;
        ConfigError::positive("beta", self.beta)
    }
}

/// The loss; its statistic `log_ratio_margin` is the mean of what is squared. The reference's
/// log-likelihoods, which the first two terms lack, are constants: they shift the loss and leave its
/// gradient, so that the margin serves both.
pub fn ipo_loss(config: &IpoConfig, improvement: &Improvement<'_>) -> PolicyLossOutput {
    let margin = log_ratio_margin(improvement);
    let loss = margin.clone().square() * config.beta - margin.clone();
    let loss = improvement.weigh(loss).mean();
    PolicyLossOutput {
        loss,
        stats: vec![("log_ratio_margin", margin.without_autodiff().mean())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Judgement;
    use crate::testing::{assert_close, constant, gaussian, gradient_check, values};

    /// The margin is 0.2 as in DPO's test, its derivatives 1 and -0.4: the loss is `3 * 0.04 - 0.2`,
    /// d loss/d margin is `6 * 0.2 - 1`.
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
            ipo_loss(&IpoConfig { beta: 3.0 }, &improvement).loss
        };
        let expected = 3.0 * 0.04 - 0.2;
        assert_close(
            &values(loss(constant(&[0.2, 1.0], [2]))),
            &[expected],
            1e-12,
        );
        let gradient = gradient_check(&[0.2, 1.0], loss);
        assert_close(&gradient, &[0.2, -0.08], 1e-9);
    }

    /// The loss is least where the margin is `1 / (2 beta)`.
    #[test]
    fn the_margin_it_seeks_is_one_over_two_beta() {
        let reference = gaussian(constant(&[0.0, 1.0], [2]), [1, 1]);
        // With std 1, the margin of 1 and -1 is 2 mu.
        let gradient = gradient_check(&[0.125, 1.0], |x| {
            let improvement = Improvement {
                policy: &gaussian(x, [1, 1]),
                reference: &reference,
                actions: constant(&[-1.0, 1.0], [2, 1, 1]),
                judgement: Judgement::Values(constant(&[0.0, 1.0], [2, 1])),
                state_weights: None,
            };
            ipo_loss(&IpoConfig { beta: 2.0 }, &improvement).loss
        });
        assert_close(&gradient, &[0.0, 0.0], 1e-9);
    }
}
