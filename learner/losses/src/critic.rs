//! The critic's loss: n-step temporal differences with the target policy's actions averaged, as in
//! MPO (Abdolmaleki et al. 2018) with Acme's n-step transitions.
//!
//! `y = r + d mean_n Q_target(s', a_n)`, `a_n ~ pi_target(.|s')`, where `r` is the n-step discounted
//! sum of rewards and `d` the product of the environment's discounts and `gamma^n`.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// How the temporal difference is penalised.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CriticLoss {
    /// Half the mean of the squares.
    #[default]
    Mse,
    /// Quadratic up to `delta`, linear beyond (Huber 1964).
    Huber {
        /// Where the linear part begins.
        delta: f64,
    },
}

impl CriticLoss {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Mse => Ok(()),
            Self::Huber { delta } if *delta > 0.0 && delta.is_finite() => Ok(()),
            Self::Huber { delta } => {
                Err(ConfigError::new("delta", "a finite number above 0", delta))
            }
        }
    }
}

/// What there is to know about one evaluation of the loss; scalars on the device, read when wanted.
#[derive(Clone, Debug)]
pub struct CriticStats {
    /// Mean value of the batch's actions.
    pub value: Tensor<1>,
    /// Mean target.
    pub target: Tensor<1>,
}

/// The loss and its statistics.
#[derive(Clone, Debug)]
pub struct CriticLossOutput {
    /// To minimise: `[1]`.
    pub loss: Tensor<1>,
    /// Its parts.
    pub stats: CriticStats,
}

/// The regression target `[B]` from rewards `[B]`, discounts `[B]` and the target critic's values
/// `[N, B]` of the target policy's actions in the next states.
pub fn td_target(reward: Tensor<1>, discount: Tensor<1>, next_values: Tensor<2>) -> Tensor<1> {
    let [batch] = reward.dims();
    assert_eq!(discount.dims(), [batch], "discount must be [B]");
    assert_eq!(next_values.dims()[1], batch, "next values must be [N, B]");
    let next_value = next_values.mean_dim(0).reshape([batch]);
    (reward + discount * next_value).without_autodiff()
}

/// The loss of the online critic's `values` `[B]` against `targets` `[B]`, averaged over the batch.
pub fn critic_loss(config: &CriticLoss, values: Tensor<1>, targets: Tensor<1>) -> CriticLossOutput {
    assert_eq!(
        values.dims(),
        targets.dims(),
        "targets must be [B] as the values"
    );
    let targets = targets.without_autodiff();
    let stats = CriticStats {
        value: values.clone().without_autodiff().mean(),
        target: targets.clone().mean(),
    };
    let difference = targets - values;
    let loss = match config {
        CriticLoss::Mse => difference.square() * 0.5,
        CriticLoss::Huber { delta } => {
            // With c the difference clipped to [-delta, delta]: c (difference - c / 2).
            let clipped = difference.clone().clamp(-delta, *delta);
            clipped.clone() * (difference - clipped * 0.5)
        }
    };
    CriticLossOutput {
        loss: loss.mean(),
        stats,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, constant, gradient_check, values};

    /// State 0: `1 + 0.9 (2 + 4) / 2 = 3.7`; state 1 has terminated: its reward alone.
    #[test]
    fn targets_average_the_actions_and_stop_at_termination() {
        let target = td_target(
            constant(&[1.0, -2.0], [2]),
            constant(&[0.9, 0.0], [2]),
            constant(&[2.0, 100.0, 4.0, 300.0], [2, 2]),
        );
        assert_close(&values(target), &[3.7, -2.0], 1e-12);
    }

    /// Differences 0.5 and -3. MSE: `(0.125 + 4.5) / 2`; Huber with delta 1: `(0.125 + 3 - 0.5) / 2`.
    #[test]
    fn loss_and_gradient_by_hand() {
        let target = constant(&[1.0, -2.0], [2]);
        for (config, loss, gradient) in [
            (CriticLoss::Mse, 2.3125, [-0.25, 1.5]),
            (CriticLoss::Huber { delta: 1.0 }, 1.3125, [-0.25, 0.5]),
        ] {
            let q = [0.5, 1.0];
            let output = critic_loss(&config, constant(&q, [2]), target.clone());
            assert_close(&values(output.loss), &[loss], 1e-12);
            assert_close(&values(output.stats.value), &[0.75], 1e-12);
            assert_close(&values(output.stats.target), &[-0.5], 1e-12);
            let got = gradient_check(&q, |q| critic_loss(&config, q, target.clone()).loss);
            assert_close(&got, &gradient, 1e-9);
        }
    }

    #[test]
    fn no_gradient_reaches_the_target() {
        let leaf = |x: &[f64]| constant::<1>(x, [x.len()]).autodiff().require_grad();
        let (online, behind) = (leaf(&[0.5]), leaf(&[2.0]));
        let next = behind.clone().reshape([1, 1]);
        let target = td_target(constant(&[1.0], [1]), constant(&[0.9], [1]), next);
        let gradients = critic_loss(&CriticLoss::Mse, online.clone(), target)
            .loss
            .backward();
        assert!(online.grad(&gradients).is_some());
        assert!(behind.grad(&gradients).is_none());
    }

    #[test]
    #[should_panic(expected = "targets must be [B]")]
    fn a_target_that_would_broadcast_is_refused() {
        critic_loss(
            &CriticLoss::Mse,
            constant(&[0.0, 1.0], [2]),
            constant(&[0.0], [1]),
        );
    }

    #[test]
    fn refuses_a_delta_that_is_not_positive() {
        assert!(CriticLoss::default().validate().is_ok());
        let message = CriticLoss::Huber { delta: 0.0 }.validate().unwrap_err();
        assert_eq!(
            message.to_string(),
            "delta: expected a finite number above 0, got 0"
        );
    }
}
