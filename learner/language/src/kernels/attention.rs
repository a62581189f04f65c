//! Causal self-attention with rotary positions (Su et al. 2021) and grouped key and value heads (Ainslie et al.
//! 2023), of whole sequences. Scores are never kept: the backward pass makes them again from the queries, the
//! keys and each row's `ln sum exp`, as FlashAttention does (Dao et al. 2022).
//!
//! `B` sequences of `T` positions, `H` query heads, `G` key and value heads of `E` numbers. Queries are
//! `[B T, H E]`, keys and values `[B T, G E]`.

use pmpo_kernels::math::exp;
use pmpo_kernels::matrix::Matrix;
use pmpo_kernels::simd::{Kernel, dispatch_widest};
use rayon::prelude::*;

use super::rms_norm::dot;
use super::{add, product};

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    /// `T`.
    pub(crate) length: usize,
    /// `H`.
    pub(crate) heads: usize,
    /// `G`, which divides `H`.
    pub(crate) kv_heads: usize,
    /// `E`.
    pub(crate) head_size: usize,
    /// What scores are multiplied by.
    pub(crate) scale: f32,
    /// Positions that one sees, itself included; all before it without.
    pub(crate) window: Option<usize>,
}

/// The cosines and sines of each position's angles, `[T, E / 2]` each. Number `i` of a head turns with number
/// `i + E / 2`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Angles<'a> {
    pub(crate) cosines: &'a [f32],
    pub(crate) sines: &'a [f32],
}

/// Queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) queries: &'a [f32],
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
}

