//! What a layer does besides its matrix products, element by element and row by row, compiled for the
//! widest vectors at hand.
//!
//! Layer normalisation: Ba, Kiros and Hinton 2016. Derivatives of activations are taken from their
//! outputs, so that a layer need not keep its inputs.

use crate::math::{elu, exp, softplus, tanh};
use crate::simd::{Kernel, dispatch_widest, multiply_add};

/// Added to the variance by the layer normalisation; the variance is the biased one (over `n`).
pub const LAYER_NORM_EPSILON: f64 = 1e-5;

/// Independent partial sums, so that a sum vectorises.
const LANES: usize = 16;

/// What a layer ends in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nonlinearity {
    /// Nothing.
    #[default]
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `x` where positive, else `e^x - 1`.
    Elu,
    /// Hyperbolic tangent.
    Tanh,
    /// `ln(1 + e^x)`.
    Softplus,
}

impl Nonlinearity {
    /// Applies it in place: what an actor does at batch 1.
    #[inline(always)]
    pub fn apply<const FMA: bool>(self, values: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Relu => values.iter_mut().for_each(|x| *x = relu(*x)),
            Self::Elu => values.iter_mut().for_each(|x| *x = elu::<FMA>(*x)),
            Self::Tanh => values.iter_mut().for_each(|x| *x = tanh::<FMA>(*x)),
            Self::Softplus => values.iter_mut().for_each(|x| *x = softplus::<FMA>(*x)),
        }
    }
}

/// Layer normalisation of one row in place (Ba, Kiros and Hinton 2016):
/// `gamma (x - mean) / sqrt(variance + epsilon) + beta`.
#[inline(always)]
pub fn normalise<const FMA: bool>(values: &mut [f32], gamma: &[f32], beta: &[f32]) {
    let (mean, scale) = mean_and_scale(values);
    for ((value, gamma), beta) in values.iter_mut().zip(gamma).zip(beta) {
        *value = multiply_add::<FMA>((*value - mean) * scale, *gamma, *beta);
    }
}

#[inline(always)]
fn mean_and_scale(row: &[f32]) -> (f32, f32) {
    let columns = row.len() as f32;
    let mean = sum(row, row, |x, _| x) / columns;
    let variance = sum(row, row, |x, _| (x - mean) * (x - mean)) / columns;
    (mean, 1.0 / (variance + LAYER_NORM_EPSILON as f32).sqrt())
}

/// `values = f(values + bias)` in rows as long as the bias.
pub(crate) struct Activate<'a> {
    pub(crate) nonlinearity: Nonlinearity,
    pub(crate) bias: &'a [f32],
    pub(crate) values: &'a mut [f32],
}

impl Activate<'_> {
    pub(crate) fn execute(self) {
        dispatch_widest(self);
    }

    #[inline(always)]
    fn with(self, f: impl Fn(f32) -> f32) {
        for row in self.values.chunks_exact_mut(self.bias.len()) {
            for (value, bias) in row.iter_mut().zip(self.bias) {
                *value = f(*value + bias);
            }
        }
    }
}

impl Kernel for Activate<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        match self.nonlinearity {
            Nonlinearity::Identity => self.with(|x| x),
            Nonlinearity::Relu => self.with(relu),
            Nonlinearity::Elu => self.with(elu::<FMA>),
            Nonlinearity::Tanh => self.with(tanh::<FMA>),
            Nonlinearity::Softplus => self.with(softplus::<FMA>),
        }
    }
}

/// `gradient *= f'(x)`, given `outputs = f(x)`; `column_sums` are then the rows' sums.
pub(crate) struct ActivateBackward<'a> {
    pub(crate) nonlinearity: Nonlinearity,
    pub(crate) outputs: &'a [f32],
    pub(crate) gradient: &'a mut [f32],
    pub(crate) column_sums: &'a mut [f32],
}

impl ActivateBackward<'_> {
    pub(crate) fn execute(self) {
        dispatch_widest(self);
    }

    #[inline(always)]
    fn with(self, slope: impl Fn(f32) -> f32) {
        let columns = self.column_sums.len();
        let outputs = self.outputs.chunks_exact(columns);
        for (gradient, outputs) in self.gradient.chunks_exact_mut(columns).zip(outputs) {
            let sums = self.column_sums.iter_mut();
            for ((gradient, output), sum) in gradient.iter_mut().zip(outputs).zip(sums) {
                *gradient *= slope(*output);
                *sum += *gradient;
            }
        }
    }
}

impl Kernel for ActivateBackward<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        match self.nonlinearity {
            Nonlinearity::Identity => self.with(|_| 1.0),
            Nonlinearity::Relu => self.with(relu_slope),
            Nonlinearity::Elu => self.with(elu_slope),
            Nonlinearity::Tanh => self.with(tanh_slope),
            Nonlinearity::Softplus => self.with(|y| 1.0 - exp::<FMA>(-y)),
        }
    }
}

