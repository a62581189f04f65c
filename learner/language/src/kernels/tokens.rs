//! The loss of a language model's tokens, from the last hidden states to the gradients in one pass that never
//! keeps `[tokens, vocabulary]`.
//!
//! With `x = h W^T` the logits of row `r`, `p` their softmax, `q` the reference's and `y` the token that
//! followed:
//!
//!   loss = sum_r  -w_r ln p_r(y_r) + k_r KL(q_r || p_r)
//!   d loss / d x_r = w_r (p_r - onehot(y_r)) + k_r (p_r - q_r)
//!
//! which is the paper's equation 10 with its token-level KL (equation 20) where `w` is `alpha` over the number of
//! accepted completions, or `-(1 - alpha)` over that of rejected ones, and `k` is `beta` over the number of all.
//! `R` rows, `D` hidden numbers, `V` tokens.

use pmpo_kernels::math::exp;
use pmpo_kernels::matrix::Matrix;
use pmpo_kernels::simd::{Kernel, dispatch_widest};
use rayon::prelude::*;

use super::{add, product};

/// Rows worked on at a time.
const BLOCK: usize = 128;
/// Tokens of a task.
const COLUMNS: usize = 1 << 11;

/// Hidden states `[R, D]` and the matrix `[V, D]` that makes logits of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) hidden: &'a [f32],
    pub(crate) matrix: &'a [f32],
    /// `D`.
    pub(crate) size: usize,
}

/// What is asked of each row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// The token that followed, `[R]`.
    pub(crate) targets: &'a [u32],
    /// `w`, `[R]`.
    pub(crate) weights: &'a [f32],
    /// `k`, `[R]`.
    pub(crate) kl_weights: &'a [f32],
}

/// Of each row, `[R]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// `ln p(y)`.
    pub(crate) log_probabilities: Vec<f32>,
    /// `ln q(y)`; 0 without a reference.
    pub(crate) reference_log_probabilities: Vec<f32>,
    /// `KL(q || p)`; 0 without a reference.
    pub(crate) kl: Vec<f32>,
    /// `-sum p ln p`.
    pub(crate) entropies: Vec<f32>,
}

/// The loss's gradients of the hidden states and of the matrix.
#[derive(Clone, Debug)]
pub(crate) struct Gradients {
    pub(crate) hidden: Vec<f32>,
    pub(crate) matrix: Vec<f32>,
}

/// What each row is, without gradients.
pub(crate) fn measure(policy: Head<'_>, reference: Option<Head<'_>>, targets: &[u32]) -> Measured {
    let nothing = vec![0.0; targets.len()];
    let rows = Rows {
        targets,
        weights: &nothing,
        kl_weights: &nothing,
    };
    run(policy, reference, rows, None)
}

/// What each row is, and the loss's gradients.
pub(crate) fn gradients(
    policy: Head<'_>,
    reference: Option<Head<'_>>,
    rows: Rows<'_>,
) -> (Measured, Gradients) {
    let mut gradients = Gradients {
        hidden: Vec::with_capacity(policy.hidden.len()),
        matrix: vec![0.0; policy.matrix.len()],
    };
    let measured = run(policy, reference, rows, Some(&mut gradients));
    (measured, gradients)
}

fn run(
    policy: Head<'_>,
    reference: Option<Head<'_>>,
    rows: Rows<'_>,
    mut gradients: Option<&mut Gradients>,
) -> Measured {
    let mut measured = Measured::default();
    for first in (0..rows.targets.len()).step_by(BLOCK) {
        let range = first..(first + BLOCK).min(rows.targets.len());
        let mut block = Block::new(policy, range.clone());
        let mut other = reference.map(|reference| Block::new(reference, range.clone()));
        block.measure(other.as_ref(), &rows.targets[range.clone()], &mut measured);
        if let Some(gradients) = gradients.as_deref_mut() {
            let rows = Rows {
                targets: &rows.targets[range.clone()],
                weights: &rows.weights[range.clone()],
                kl_weights: &rows.kl_weights[range],
            };
            block.backward(other.as_mut(), rows, gradients);
        }
    }
    measured
}