impl Shape {
    fn of_sequence<'a>(&self, inputs: Inputs<'a>, sequence: usize) -> Inputs<'a> {
        let [queries, keys] =
            [self.heads, self.kv_heads].map(|heads| heads * self.head_size * self.length);
        Inputs {
            queries: &inputs.queries[sequence * queries..][..queries],
            keys: &inputs.keys[sequence * keys..][..keys],
            values: &inputs.values[sequence * keys..][..keys],
        }
    }

    /// Outputs `[B T, H E]`, and `ln sum exp` of each row of scores, `[B, H, T]`.
    pub(crate) fn forward(&self, inputs: Inputs<'_>, angles: Angles<'_>) -> (Vec<f32>, Vec<f32>) {
        let mut output = vec![0.0; inputs.queries.len()];
        let mut log_sums = vec![0.0; inputs.queries.len() / self.head_size];
        let parts = output.par_chunks_mut(self.length * self.heads * self.head_size);
        parts
            .zip(log_sums.par_chunks_mut(self.heads * self.length))
            .enumerate()
            .for_each(|(sequence, (output, log_sums))| {
                let inputs = self.of_sequence(inputs, sequence);
                for group in 0..self.kv_heads {
                    let keys = self.turned(inputs.keys, self.kv_heads, group, angles);
                    let values = self.head(inputs.values, self.kv_heads, group);
                    for head in self.heads_of(group) {
                        let queries = self.turned(inputs.queries, self.heads, head, angles);
                        let mut scores = self.scores(&queries, &keys);
                        let log_sums = &mut log_sums[head * self.length..][..self.length];
                        dispatch_widest(Softmax {
                            shape: *self,
                            scores: &mut scores,
                            log_sums,
                        });
                        let result = product(
                            Matrix::new(&scores, self.length),
                            Matrix::new(&values, self.head_size),
                            self.head_size,
                        );
                        self.put(output, self.heads, head, &result);
                    }
                }
            });
        (output, log_sums)
    }

    /// The gradients of queries, keys and values, from the output `[B T, H E]`, its gradient, and the rows'
    /// `ln sum exp`.
    pub(crate) fn backward(
        &self,
        inputs: Inputs<'_>,
        angles: Angles<'_>,
        [output, log_sums, gradient]: [&[f32]; 3],
    ) -> [Vec<f32>; 3] {
        let mut queries = vec![0.0; inputs.queries.len()];
        let mut keys = vec![0.0; inputs.keys.len()];
        let mut values = vec![0.0; inputs.values.len()];
        let wide = self.length * self.heads * self.head_size;
        let narrow = self.length * self.kv_heads * self.head_size;
        queries
            .par_chunks_mut(wide)
            .zip(keys.par_chunks_mut(narrow))
            .zip(values.par_chunks_mut(narrow))
            .enumerate()
            .for_each(|(sequence, ((queries, keys), values))| {
                let rows = self.heads * self.length;
                let of_output = [output, gradient].map(|all| &all[sequence * wide..][..wide]);
                let sequence = OneBackward {
                    shape: self,
                    inputs: self.of_sequence(inputs, sequence),
                    angles,
                    output: of_output[0],
                    gradient: of_output[1],
                    log_sums: &log_sums[sequence * rows..][..rows],
                };
                sequence.run([queries, keys, values]);
            });
        [queries, keys, values]
    }

    fn heads_of(&self, group: usize) -> std::ops::Range<usize> {
        let each = self.heads / self.kv_heads;
        group * each..(group + 1) * each
    }

    fn scores(&self, queries: &[f32], keys: &[f32]) -> Vec<f32> {
        let [queries, keys] = [queries, keys].map(|rows| Matrix::new(rows, self.head_size));
        product(queries, keys.transposed(), self.length)
    }

    /// First position that `position` sees.
    #[inline(always)]
    fn first(&self, position: usize) -> usize {
        self.window
            .map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// One head's rows, `[T, E]`, of those of all, `[T, heads E]`.
    fn head(&self, rows: &[f32], heads: usize, head: usize) -> Vec<f32> {
        let rows = rows.chunks_exact(heads * self.head_size);
        let of_head = rows.flat_map(|row| &row[head * self.head_size..][..self.head_size]);
        of_head.copied().collect()
    }

    fn put(&self, rows: &mut [f32], heads: usize, head: usize, of_head: &[f32]) {
        let rows = rows.chunks_exact_mut(heads * self.head_size);
        for (row, from) in rows.zip(of_head.chunks_exact(self.head_size)) {
            row[head * self.head_size..][..self.head_size].copy_from_slice(from);
        }
    }

    /// One head's rows, each turned by its position's angles.
    fn turned(&self, rows: &[f32], heads: usize, head: usize, angles: Angles<'_>) -> Vec<f32> {
        let mut rows = self.head(rows, heads, head);
        turn(&mut rows, self.head_size, angles, 1.0);
        rows
    }
}

/// Turns each row by its position's angles; backwards where `direction` is -1.
fn turn(rows: &mut [f32], head_size: usize, angles: Angles<'_>, direction: f32) {
    let half = head_size / 2;
    let angles = angles
        .cosines
        .chunks_exact(half)
        .zip(angles.sines.chunks_exact(half));
    for (row, (cosines, sines)) in rows.chunks_exact_mut(head_size).zip(angles) {
        let (first, second) = row.split_at_mut(half);
        for ((a, b), (cosine, sine)) in first.iter_mut().zip(second).zip(cosines.iter().zip(sines))
        {
            let sine = direction * sine;
            (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
        }
    }
}

/// Turns scores `[T, T]` into probabilities of the positions that each one sees.
struct Softmax<'a> {
    shape: Shape,
    scores: &'a mut [f32],
    log_sums: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { shape, scores, .. } = self;
        let rows = scores.chunks_exact_mut(shape.length).zip(self.log_sums);
        for (position, (row, log_sum)) in rows.enumerate() {
            let first = shape.first(position);
            row[..first].fill(0.0);
            row[position + 1..].fill(0.0);
            let seen = &mut row[first..=position];
            let largest = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max) * shape.scale;
            let mut sum = 0.0;
            for x in seen.iter_mut() {
                *x = exp::<FMA>(*x * shape.scale - largest);
                sum += *x;
            }
            seen.iter_mut().for_each(|x| *x /= sum);
            *log_sum = largest + sum.ln();
        }
    }
}

