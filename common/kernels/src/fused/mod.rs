//! Layers as operations of the tensor library: fused on the CPU, composed elsewhere.
//!
//! [`layer()`] computes `f(x W + b)` or `f(LayerNorm(x W + b))`, [`layer_norm`] `f(LayerNorm(x))`, and
//! [`cross_entropy`] the loss of a distribution's logits. The composed formulas, [`composed`] and so on,
//! are right on every device and data type; they
//! are what the fused forms are tested against, values and gradients. Where the tensors are `f32` on
//! the CPU backend, a layer is instead one operation with a hand-derived backward pass, registered with
//! the tensor library's automatic differentiation: no temporaries between product and activation, no
//! scalar `tanh` and `exp`.
//!
//! The library's `#[backend_extension]` would choose by backend too, but it wants the composed form
//! written once more in backend primitives for all others. Downcasting to the one backend that is
//! fused leaves the formula as it is.

mod adam;
mod operation;
pub mod primitive;

use burn::tensor::{Tensor, activation};

use crate::{LAYER_NORM_EPSILON, Nonlinearity};

use primitive::on_cpu;

pub use adam::{adam_step, composed_adam_step};

/// Gamma and beta of a layer normalisation, `[O]` each.
pub type NormTensors<'a> = [&'a Tensor<1>; 2];

/// `f(LayerNorm(input W + b))`, or without a norm `f(input W + b)`: `[R, O]` of `[R, I]`.
///
/// # Panics
/// If the shapes do not fit, or the tensors are on several devices.
pub fn layer(
    input: Tensor<2>,
    weight: &Tensor<2>,
    bias: &Tensor<1>,
    norm: Option<NormTensors<'_>>,
    nonlinearity: Nonlinearity,
) -> Tensor<2> {
    if !on_cpu(&input) {
        return composed(input, weight, bias, norm, nonlinearity);
    }
    let tracked = input.is_autodiff() || weight.is_autodiff();
    let output = operation::layer(input, weight, bias, norm, nonlinearity);
    constant_unless(tracked, output)
}

/// `f(LayerNorm(input))`: `[R, O]` of `[R, O]`.
///
/// # Panics
/// As [`layer()`].
pub fn layer_norm(
    input: Tensor<2>,
    norm: NormTensors<'_>,
    nonlinearity: Nonlinearity,
) -> Tensor<2> {
    if !on_cpu(&input) {
        return composed_norm(input, norm, nonlinearity);
    }
    let tracked = input.is_autodiff() || norm[0].is_autodiff();
    let output = operation::layer_norm(input, norm, nonlinearity);
    constant_unless(tracked, output)
}

/// [`layer()`] in the tensor library's operations.
pub fn composed(
    input: Tensor<2>,
    weight: &Tensor<2>,
    bias: &Tensor<1>,
    norm: Option<NormTensors<'_>>,
    nonlinearity: Nonlinearity,
) -> Tensor<2> {
    let x = input.matmul(weight.clone()) + bias.clone().unsqueeze::<2>();
    match norm {
        Some(norm) => composed_norm(x, norm, nonlinearity),
        None => activate(x, nonlinearity),
    }
}

/// [`layer_norm`] in the tensor library's operations.
pub fn composed_norm(
    input: Tensor<2>,
    [gamma, beta]: NormTensors<'_>,
    nonlinearity: Nonlinearity,
) -> Tensor<2> {
    let centred = input.clone() - input.mean_dim(1);
    let variance = centred.clone().square().mean_dim(1);
    let normalised = centred / (variance + LAYER_NORM_EPSILON).sqrt();
    let x = normalised * gamma.clone().unsqueeze::<2>() + beta.clone().unsqueeze::<2>();
    activate(x, nonlinearity)
}

/// The activation on its own.
pub fn activate(x: Tensor<2>, nonlinearity: Nonlinearity) -> Tensor<2> {
    match nonlinearity {
        Nonlinearity::Identity => x,
        Nonlinearity::Relu => activation::relu(x),
        // The library's own is `mask_where(x <= 0, e^x - 1)`, whose gradient is 0 times infinity for
        // inputs above 88.7.
        Nonlinearity::Elu => activation::relu(x.clone()) + x.clamp_max(0.0).exp() - 1.0,
        Nonlinearity::Tanh => x.tanh(),
        Nonlinearity::Softplus => activation::softplus(x, 1.0),
    }
}

/// Probabilities `[R, K]` of logits `[R, K]`; a constant.
pub fn softmax(logits: Tensor<2>) -> Tensor<2> {
    let logits = logits.without_autodiff();
    if on_cpu(&logits) {
        operation::softmax(logits)
    } else {
        activation::softmax(logits, 1)
    }
}

/// `-sum_k t_k ln softmax(x)_k` of logits `x` `[R, K]` under targets `t` `[R, K]`, constants that add up to
/// 1 in each row: `[R]`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    assert_eq!(logits.dims(), targets.dims(), "a target for each logit");
    let targets = targets.without_autodiff();
    if on_cpu(&logits) {
        let tracked = logits.is_autodiff();
        let losses = operation::cross_entropy(logits, targets);
        return if tracked {
            losses
        } else {
            losses.without_autodiff()
        };
    }
    composed_cross_entropy(logits, targets)
}

/// [`cross_entropy`] in the tensor library's operations.
pub fn composed_cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let [rows, _] = logits.dims();
    -(targets * activation::log_softmax(logits, 1))
        .sum_dim(1)
        .reshape([rows])
}

/// Means `[R]` over the support `[K]` of distributions with logits `[R, K]`.
pub fn expectation(logits: Tensor<2>, support: Tensor<1>) -> Tensor<1> {
    let tracked = logits.is_autodiff();
    if !on_cpu(&logits) {
        return composed_expectation(logits, support);
    }
    let means = operation::expectation(logits, support.without_autodiff());
    if tracked {
        means
    } else {
        means.without_autodiff()
    }
}

/// [`expectation`] in the tensor library's operations.
pub fn composed_expectation(logits: Tensor<2>, support: Tensor<1>) -> Tensor<1> {
    let [rows, _] = logits.dims();
    (activation::softmax(logits, 1) * support.unsqueeze::<2>())
        .sum_dim(1)
        .reshape([rows])
}

/// Moves `values` by `share` of the way to `towards`: in place on the CPU, if nobody else holds them.
pub fn lerp<const D: usize>(values: Tensor<D>, towards: Tensor<D>, share: f64) -> Tensor<D> {
    if on_cpu(&values) {
        return adam::lerp(values, towards, share);
    }
    values.clone() + (towards - values) * share
}

fn constant_unless(tracked: bool, output: Tensor<2>) -> Tensor<2> {
    if tracked {
        output
    } else {
        output.without_autodiff()
    }
}

#[cfg(test)]
mod tests;
