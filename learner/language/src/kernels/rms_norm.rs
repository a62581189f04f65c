//! Root-mean-square normalisation (Zhang and Sennrich 2019): `y = g x / sqrt(mean(x^2) + epsilon)`, row by
//! row. `R` rows, `D` columns.

use pmpo_kernels::simd::{Kernel, dispatch};
use rayon::prelude::*;

use super::add;

/// Rows of a task.
const BLOCK: usize = 64;

/// Outputs `[R, D]` of inputs `[R, D]` and gains `[D]`, and each row's `1 / sqrt(mean(x^2) + epsilon)`, `[R]`.
pub(crate) fn forward(input: &[f32], gain: &[f32], epsilon: f32) -> (Vec<f32>, Vec<f32>) {
    let columns = gain.len();
    let mut output = vec![0.0; input.len()];
    let mut scales = vec![0.0; input.len() / columns];
    let parts = output.par_chunks_mut(BLOCK * columns);
    parts
        .zip(input.par_chunks(BLOCK * columns))
        .zip(scales.par_chunks_mut(BLOCK))
        .for_each(|((output, input), scales)| {
            dispatch(Forward {
                input,
                gain,
                epsilon,
                output,
                scales,
            });
        });
    (output, scales)
}

struct Forward<'a> {
    input: &'a [f32],
    gain: &'a [f32],
    epsilon: f32,
    output: &'a mut [f32],
    scales: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let columns = self.gain.len();
        let rows = self.input.chunks_exact(columns);
        let rows = rows.zip(self.output.chunks_exact_mut(columns));
        for ((x, y), scale) in rows.zip(self.scales) {
            let mean = dot(x, x) / columns as f32;
            *scale = 1.0 / (mean + self.epsilon).sqrt();
            for ((y, x), gain) in y.iter_mut().zip(x).zip(self.gain) {
                *y = x * *scale * gain;
            }
        }
    }
}

/// The gradients of the input `[R, D]` and of the gains `[D]`, from the output's `[R, D]`.
pub(crate) fn backward(
    input: &[f32],
    gain: &[f32],
    scales: &[f32],
    gradient: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let columns = gain.len();
    let mut input_gradient = vec![0.0; input.len()];
    let parts: Vec<Vec<f32>> = input_gradient
        .par_chunks_mut(BLOCK * columns)
        .zip(input.par_chunks(BLOCK * columns))
        .zip(gradient.par_chunks(BLOCK * columns))
        .zip(scales.par_chunks(BLOCK))
        .map(|(((input_gradient, input), gradient), scales)| {
            let mut gains = vec![0.0; columns];
            dispatch(Backward {
                input,
                gain,
                scales,
                gradient,
                input_gradient,
                gains: &mut gains,
            });
            gains
        })
        .collect();
    let mut gains = vec![0.0; columns];
    parts.iter().for_each(|part| add(&mut gains, part));
    (input_gradient, gains)
}

struct Backward<'a> {
    input: &'a [f32],
    gain: &'a [f32],
    scales: &'a [f32],
    gradient: &'a [f32],
    input_gradient: &'a mut [f32],
    gains: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    /// With `n = x s`: `dx = s (g dy - n mean(n g dy))`.
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let columns = self.gain.len();
        let rows = self.input.chunks_exact(columns);
        let rows = rows.zip(self.gradient.chunks_exact(columns));
        let rows = rows.zip(self.input_gradient.chunks_exact_mut(columns));
        for (((x, dy), dx), &scale) in rows.zip(self.scales) {
            for ((dx, dy), gain) in dx.iter_mut().zip(dy).zip(self.gain) {
                *dx = dy * gain;
            }
            let along = dot(x, dx) * scale * scale * scale / columns as f32;
            for ((dx, x), (gain, dy)) in dx.iter_mut().zip(x).zip(self.gains.iter_mut().zip(dy)) {
                *gain += dy * x * scale;
                *dx = *dx * scale - x * along;
            }
        }
    }
}

/// The sum of products, in eight lanes.
#[inline(always)]
pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (left, left_rest) = left.as_chunks::<8>();
    let (right, right_rest) = right.as_chunks::<8>();
    for (a, b) in left.iter().zip(right) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest = left_rest.iter().zip(right_rest).map(|(a, b)| a * b);
    lanes.iter().sum::<f32>() + rest.sum::<f32>()
}
