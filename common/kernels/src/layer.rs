//! One layer on plain slices, and its hand-derived backward pass: `y = f(x W + b)` or
//! `y = f(LayerNorm(x W + b))` ([`Layer`]), and `y = f(LayerNorm(x))` ([`Norm`]).
//!
//! Rows are worked on in blocks, from the matrix product to the activation, so that a block stays in
//! the cache and threads share the blocks. Blocks are of one size, sums over rows are taken block by block
//! and then in the blocks' order: results are the same bit for bit whatever the number of threads.
//!
//! `R` rows, `I` inputs, `O` outputs.

use rayon::prelude::*;

use crate::matrix::{Matrix, multiply};
use crate::rows::{Activate, ActivateBackward, Nonlinearity, Normalise, NormaliseBackward};

/// Rows of a block: 128 rows of 256 numbers are an eighth of a typical L2 cache, and two threads share a
/// batch of 256.
const BLOCK: usize = 128;

/// A layer's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// `[I, O]`.
    pub weight: &'a [f32],
    /// `[O]`.
    pub bias: &'a [f32],
    /// Gamma and beta of the layer normalisation, `[O]` each.
    pub norm: Option<[&'a [f32]; 2]>,
    /// What the layer ends in.
    pub nonlinearity: Nonlinearity,
}

/// What the backward pass wants of the forward pass besides inputs and outputs: of a layer
/// normalisation, its result before gamma and beta, `[R, O]`, and its scales, `[R]`. Else empty.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    normalised: Vec<f32>,
    scales: Vec<f32>,
}

/// The loss's gradients, each as long as its parameter.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// Where it was wanted.
    pub input: Option<Vec<f32>>,
    /// Of the weight, where it was wanted.
    pub weight: Option<Vec<f32>>,
    /// Of the bias.
    pub bias: Vec<f32>,
    /// Of gamma and beta.
    pub norm: Option<[Vec<f32>; 2]>,
}

/// Which of the gradients that cost a product are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Of the input.
    pub input: bool,
    /// Of the weight.
    pub weight: bool,
}

/// A layer normalisation on its own, as before a residual block's first product.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// `[O]`.
    pub gamma: &'a [f32],
    /// `[O]`.
    pub beta: &'a [f32],
    /// What follows it.
    pub nonlinearity: Nonlinearity,
}

impl Norm<'_> {
    /// Outputs `[R, O]` of inputs `[R, O]`, and what [`Self::backward`] takes.
    pub fn forward(&self, input: &[f32]) -> (Vec<f32>, Kept) {
        let columns = self.gamma.len();
        let mut outputs = input.to_vec();
        let mut kept = Kept {
            normalised: vec![0.0; outputs.len()],
            scales: vec![0.0; outputs.len() / columns],
        };
        let no_bias = vec![0.0; columns];
        Normalise {
            nonlinearity: self.nonlinearity,
            bias: &no_bias,
            gamma: self.gamma,
            beta: self.beta,
            outputs: &mut outputs,
            kept: (&mut kept.normalised, &mut kept.scales),
        }
        .execute();
        (outputs, kept)
    }

    /// The gradients of gamma and beta, given that of the outputs, which becomes that of the input.
    pub fn backward(&self, outputs: &[f32], kept: &Kept, gradient: &mut [f32]) -> [Vec<f32>; 2] {
        let columns = self.gamma.len();
        let [mut beta, mut gamma, mut unused] = std::array::from_fn(|_| vec![0.0; columns]);
        ActivateBackward {
            nonlinearity: self.nonlinearity,
            outputs,
            gradient,
            column_sums: &mut beta,
        }
        .execute();
        NormaliseBackward {
            gamma: self.gamma,
            normalised: &kept.normalised,
            scales: &kept.scales,
            gradient,
            gamma_gradient: &mut gamma,
            bias_gradient: &mut unused,
        }
        .execute();
        [gamma, beta]
    }
}

