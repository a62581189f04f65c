//! Softmax and the cross-entropy of its logits, row by row.

use crate::math::exp;
use crate::rows::sum;
use crate::simd::{Kernel, dispatch_widest};

/// Turns logits `[R, K]` into probabilities in place; keeps each row's `ln sum exp`, `[R]`, if there is a
/// place.
pub fn softmax(values: &mut [f32], columns: usize, log_sums: &mut [f32]) {
    dispatch_widest(Softmax {
        values,
        columns,
        log_sums,
    });
}

struct Softmax<'a> {
    values: &'a mut [f32],
    columns: usize,
    log_sums: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (i, row) in self.values.chunks_exact_mut(self.columns).enumerate() {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|x| *x = exp::<FMA>(*x - largest));
            let sum = sum(row, row, |x, _| x);
            if let Some(log_sum) = self.log_sums.get_mut(i) {
                *log_sum = largest + sum.ln();
            }
            let scale = 1.0 / sum;
            row.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

/// `-sum_k t_k ln p_k` of each row, `[R]`, from the logits, the rows' `ln sum exp` and targets `t` that add
/// up to 1: `ln sum exp - sum_k t_k x_k`.
pub fn cross_entropy(logits: &[f32], log_sums: &[f32], targets: &[f32], losses: &mut [f32]) {
    dispatch_widest(CrossEntropy {
        logits,
        log_sums,
        targets,
        losses,
    });
}

struct CrossEntropy<'a> {
    logits: &'a [f32],
    log_sums: &'a [f32],
    targets: &'a [f32],
    losses: &'a mut [f32],
}

impl Kernel for CrossEntropy<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let columns = self.logits.len() / self.log_sums.len().max(1);
        let rows = self.logits.chunks_exact(columns.max(1));
        let rows = rows.zip(self.targets.chunks_exact(columns.max(1)));
        for ((loss, log_sum), (logits, targets)) in
            self.losses.iter_mut().zip(self.log_sums).zip(rows)
        {
            *loss = log_sum - sum(logits, targets, |x, t| x * t);
        }
    }
}

/// The gradient of the losses' weighted sum for the logits, in place of their probabilities `[R, K]`:
/// `g (p - t)`, where `g` `[R]` are the losses' own gradients.
pub fn cross_entropy_backward(probabilities: &mut [f32], targets: &[f32], gradients: &[f32]) {
    let columns = probabilities.len() / gradients.len().max(1);
    let rows = probabilities.chunks_exact_mut(columns.max(1));
    let rows = rows.zip(targets.chunks_exact(columns.max(1)));
    for ((row, targets), gradient) in rows.zip(gradients) {
        for (p, t) in row.iter_mut().zip(targets) {
            *p = gradient * (*p - t);
        }
    }
}

/// The mean `sum_k p_k z_k` of each row of probabilities `[R, K]` over the support `z` `[K]`: `[R]`.
pub fn expectation(probabilities: &[f32], support: &[f32], means: &mut [f32]) {
    for (mean, row) in means
        .iter_mut()
        .zip(probabilities.chunks_exact(support.len()))
    {
        *mean = sum(row, support, |p, z| p * z);
    }
}

/// The gradient of the means' weighted sum for the logits, in place of their probabilities `[R, K]`:
/// `g p (z - mean)`.
pub fn expectation_backward(
    probabilities: &mut [f32],
    support: &[f32],
    means: &[f32],
    gradients: &[f32],
) {
    let rows = probabilities.chunks_exact_mut(support.len());
    for ((row, mean), gradient) in rows.zip(means).zip(gradients) {
        for (p, z) in row.iter_mut().zip(support) {
            *p *= gradient * (z - mean);
        }
    }
}
