//! MPO by hand and against finite differences.

use super::*;
use crate::Judgement;
use crate::testing::{assert_close, categorical, constant, gaussian, gradient_check, stat, values};

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p() + LEAST_MULTIPLIER
}

fn config() -> MpoConfig {
    MpoConfig {
        epsilon: 0.1,
        epsilon_mean: 0.02,
        epsilon_std: 0.01,
        epsilon_policy: 0.03,
        action_penalty: false,
        ..MpoConfig::default()
    }
}

/// Values ln 1 and ln 3 at temperature 1: weights 1/4 and 3/4, and the temperature's loss
/// `0.1 + ln((1 + 3) / 2)`.
#[test]
fn the_e_step_by_hand() {
    let q = constant(&[0.0, 3f64.ln()], [2, 1]);
    let (weights, dual) = e_step(q, 0.1, constant(&[1.0], [1]), Tensor::mean);
    assert_close(&values(weights), &[0.25, 0.75], 1e-12);
    assert_close(&values(dual), &[0.1 + 2f64.ln()], 1e-12);
}

/// Shifting all values shifts the temperature's loss by as much and no weight.
#[test]
fn the_e_step_survives_large_values() {
    let q = constant(&[1000.0, 1000.0 + 3f64.ln()], [2, 1]);
    let (weights, dual) = e_step(q, 0.1, constant(&[1.0], [1]), Tensor::mean);
    assert_close(&values(weights), &[0.25, 0.75], 1e-9);
    assert_close(&values(dual), &[1000.0 + 0.1 + 2f64.ln()], 1e-9);
}

#[test]
fn temperatures_start_in_units_of_the_values() {
    for temperature in [1e-6, 0.1, 1.0, 10.0, 1e4] {
        let back = softplus(f64::from(dual_variable(temperature)));
        assert!(
            (back / temperature - 1.0).abs() < 0.02,
            "{temperature}: {back}"
        );
    }
}

/// One state, one dimension, reference N(0, 0.5), policy N(0.2, 1), samples -0.5 and 0.5 with
/// weights 1/4 and 3/4:
/// - d/dmu: `-(sum_n w_n (a_n - mu)) / std_ref^2 + alpha_mean mu / std_ref^2`
///   `= -(0.25 * -0.7 + 0.75 * 0.3) / 0.25 + 0.8 alpha_mean = -0.2 + 0.8 alpha_mean`;
/// - d/dstd: `-(sum_n w_n (a_n - mu_ref)^2 / std^3 - 1 / std) + alpha_std (1 - 0.25)`
///   `= 0.75 + 0.75 alpha_std`;
/// - d/dx of a dual: `sigmoid(x) (epsilon - KL)`.
#[test]
fn gradients_of_policy_and_multipliers_by_hand() {
    let reference = gaussian(constant(&[0.0, 0.5], [2]), [1, 1]);
    let temperature = (1f64 - LEAST_MULTIPLIER).exp_m1().ln();
    let x = [0.2, 1.0, temperature, 0.3, -0.4];
    let leaf = constant::<1>(&x, [5]).autodiff().require_grad();
    let improvement = Improvement {
        policy: &gaussian(leaf.clone().slice(0..2), [1, 1]),
        reference: &reference,
        actions: constant(&[-0.5, 0.5], [2, 1, 1]),
        judgement: Judgement::Values(constant(&[0.0, 3f64.ln()], [2, 1])),
        state_weights: None,
    };
    let output = mpo_loss(&config(), &improvement, &leaf.clone().slice(2..5));
    let (kl_mean, kl_std) = (0.08, 2f64.ln() + 0.125 - 0.5);
    assert_close(&stat(&output, "temperature"), &[1.0], 1e-12);
    assert_close(&stat(&output, "kl_mean"), &[kl_mean], 1e-12);
    assert_close(&stat(&output, "kl_std"), &[kl_std], 1e-12);
    assert_close(&stat(&output, "alpha_mean"), &[softplus(0.3)], 1e-12);

    let gradients = output.loss.backward();
    let gradient = values(leaf.grad(&gradients).unwrap());
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    // d/dT of T (0.1 - ln 2 + ln(1 + 3^(1/T))) at 1: 0.1 + ln 2 - 3/4 ln 3.
    let dual = 0.1 + 2f64.ln() - 0.75 * 3f64.ln();
    let expected = [
        -0.2 + 0.8 * softplus(0.3),
        0.75 + 0.75 * softplus(-0.4),
        sigmoid(temperature) * dual,
        sigmoid(0.3) * (0.02 - kl_mean),
        sigmoid(-0.4) * (0.01 - kl_std),
    ];
    assert_close(&gradient, &expected, 1e-9);
}

/// The temperature's gradient is that of its own loss, for values and for the penalty.
#[test]
fn the_temperatures_gradients_equal_finite_differences() {
    let q = constant(&[1.0, -0.5, 2.0, 0.3, 0.1, 1.7], [3, 2]);
    gradient_check(&[0.7], |x| e_step(q.clone(), 0.1, x, Tensor::mean).1);
}