/// The logits of a block of rows, as parts of so many tokens each, `[rows, tokens]`.
struct Block<'a> {
    hidden: &'a [f32],
    matrix: &'a [f32],
    size: usize,
    parts: Vec<Vec<f32>>,
    /// `ln sum exp` of each row.
    log_sums: Vec<f32>,
}

impl<'a> Block<'a> {
    fn new(head: Head<'a>, rows: std::ops::Range<usize>) -> Self {
        let hidden = &head.hidden[rows.start * head.size..rows.end * head.size];
        let left = Matrix::new(hidden, head.size);
        let parts: Vec<(Vec<f32>, Vec<[f32; 2]>)> = head
            .matrix
            .par_chunks(COLUMNS * head.size)
            .map(|matrix| {
                let columns = matrix.len() / head.size;
                let right = Matrix::new(matrix, head.size).transposed();
                let logits = product(left, right, columns);
                let mut sums = vec![[0.0; 2]; rows.len()];
                dispatch_widest(Sums {
                    logits: &logits,
                    sums: &mut sums,
                });
                (logits, sums)
            })
            .collect();
        let log_sums = (0..rows.len()).map(|row| {
            let largest = parts.iter().map(|(_, sums)| sums[row][0]);
            let largest = largest.fold(f32::NEG_INFINITY, f32::max);
            let sums = parts.iter().map(|(_, sums)| sums[row]);
            let sum: f32 = sums.map(|[most, sum]| sum * (most - largest).exp()).sum();
            largest + sum.ln()
        });
        Self {
            hidden,
            matrix: head.matrix,
            size: head.size,
            log_sums: log_sums.collect(),
            parts: parts.into_iter().map(|(logits, _)| logits).collect(),
        }
    }

    fn rows(&self) -> usize {
        self.log_sums.len()
    }

    /// `ln p(token)` of a row.
    fn log_probability(&self, row: usize, token: u32) -> f32 {
        let part = &self.parts[token as usize / COLUMNS];
        let columns = part.len() / self.rows();
        part[row * columns + token as usize % COLUMNS] - self.log_sums[row]
    }

    fn measure(&self, reference: Option<&Self>, targets: &[u32], measured: &mut Measured) {
        let parts: Vec<Vec<[f32; 2]>> = (0..self.parts.len())
            .into_par_iter()
            .map(|part| {
                let mut sums = vec![[0.0; 2]; self.rows()];
                dispatch_widest(Expectations {
                    policy: (&self.parts[part], &self.log_sums),
                    reference: reference.map(|other| (&other.parts[part][..], &other.log_sums[..])),
                    sums: &mut sums,
                });
                sums
            })
            .collect();
        for (row, &target) in targets.iter().enumerate() {
            let total = |i: usize| parts.iter().map(|sums| sums[row][i]).sum::<f32>();
            let of_reference = reference.map(|other| other.log_probability(row, target));
            measured
                .log_probabilities
                .push(self.log_probability(row, target));
            measured
                .reference_log_probabilities
                .push(of_reference.unwrap_or(0.0));
            // Rounding must not make it negative.
            measured.kl.push(total(0).max(0.0));
            measured.entropies.push(total(1));
        }
    }

    /// Adds the gradients of these rows; the logits are gone then.
    fn backward(&mut self, reference: Option<&mut Self>, rows: Rows<'_>, to: &mut Gradients) {
        let (hidden, size, log_sums) = (self.hidden, self.size, &self.log_sums);
        let nothing = Vec::new();
        let (others, other_sums) = match reference {
            Some(other) => (&other.parts, &other.log_sums[..]),
            None => (&nothing, &[][..]),
        };
        let parts: Vec<Vec<f32>> = self
            .parts
            .par_iter_mut()
            .zip(to.matrix.par_chunks_mut(COLUMNS * size))
            .zip(self.matrix.par_chunks(COLUMNS * size))
            .enumerate()
            .map(|(part, ((logits, gradient), matrix))| {
                dispatch_widest(Slopes {
                    policy: (logits, log_sums),
                    reference: others.get(part).map(|other| (&other[..], other_sums)),
                    rows,
                    first_token: part * COLUMNS,
                });
                let slopes = Matrix::new(logits, matrix.len() / size);
                add(
                    gradient,
                    &product(slopes.transposed(), Matrix::new(hidden, size), size),
                );
                product(slopes, Matrix::new(matrix, size), size)
            })
            .collect();
        let mut total = vec![0.0; hidden.len()];
        parts.iter().for_each(|part| add(&mut total, part));
        to.hidden.extend(total);
    }
}