/// Turns scores into probabilities again, and the gradients of probabilities into those of scores:
/// `dS = scale P (dP - sum(dO O))`.
struct SoftmaxBackward<'a> {
    shape: Shape,
    scores: &'a mut [f32],
    log_sums: &'a [f32],
    /// Of each row, `sum(dO O)`.
    along: &'a [f32],
    gradients: &'a mut [f32],
}

impl Kernel for SoftmaxBackward<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { shape, .. } = self;
        let rows = self.scores.chunks_exact_mut(shape.length);
        let rows = rows.zip(self.gradients.chunks_exact_mut(shape.length));
        let numbers = self.log_sums.iter().zip(self.along);
        for (position, ((row, gradients), (log_sum, along))) in rows.zip(numbers).enumerate() {
            let first = shape.first(position);
            for row in [&mut *row, &mut *gradients] {
                row[..first].fill(0.0);
                row[position + 1..].fill(0.0);
            }
            let seen = row[first..=position].iter_mut();
            for (x, dp) in seen.zip(&mut gradients[first..=position]) {
                *x = exp::<FMA>(*x * shape.scale - log_sum);
                *dp = shape.scale * *x * (*dp - along);
            }
        }
    }
}

/// The backward pass of one sequence.
struct OneBackward<'a> {
    shape: &'a Shape,
    inputs: Inputs<'a>,
    angles: Angles<'a>,
    output: &'a [f32],
    gradient: &'a [f32],
    log_sums: &'a [f32],
}

impl OneBackward<'_> {
    fn run(&self, [queries, keys, values]: [&mut [f32]; 3]) {
        let shape = self.shape;
        for group in 0..shape.kv_heads {
            let turned = shape.turned(self.inputs.keys, shape.kv_heads, group, self.angles);
            let of_values = shape.head(self.inputs.values, shape.kv_heads, group);
            let mut key_gradient = vec![0.0; turned.len()];
            let mut value_gradient = vec![0.0; turned.len()];
            for head in shape.heads_of(group) {
                let [mut query, key, value] = self.head(head, &turned, &of_values);
                add(&mut key_gradient, &key);
                add(&mut value_gradient, &value);
                turn(&mut query, shape.head_size, self.angles, -1.0);
                shape.put(queries, shape.heads, head, &query);
            }
            turn(&mut key_gradient, shape.head_size, self.angles, -1.0);
            shape.put(keys, shape.kv_heads, group, &key_gradient);
            shape.put(values, shape.kv_heads, group, &value_gradient);
        }
    }

    /// The gradients of one head's queries and of its keys, as they are turned, and of its values.
    fn head(&self, head: usize, keys: &[f32], values: &[f32]) -> [Vec<f32>; 3] {
        let shape = self.shape;
        let [size, length] = [shape.head_size, shape.length];
        let queries = shape.turned(self.inputs.queries, shape.heads, head, self.angles);
        let output = shape.head(self.output, shape.heads, head);
        let gradient = shape.head(self.gradient, shape.heads, head);
        let rows = output.chunks_exact(size).zip(gradient.chunks_exact(size));
        let along: Vec<f32> = rows
            .map(|(output, gradient)| dot(output, gradient))
            .collect();
        let matrix = |values| Matrix::new(values, size);
        let mut scores = shape.scores(&queries, keys);
        let mut gradients = product(matrix(&gradient), matrix(values).transposed(), length);
        dispatch_widest(SoftmaxBackward {
            shape: *shape,
            scores: &mut scores,
            log_sums: &self.log_sums[head * length..][..length],
            along: &along,
            gradients: &mut gradients,
        });
        let [probabilities, gradients] =
            [&scores, &gradients].map(|rows| Matrix::new(rows, length));
        [
            product(gradients, matrix(keys), size),
            product(gradients.transposed(), matrix(&queries), size),
            product(probabilities.transposed(), matrix(&gradient), size),
        ]
    }
}