/// One bound for the sum of two dimensions' KLs against a bound for each.
#[test]
fn bounds_are_for_each_dimension_or_for_their_sum() {
    let reference = gaussian(constant(&[0.0, 0.0, 1.0, 1.0], [4]), [1, 2]);
    let policy = gaussian(constant(&[0.2, 0.4, 1.0, 1.0], [4]), [1, 2]);
    let gradient = |per_dimension: bool| {
        let config = MpoConfig {
            per_dimension,
            ..config()
        };
        let initial = vec![0.0; config.initial_duals(2, Family::Gaussian).len()];
        let duals = constant::<1>(&initial, [initial.len()])
            .autodiff()
            .require_grad();
        let improvement = Improvement {
            policy: &policy,
            reference: &reference,
            actions: constant(&[0.1, 0.2, 0.3, 0.4], [2, 1, 2]),
            judgement: Judgement::Values(constant(&[0.0, 1.0], [2, 1])),
            state_weights: None,
        };
        let gradients = mpo_loss(&config, &improvement, &duals).loss.backward();
        values(duals.grad(&gradients).unwrap())[1..].to_vec()
    };
    // sigmoid(0) = 1/2; KLs of the means 0.02 and 0.08, of the deviations 0.
    assert_close(&gradient(true), &[0.0, -0.03, 0.005, 0.005], 1e-9);
    assert_close(&gradient(false), &[-0.04, 0.005], 1e-9);
}

/// Samples 0.5 and 3 outside by 0 and 2, values equal: the penalty's weights are
/// `(1, e^-2) / (1 + e^-2)` at temperature 1, and pull the mean inwards.
#[test]
fn samples_outside_the_range_are_penalised() {
    let reference = gaussian(constant(&[0.0, 1.0], [2]), [1, 1]);
    let temperature = (1f64 - LEAST_MULTIPLIER).exp_m1().ln();
    let gradient = |action_penalty: bool| {
        let config = MpoConfig {
            action_penalty,
            ..config()
        };
        let count = config.initial_duals(1, Family::Gaussian).len();
        let duals = constant(&vec![temperature; count], [count]);
        gradient_check_of_mean(&config, &reference, &duals)
    };
    let far = 1.0 / (1.0 + 2f64.exp());
    let extra = -((1.0 - far) * 0.5 + far * 3.0);
    let difference = gradient(true) - gradient(false);
    assert!((difference - extra).abs() < 1e-7, "{difference}, {extra}");
}

fn gradient_check_of_mean(
    config: &MpoConfig,
    reference: &ActionDistribution,
    duals: &Tensor<1>,
) -> f64 {
    let leaf = constant::<1>(&[0.0, 1.0], [2]).autodiff().require_grad();
    let improvement = Improvement {
        policy: &gaussian(leaf.clone(), [1, 1]),
        reference,
        actions: constant(&[0.5, 3.0], [2, 1, 1]),
        judgement: Judgement::Values(constant(&[1.0, 1.0], [2, 1])),
        state_weights: None,
    };
    let gradients = mpo_loss(config, &improvement, duals).loss.backward();
    values(leaf.grad(&gradients).unwrap())[0]
}

/// d/dlogits of a categorical policy: `p - q` of the fit and `alpha (p - p_ref)` of the KL.
#[test]
fn a_categorical_policy_by_hand() {
    let reference = categorical(constant(&[0.0, 0.0], [2]), [1, 1, 2]);
    let temperature = (1f64 - LEAST_MULTIPLIER).exp_m1().ln();
    let logits = [0.6f64.ln(), 0.4f64.ln()];
    let leaf = constant::<1>(&logits, [2]).autodiff().require_grad();
    let improvement = Improvement {
        policy: &categorical(leaf.clone(), [1, 1, 2]),
        reference: &reference,
        actions: constant(&[-1.0, 1.0], [2, 1, 1]),
        judgement: Judgement::Values(constant(&[0.0, 3f64.ln()], [2, 1])),
        state_weights: None,
    };
    let duals = constant(&[temperature, 0.3], [2]);
    let gradients = mpo_loss(&config(), &improvement, &duals).loss.backward();
    let expected = [
        0.6 - 0.25 + softplus(0.3) * 0.1,
        0.4 - 0.75 - softplus(0.3) * 0.1,
    ];
    assert_close(&values(leaf.grad(&gradients).unwrap()), &expected, 1e-9);
}

#[test]
fn there_are_as_many_duals_as_the_options_want() {
    let count = |config: MpoConfig, family| config.initial_duals(6, family).len();
    assert_eq!(count(MpoConfig::default(), Family::Gaussian), 1 + 1 + 6 + 6);
    assert_eq!(count(MpoConfig::default(), Family::Categorical), 1 + 6);
    let summed = MpoConfig {
        per_dimension: false,
        ..config()
    };
    assert_eq!(count(summed, Family::Gaussian), 1 + 1 + 1);
}

#[test]
fn refuses_what_cannot_be() {
    MpoConfig::default().validate(4).unwrap();
    let message = MpoConfig {
        epsilon: 0.0,
        ..MpoConfig::default()
    };
    assert_eq!(
        message.validate(4).unwrap_err().to_string(),
        "epsilon: expected a finite number above 0, got 0"
    );
    assert!(MpoConfig::default().validate(1).is_err());
}
