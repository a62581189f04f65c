//! What a layer does besides its matrix products, element by element and row by row, compiled for the
//! widest vectors at hand.
//!
//! Layer normalisation: Ba, Kiros and Hinton 2016. Derivatives of activations are taken from their
//! outputs, so that a layer need not keep its inputs.

use pmpo_policy::math::{elu, exp, softplus, tanh};
use pmpo_policy::simd::{Kernel, dispatch_widest, multiply_add};
use pmpo_policy::torso::LAYER_NORM_EPSILON;

use super::Nonlinearity;

/// Independent partial sums, so that a sum vectorises.
const LANES: usize = 16;

/// `values = f(values + bias)` in rows as long as the bias.
pub(super) struct Activate<'a> {
    pub(super) nonlinearity: Nonlinearity,
    pub(super) bias: &'a [f32],
    pub(super) values: &'a mut [f32],
}

impl Activate<'_> {
    pub(super) fn execute(self) {
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
pub(super) struct ActivateBackward<'a> {
    pub(super) nonlinearity: Nonlinearity,
    pub(super) outputs: &'a [f32],
    pub(super) gradient: &'a mut [f32],
    pub(super) column_sums: &'a mut [f32],
}

impl ActivateBackward<'_> {
    pub(super) fn execute(self) {
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
pub(super) struct Normalise<'a> {
    pub(super) nonlinearity: Nonlinearity,
    pub(super) bias: &'a [f32],
    pub(super) gamma: &'a [f32],
    pub(super) beta: &'a [f32],
    pub(super) outputs: &'a mut [f32],
    /// `n`, as long as `outputs`, and one scale a row; or both empty.
    pub(super) kept: (&'a mut [f32], &'a mut [f32]),
}

impl Normalise<'_> {
    pub(super) fn execute(self) {
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
            let mean = sum(row, row, |x, _| x) / columns as f32;
            let variance = sum(row, row, |x, _| (x - mean) * (x - mean)) / columns as f32;
            let scale = 1.0 / (variance + LAYER_NORM_EPSILON as f32).sqrt();
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
pub(super) struct NormaliseBackward<'a> {
    pub(super) gamma: &'a [f32],
    pub(super) normalised: &'a [f32],
    pub(super) scales: &'a [f32],
    /// Of `g` on entry.
    pub(super) gradient: &'a mut [f32],
    /// Sums over the rows: the gradients of gamma and of the bias.
    pub(super) gamma_gradient: &'a mut [f32],
    pub(super) bias_gradient: &'a mut [f32],
}

impl NormaliseBackward<'_> {
    pub(super) fn execute(self) {
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

#[inline(always)]
fn sum(left: &[f32], right: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
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
