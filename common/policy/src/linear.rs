//! A linear layer: `y = x W + b`.

use std::sync::Arc;

use pmpo_kernels::simd::multiply_add;

use crate::NamedTensor;

/// Columns computed at once. Two sums for each fit the registers of AVX2, so that a panel streams by
/// without stores; 32 and 64 columns measured twice and one and a half times as slow.
const PANEL: usize = 16;

/// Weights in panels of [`PANEL`] columns, `[panels, inputs, PANEL]`, the last filled with zeros: read
/// from the first byte to the last, once a call. Clones, one for each thread that acts, share them.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    inputs: usize,
    weights: Arc<Vec<f32>>,
    bias: Arc<Vec<f32>>,
}

impl Linear {
    /// Places matrices `[inputs, outputs_k]` side by side; each comes with its bias.
    pub(crate) fn new(parts: &[(&NamedTensor, &NamedTensor)]) -> Self {
        let inputs = parts[0].0.shape[0];
        let outputs: usize = parts.iter().map(|(_, bias)| bias.values.len()).sum();
        let padded = outputs.next_multiple_of(PANEL);
        let mut weights = Vec::with_capacity(inputs * padded);
        // In the order of the result, a row's share of a panel at a time: every actor decodes every
        // snapshot, so nothing is written twice.
        for panel in (0..padded).step_by(PANEL) {
            for i in 0..inputs {
                let end = weights.len() + PANEL;
                let mut first = 0;
                for (weight, bias) in parts {
                    let outputs = bias.values.len();
                    let within = |column: usize| column.clamp(first, first + outputs) - first;
                    let row = &weight.values[i * outputs..][..outputs];
                    weights.extend_from_slice(&row[within(panel)..within(panel + PANEL)]);
                    first += outputs;
                }
                weights.resize(end, 0.0);
            }
        }
        let mut bias: Vec<f32> = Vec::with_capacity(padded);
        bias.extend(parts.iter().flat_map(|(_, bias)| &bias.values));
        bias.resize(padded, 0.0);
        Self {
            inputs,
            weights: Arc::new(weights),
            bias: Arc::new(bias),
        }
    }

    /// Length of the output with its padding, which is always zero.
    pub(crate) fn padded_outputs(&self) -> usize {
        self.bias.len()
    }

    /// `output [rows, padded_outputs] = input W + b`, of rows of `width` elements whose first are the input's. A
    /// panel serves all rows before the next one is read.
    #[inline(always)]
    pub(crate) fn forward<const FMA: bool>(&self, input: &[f32], width: usize, output: &mut [f32]) {
        let panels = self.weights.chunks_exact(self.inputs * PANEL);
        let (bias, _) = self.bias.as_chunks::<PANEL>();
        let padded = self.bias.len();
        for (at, (panel, bias)) in panels.zip(bias).enumerate() {
            let (panel, _) = panel.as_chunks::<PANEL>();
            let rows = input.chunks_exact(width);
            for (input, output) in rows.zip(output.chunks_exact_mut(padded)) {
                let (output, _) = output.as_chunks_mut::<PANEL>();
                output[at] = columns::<FMA>(&input[..self.inputs], panel, bias);
            }
        }
    }
}

/// A panel's share of a row of the output.
#[inline(always)]
fn columns<const FMA: bool>(
    input: &[f32],
    panel: &[[f32; PANEL]],
    bias: &[f32; PANEL],
) -> [f32; PANEL] {
    let (mut even, mut odd) = (*bias, [0.0; PANEL]);
    let (row_pairs, last_row) = panel.as_chunks::<2>();
    let (input_pairs, last_input) = input.as_chunks::<2>();
    for ([row, next_row], [x, next_x]) in row_pairs.iter().zip(input_pairs) {
        for j in 0..PANEL {
            even[j] = multiply_add::<FMA>(*x, row[j], even[j]);
            odd[j] = multiply_add::<FMA>(*next_x, next_row[j], odd[j]);
        }
    }
    if let ([row], [x]) = (last_row, last_input) {
        for j in 0..PANEL {
            even[j] = multiply_add::<FMA>(*x, row[j], even[j]);
        }
    }
    let mut output = [0.0; PANEL];
    for j in 0..PANEL {
        output[j] = even[j] + odd[j];
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], value: impl Fn(usize) -> f32) -> NamedTensor {
        let values = (0..shape.iter().product()).map(value).collect();
        NamedTensor {
            name: String::new(),
            shape: shape.to_vec(),
            values,
        }
    }

    /// Small integers, so that every sum is exact in whatever order.
    #[test]
    fn equals_the_sum_over_rows_for_odd_and_even_sizes() {
        for (inputs, left, right) in [(1, 1, 1), (2, 31, 1), (3, 32, 33), (7, 5, 70), (64, 64, 6)] {
            let weights =
                [left, right].map(|n| tensor(&[inputs, n], |i| ((i * 7 + n) % 13) as f32 - 6.0));
            let biases = [left, right].map(|n| tensor(&[n], |i| (i % 5) as f32));
            let input: Vec<f32> = (0..inputs).map(|i| (i % 4) as f32 - 1.0).collect();
            let layer = Linear::new(&[(&weights[0], &biases[0]), (&weights[1], &biases[1])]);
            let mut fused = vec![f32::NAN; layer.padded_outputs()];
            layer.forward::<true>(&input, inputs, &mut fused);
            let mut plain = vec![f32::NAN; layer.padded_outputs()];
            layer.forward::<false>(&input, inputs, &mut plain);
            assert_eq!(fused, plain);

            let mut expected = Vec::new();
            for (weight, bias) in weights.iter().zip(&biases) {
                let n = bias.values.len();
                expected.extend((0..n).map(|k| {
                    let products = (0..inputs).map(|i| input[i] * weight.values[i * n + k]);
                    products.sum::<f32>() + bias.values[k]
                }));
            }
            expected.resize(layer.padded_outputs(), 0.0);
            assert_eq!(fused, expected, "{inputs} -> {left} + {right}");
        }
    }
}