/// `outputs = f(gamma n + beta)` with `n = (x + bias - mean) / sqrt(variance + epsilon)` row by row,
/// where `outputs` holds `x` on entry. Keeps `n` and the rows' `1 / sqrt(..)` if there is a place.
pub(crate) struct Normalise<'a> {
    pub(crate) nonlinearity: Nonlinearity,
    pub(crate) bias: &'a [f32],
    pub(crate) gamma: &'a [f32],
    pub(crate) beta: &'a [f32],
    pub(crate) outputs: &'a mut [f32],
    /// `n`, as long as `outputs`, and one scale a row; or both empty.
    pub(crate) kept: (&'a mut [f32], &'a mut [f32]),
}

impl Normalise<'_> {
    pub(crate) fn execute(self) {
        dispatch_widest(self);
    }

    #[inline(always)]
    fn with<const FMA: bool>(self, f: impl Fn(f32) -> f32) {
        let columns = self.gamma.len();
        let (normalised, scales) = self.kept;
        for (i, row) in self.outputs.chunks_exact_mut(columns).enumerate() {
            for (value, bias) in row.iter_mut().zip(self.bias) {
                *value += bias;
            }
            let (mean, scale) = mean_and_scale(row);
            if let Some(kept) = scales.get_mut(i) {
                *kept = scale;
                let normalised = &mut normalised[i * columns..(i + 1) * columns];
                for (kept, value) in normalised.iter_mut().zip(&*row) {
                    *kept = (value - mean) * scale;
                }
            }
            for ((value, gamma), beta) in row.iter_mut().zip(self.gamma).zip(self.beta) {
                *value = f(multiply_add::<FMA>((*value - mean) * scale, *gamma, *beta));
            }
        }
    }
}

impl Kernel for Normalise<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        match self.nonlinearity {
            Nonlinearity::Identity => self.with::<FMA>(|x| x),
            Nonlinearity::Relu => self.with::<FMA>(relu),
            Nonlinearity::Elu => self.with::<FMA>(elu::<FMA>),
            Nonlinearity::Tanh => self.with::<FMA>(tanh::<FMA>),
            Nonlinearity::Softplus => self.with::<FMA>(softplus::<FMA>),
        }
    }
}

/// The gradient of what [`Normalise`] normalises, from that of `g = gamma n + beta`: with
/// `d = gradient gamma`, `scale (d - mean(d) - n mean(d n))` row by row, in place.
pub(crate) struct NormaliseBackward<'a> {
    pub(crate) gamma: &'a [f32],
    pub(crate) normalised: &'a [f32],
    pub(crate) scales: &'a [f32],
    /// Of `g` on entry.
    pub(crate) gradient: &'a mut [f32],
    /// Sums over the rows: the gradients of gamma and of the bias.
    pub(crate) gamma_gradient: &'a mut [f32],
    pub(crate) bias_gradient: &'a mut [f32],
}

impl NormaliseBackward<'_> {
    pub(crate) fn execute(self) {
        dispatch_widest(self);
    }
}

impl Kernel for NormaliseBackward<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let columns = self.gamma.len();
        let rows = self.gradient.chunks_exact_mut(columns);
        let kept = self.normalised.chunks_exact(columns).zip(self.scales);
        for (row, (normalised, &scale)) in rows.zip(kept) {
            let gamma = self.gamma.iter().zip(self.gamma_gradient.iter_mut());
            for ((value, n), (gamma, sum)) in row.iter_mut().zip(normalised).zip(gamma) {
                *sum = multiply_add::<FMA>(*value, *n, *sum);
                *value *= gamma;
            }
            let mean = sum(row, row, |d, _| d) / columns as f32;
            let projection = sum(row, normalised, |d, n| d * n) / columns as f32;
            let sums = self.bias_gradient.iter_mut();
            for ((value, n), sum) in row.iter_mut().zip(normalised).zip(sums) {
                *value = scale * multiply_add::<FMA>(*n, -projection, *value - mean);
                *sum += *value;
            }
        }
    }
}

// Comparisons, not `max`, so that a NaN stays one.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn relu_slope(y: f32) -> f32 {
    if y > 0.0 { 1.0 } else { 0.0 }
}

#[inline(always)]
fn elu_slope(y: f32) -> f32 {
    if y > 0.0 { 1.0 } else { y + 1.0 }
}

#[inline(always)]
fn tanh_slope(y: f32) -> f32 {
    1.0 - y * y
}

/// The sum of the terms of two rows.
#[inline(always)]
pub(crate) fn sum(left: &[f32], right: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for j in 0..LANES {
            sums[j] += term(left[j], right[j]);
        }
    }
    let rest = left_rest.iter().zip(right_rest).map(|(&l, &r)| term(l, r));
    sums.iter().sum::<f32>() + rest.sum::<f32>()
}
