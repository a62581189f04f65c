//! Layers of a network: fused on the CPU, composed of the tensor library's operations elsewhere.
//!
//! [`layer()`] computes `f(x W + b)` or `f(LayerNorm(x W + b))`. [`composed`] is the formula, on every
//! device and data type; it is what the fused form is tested against, values and gradients. Where the
//! tensors are `f32` on the CPU backend, a layer is instead one operation with a hand-derived backward
//! pass (`layer.rs`), registered with the tensor library's automatic differentiation: no
//! temporaries between product and activation, no scalar `tanh` and `exp`.
//!
//! The library's `#[backend_extension]` would choose by backend too, but it wants the composed form
//! written once more in backend primitives for all others. Downcasting to the one backend that is
//! fused leaves the formula as it is.

mod adam;
mod kernels;
mod layer;
pub(crate) mod matrix;
mod operation;

use burn::nn::{LayerNorm, Linear};
use burn::tensor::{DType, Device, Tensor, activation};

pub(crate) use adam::{AdamFactors, adam_step};
use operation::{fused, on_graph};

/// What a layer ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nonlinearity {
    Identity,
    Relu,
    Elu,
    Tanh,
    Softplus,
}

/// `f(LayerNorm(input W + b))`, or without a norm `f(input W + b)`, of `[rows, inputs]`.
pub(crate) fn layer(
    input: Tensor<2>,
    linear: &Linear,
    norm: Option<&LayerNorm>,
    nonlinearity: Nonlinearity,
) -> Tensor<2> {
    let on_cpu = input.device() == Device::flex() && input.dtype() == DType::F32;
    let (true, Some(bias)) = (on_cpu, &linear.bias) else {
        return composed(input, linear, norm, nonlinearity);
    };
    let gradients = input.is_autodiff() || linear.weight.val().is_autodiff();
    let [input, weight, bias] = [
        on_graph(input),
        on_graph(linear.weight.val()),
        on_graph(bias.val()),
    ];
    let output = match norm.map(|norm| (&norm.gamma, &norm.beta)) {
        None => fused([input, weight, bias], nonlinearity),
        Some((gamma, Some(beta))) => {
            let norm = [on_graph(gamma.val()), on_graph(beta.val())];
            let [gamma, beta] = norm;
            fused([input, weight, bias, gamma, beta], nonlinearity)
        }
        Some((_, None)) => unreachable!("networks normalise with a beta"),
    };
    if gradients {
        output
    } else {
        output.without_autodiff()
    }
}

/// The same in the tensor library's operations.
pub(crate) fn composed(
    input: Tensor<2>,
    linear: &Linear,
    norm: Option<&LayerNorm>,
    nonlinearity: Nonlinearity,
) -> Tensor<2> {
    let x = linear.forward(input);
    let x = match norm {
        Some(norm) => norm.forward(x),
        None => x,
    };
    match nonlinearity {
        Nonlinearity::Identity => x,
        Nonlinearity::Relu => activation::relu(x),
        Nonlinearity::Elu => activation::elu(x, 1.0),
        Nonlinearity::Tanh => x.tanh(),
        Nonlinearity::Softplus => activation::softplus(x, 1.0),
    }
}

#[cfg(test)]
mod tests;