/// Of each row of logits the largest, and the sum of `e^(x - largest)`.
struct Sums<'a> {
    logits: &'a [f32],
    sums: &'a mut [[f32; 2]],
}

impl Kernel for Sums<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let columns = self.logits.len() / self.sums.len().max(1);
        for (row, to) in self.logits.chunks_exact(columns).zip(self.sums) {
            let largest = fold(row, f32::NEG_INFINITY, f32::max, |x| x);
            let sum = fold(row, 0.0, |a, b| a + b, |x| exp::<FMA>(x - largest));
            *to = [largest, sum];
        }
    }
}

/// Logits of a part, and each row's `ln sum exp` over all parts.
type Part<'a> = (&'a [f32], &'a [f32]);

/// Of each row this part's share of `KL(q || p)` and of `-sum p ln p`.
struct Expectations<'a> {
    policy: Part<'a>,
    reference: Option<Part<'a>>,
    sums: &'a mut [[f32; 2]],
}

impl Kernel for Expectations<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let columns = self.policy.0.len() / self.sums.len().max(1);
        let rows = self.policy.0.chunks_exact(columns).zip(self.policy.1);
        for (i, ((row, log_sum), to)) in rows.zip(self.sums).enumerate() {
            let entropy = |x: f32| exp::<FMA>(x - log_sum) * (log_sum - x);
            to[1] = fold(row, 0.0, |a, b| a + b, entropy);
            if let Some((others, other_sums)) = self.reference {
                let (other, other_sum) = (&others[i * columns..][..columns], other_sums[i]);
                let apart = log_sum - other_sum;
                let mut lanes = [0.0_f32; LANES];
                let (x, x_rest) = row.as_chunks::<LANES>();
                let (z, z_rest) = other.as_chunks::<LANES>();
                let term = |x: f32, z: f32| exp::<FMA>(z - other_sum) * (z - x + apart);
                for (x, z) in x.iter().zip(z) {
                    for ((lane, x), z) in lanes.iter_mut().zip(x).zip(z) {
                        *lane += term(*x, *z);
                    }
                }
                let rest = x_rest.iter().zip(z_rest).map(|(x, z)| term(*x, *z));
                to[0] = lanes.iter().sum::<f32>() + rest.sum::<f32>();
            }
        }
    }
}

/// Puts `d loss / d x` in the logits' place.
struct Slopes<'a> {
    policy: (&'a mut [f32], &'a [f32]),
    reference: Option<Part<'a>>,
    rows: Rows<'a>,
    first_token: usize,
}

impl Kernel for Slopes<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (logits, log_sums) = self.policy;
        let columns = logits.len() / log_sums.len().max(1);
        let numbers = log_sums.iter().zip(self.rows.targets);
        let numbers = numbers.zip(self.rows.weights.iter().zip(self.rows.kl_weights));
        let rows = logits.chunks_exact_mut(columns).zip(numbers);
        for (i, (row, ((log_sum, &target), (&weight, &kl_weight)))) in rows.enumerate() {
            let both = weight + kl_weight;
            match self.reference {
                Some((others, other_sums)) => {
                    let other_sum = other_sums[i];
                    for (x, z) in row.iter_mut().zip(&others[i * columns..][..columns]) {
                        let q = exp::<FMA>(z - other_sum);
                        *x = both * exp::<FMA>(*x - log_sum) - kl_weight * q;
                    }
                }
                None => row
                    .iter_mut()
                    .for_each(|x| *x = weight * exp::<FMA>(*x - log_sum)),
            }
            let target = (target as usize).wrapping_sub(self.first_token);
            if let Some(x) = row.get_mut(target) {
                *x -= weight;
            }
        }
    }
}

const LANES: usize = 16;

/// Folds the terms of a row in lanes, then the lanes.
#[inline(always)]
fn fold(row: &[f32], start: f32, join: impl Fn(f32, f32) -> f32, term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = join(*lane, term(*x));
        }
    }
    let rest = rest.iter().map(|x| term(*x)).fold(start, &join);
    lanes.into_iter().fold(rest, join)
}