impl Layer<'_> {
    fn outputs(&self) -> usize {
        self.bias.len()
    }

    fn inputs(&self) -> usize {
        self.weight.len() / self.outputs()
    }

    /// Outputs `[R, O]` of inputs `[R, I]`, and if wanted what [`Self::backward`] takes.
    pub fn forward(&self, input: &[f32], keep: bool) -> (Vec<f32>, Kept) {
        let input = Matrix::new(input, self.inputs());
        let weight = Matrix::new(self.weight, self.outputs());
        let rows = input.row_count();
        let mut outputs = Box::new_uninit_slice(rows * self.outputs());
        let mut kept = Kept::default();
        if keep && self.norm.is_some() {
            kept.normalised = vec![0.0; outputs.len()];
            kept.scales = vec![0.0; rows];
        }

        let block = BLOCK;
        let size = block * self.outputs();
        let mut normalised = kept.normalised.chunks_mut(size);
        let mut scales = kept.scales.chunks_mut(block);
        let blocks: Vec<_> = outputs
            .chunks_mut(size)
            .enumerate()
            .map(|(i, outputs)| {
                let kept = (
                    normalised.next().unwrap_or_default(),
                    scales.next().unwrap_or_default(),
                );
                (i * block, outputs, kept)
            })
            .collect();
        blocks.into_par_iter().for_each(|(first, outputs, kept)| {
            let count = outputs.len() / self.outputs();
            let outputs = multiply(input.rows(first, count), weight, outputs);
            self.activate(outputs, kept);
        });
        // SAFETY: the blocks cover it, and each was filled by its product.
        (unsafe { outputs.assume_init() }.into_vec(), kept)
    }

    /// Bias, normalisation and activation of a block of products.
    fn activate(&self, values: &mut [f32], kept: (&mut [f32], &mut [f32])) {
        let (nonlinearity, bias) = (self.nonlinearity, self.bias);
        match self.norm {
            None => Activate {
                nonlinearity,
                bias,
                values,
            }
            .execute(),
            Some([gamma, beta]) => Normalise {
                nonlinearity,
                bias,
                gamma,
                beta,
                outputs: values,
                kept,
            }
            .execute(),
        }
    }

    /// The gradients, given that of the outputs, which is overwritten.
    pub fn backward(
        &self,
        input: &[f32],
        outputs: &[f32],
        kept: &Kept,
        gradient: &mut [f32],
        wanted: Wanted,
    ) -> Gradients {
        let wants_input = wanted.input;
        let columns = self.outputs();
        let (rows, block) = (outputs.len() / columns, BLOCK);
        let mut input_gradient = Box::new_uninit_slice(if wants_input { input.len() } else { 0 });
        let mut sums = vec![0.0; 3 * columns * rows.div_ceil(block)];
        let mut input_blocks = input_gradient.chunks_mut(block * self.inputs());
        let blocks: Vec<_> = gradient
            .chunks_mut(block * columns)
            .zip(sums.chunks_mut(3 * columns))
            .enumerate()
            .map(|(i, (gradient, sums))| {
                let input = input_blocks.next().unwrap_or_default();
                (i * block, gradient, sums, input)
            })
            .collect();
        let weight = Matrix::new(self.weight, columns).transposed();
        blocks
            .into_par_iter()
            .for_each(|(first, gradient, sums, input)| {
                self.activate_backward(first, outputs, kept, gradient, sums);
                if wants_input {
                    multiply(Matrix::new(gradient, columns), weight, input);
                }
            });

        let weight = wanted
            .weight
            .then(|| weight_gradient(Matrix::new(input, self.inputs()), gradient, columns));
        let [activation, gamma, bias] = sum_blocks(&sums, columns);
        let (bias, norm) = match self.norm {
            None => (activation, None),
            Some(_) => (bias, Some([gamma, activation])),
        };
        Gradients {
            // SAFETY: if it is wanted, the blocks cover it, and each was filled by its product.
            input: wants_input.then(|| unsafe { input_gradient.assume_init() }.into_vec()),
            weight,
            bias,
            norm,
        }
    }

    /// Turns a block's gradient, whose first row is row `first` of `outputs`, into that of the product
    /// `x W`; adds to the `sums` over rows of the gradients of the activation's input, of gamma and
    /// of the bias.
    fn activate_backward(
        &self,
        first: usize,
        outputs: &[f32],
        kept: &Kept,
        gradient: &mut [f32],
        sums: &mut [f32],
    ) {
        let columns = self.outputs();
        let count = gradient.len() / columns;
        let elements = first * columns..(first + count) * columns;
        let (activation, norm) = sums.split_at_mut(columns);
        ActivateBackward {
            nonlinearity: self.nonlinearity,
            outputs: &outputs[elements.clone()],
            gradient,
            column_sums: activation,
        }
        .execute();
        if let Some([gamma, _]) = self.norm {
            let (gamma_gradient, bias_gradient) = norm.split_at_mut(columns);
            NormaliseBackward {
                gamma,
                normalised: &kept.normalised[elements],
                scales: &kept.scales[first..first + count],
                gradient,
                gamma_gradient,
                bias_gradient,
            }
            .execute();
        }
    }
}

/// `input^T gradient`, `[I, O]`.
fn weight_gradient(input: Matrix<'_>, gradient: &[f32], columns: usize) -> Vec<f32> {
    let (transposed, gradient) = (input.transposed(), Matrix::new(gradient, columns));
    let inputs = transposed.row_count();
    let mut weight = Box::new_uninit_slice(inputs * columns);
    let shares = weight.par_chunks_mut(BLOCK * columns).enumerate();
    shares.for_each(|(i, output)| {
        let rows = transposed.rows(i * BLOCK, output.len() / columns);
        multiply(rows, gradient, output);
    });
    // SAFETY: the shares cover it, and each was filled by its product.
    unsafe { weight.assume_init() }.into_vec()
}

/// Sums over blocks of three vectors each.
fn sum_blocks(sums: &[f32], columns: usize) -> [Vec<f32>; 3] {
    std::array::from_fn(|part| {
        let mut total = vec![0.0; columns];
        for block in sums.chunks_exact(3 * columns) {
            let block = &block[part * columns..(part + 1) * columns];
            total.iter_mut().zip(block).for_each(|(sum, x)| *sum += x);
        }
        total
    })
}
