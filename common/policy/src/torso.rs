//! The torso: `Linear, LayerNorm, activation, [Linear, activation]*` (Acme's `LayerNormMLP`).

use crate::linear::Linear;
use crate::math::{elu, tanh};
use crate::simd::multiply_add;
use crate::snapshot::Tensors;
use crate::{Activation, SnapshotError};

/// Added to the variance by the layer normalisation; the variance is the biased one (over `n`).
pub const LAYER_NORM_EPSILON: f64 = 1e-5;

/// Independent partial sums, so that a sum vectorises.
const LANES: usize = 16;

/// The torso with its weights and the outputs of its layers.
#[derive(Clone, Debug)]
pub(crate) struct Torso {
    activation: Activation,
    layers: Vec<Linear>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    sizes: Vec<usize>,
    outputs: Vec<Vec<f32>>,
}

impl Torso {
    pub(crate) fn new(
        activation: Activation,
        hidden_sizes: &[usize],
        tensors: &Tensors<'_>,
    ) -> Result<Self, SnapshotError> {
        let layers = (0..hidden_sizes.len())
            .map(|i| Ok(Linear::new(&[tensors.linear(&format!("torso.{i}"))?])))
            .collect::<Result<Vec<_>, SnapshotError>>()?;
        Ok(Self {
            activation,
            gamma: tensors.get("torso.norm.gamma")?.values.clone(),
            beta: tensors.get("torso.norm.beta")?.values.clone(),
            sizes: hidden_sizes.to_vec(),
            outputs: layers
                .iter()
                .map(|layer| vec![0.0; layer.padded_outputs()])
                .collect(),
            layers,
        })
    }

    /// Computes [`Self::features`] of an input.
    #[inline(always)]
    pub(crate) fn forward<const FMA: bool>(&mut self, input: &[f32]) {
        let mut done: &[f32] = input;
        let layers = self.layers.iter().zip(&mut self.outputs).zip(&self.sizes);
        for (i, ((layer, output), &size)) in layers.enumerate() {
            layer.forward::<FMA>(done, output);
            let output = &mut output[..size];
            if i == 0 {
                normalise::<FMA>(output, &self.gamma, &self.beta);
            }
            activate::<FMA>(self.activation, i == 0, output);
            done = output;
        }
    }

    /// Output of the last layer.
    pub(crate) fn features(&self) -> &[f32] {
        let last = self.sizes.len() - 1;
        &self.outputs[last][..self.sizes[last]]
    }
}

#[inline(always)]
fn activate<const FMA: bool>(activation: Activation, first: bool, values: &mut [f32]) {
    match (activation, first) {
        (Activation::LayerNormTanhElu, true) => {
            values
                .iter_mut()
                .for_each(|value| *value = tanh::<FMA>(*value));
        }
        (Activation::LayerNormTanhElu, false) => {
            values
                .iter_mut()
                .for_each(|value| *value = elu::<FMA>(*value));
        }
        (Activation::LayerNormRelu, _) => {
            values.iter_mut().for_each(|value| *value = value.max(0.0));
        }
    }
}

/// Layer normalisation (Ba, Kiros and Hinton 2016):
/// `gamma (x - mean) / sqrt(variance + epsilon) + beta`.
#[inline(always)]
fn normalise<const FMA: bool>(values: &mut [f32], gamma: &[f32], beta: &[f32]) {
    let n = values.len() as f32;
    let mean = sum(values, |x| x) / n;
    let variance = sum(values, |x| (x - mean) * (x - mean)) / n;
    let scale = 1.0 / (variance + LAYER_NORM_EPSILON as f32).sqrt();
    for ((value, gamma), beta) in values.iter_mut().zip(gamma).zip(beta) {
        *value = multiply_add::<FMA>((*value - mean) * scale, *gamma, *beta);
    }
}

#[inline(always)]
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for j in 0..LANES {
            sums[j] += f(chunk[j]);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|&x| f(x)).sum::<f32>()
}
