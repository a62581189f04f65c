//! Fused layers as operations of the tensor library, with their backward passes.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;

use super::NormTensors;
use super::primitive::{GraphTensor, constant, contiguous, on_graph, operation, tensor, values};
use crate::Nonlinearity;
use crate::layer::{self, Kept, Layer, Norm, Wanted};
use crate::softmax;

pub(super) fn layer(
    input: Tensor<2>,
    weight: &Tensor<2>,
    bias: &Tensor<1>,
    norm: Option<NormTensors<'_>>,
    nonlinearity: Nonlinearity,
) -> Tensor<2> {
    let [input, weight, bias] = [
        on_graph(input),
        on_graph(weight.clone()),
        on_graph(bias.clone()),
    ];
    match norm {
        None => fused(LayerBackward, [input, weight, bias], nonlinearity),
        Some(norm) => {
            let [gamma, beta] = norm.map(|tensor| on_graph(tensor.clone()));
            let parents = [input, weight, bias, gamma, beta];
            fused(LayerBackward, parents, nonlinearity)
        }
    }
}

pub(super) fn layer_norm(
    input: Tensor<2>,
    norm: NormTensors<'_>,
    nonlinearity: Nonlinearity,
) -> Tensor<2> {
    let [gamma, beta] = norm.map(|tensor| on_graph(tensor.clone()));
    fused(NormBackward, [on_graph(input), gamma, beta], nonlinearity)
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved<const N: usize> {
    /// The parents: the input first, then the parameters.
    tensors: [FlexTensor; N],
    nonlinearity: Nonlinearity,
    outputs: FlexTensor,
    kept: Kept,
}

/// A kind of fused layer with `N` parents.
trait Fused<const N: usize>: Backward<Flex, N, State = Saved<N>> {
    /// Outputs, their number a row, and what is kept if it is wanted.
    fn forward(
        tensors: &[FlexTensor; N],
        nonlinearity: Nonlinearity,
        keep: bool,
    ) -> (Vec<f32>, usize, Kept);
}

/// The layer of its parents.
fn fused<const N: usize, F: Fused<N>>(
    operation: F,
    parents: [GraphTensor; N],
    nonlinearity: Nonlinearity,
) -> Tensor<2> {
    let tensors = parents
        .each_ref()
        .map(|parent| contiguous(parent.primitive().clone()));
    let prepared = operation
        .prepare::<NoCheckpointing>(parents.map(|parent| parent.into_parts().1))
        .compute_bound()
        .stateful();
    let keep = matches!(prepared, OpsKind::Tracked(_));
    let (outputs, columns, kept) = F::forward(&tensors, nonlinearity, keep);
    let rows = tensors[0].layout().shape()[0];
    let outputs = tensor(outputs, vec![rows, columns]);
    let output = match prepared {
        OpsKind::UnTracked(prepared) => prepared.finish(outputs),
        OpsKind::Tracked(prepared) => {
            let state = Saved {
                tensors,
                nonlinearity,
                outputs: outputs.clone(),
                kept,
            };
            prepared.finish(state, outputs)
        }
    };
    Tensor::from_primitive::<Autodiff<Flex>>(output)
}

/// Of [`Layer`]: input, weight, bias, and with a normalisation gamma and beta.
#[derive(Debug)]
struct LayerBackward;

impl<const N: usize> Fused<N> for LayerBackward {
    fn forward(
        tensors: &[FlexTensor; N],
        nonlinearity: Nonlinearity,
        keep: bool,
    ) -> (Vec<f32>, usize, Kept) {
        let layer = as_layer(tensors, nonlinearity);
        let (outputs, kept) = layer.forward(values(&tensors[0]), keep);
        (outputs, layer.bias.len(), kept)
    }
}

impl<const N: usize> Backward<Flex, N> for LayerBackward {
    type State = Saved<N>;

    fn backward(self, ops: Ops<Saved<N>, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let mut gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let saved = ops.state;
        let layer::Gradients {
            input,
            weight,
            bias,
            norm,
        } = as_layer(&saved.tensors, saved.nonlinearity).backward(
            values(&saved.tensors[0]),
            values(&saved.outputs),
            &saved.kept,
            gradient.storage_mut(),
            Wanted {
                input: ops.parents[0].is_some(),
                weight: ops.parents[1].is_some(),
            },
        );
        let parts = [input, weight, Some(bias)];
        let parts = parts
            .into_iter()
            .chain(norm.into_iter().flatten().map(Some));
        for ((parent, of), gradient) in ops.parents.into_iter().zip(&saved.tensors).zip(parts) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                let gradient = tensor(gradient, of.layout().shape().to_vec());
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

fn as_layer<const N: usize>(tensors: &[FlexTensor; N], nonlinearity: Nonlinearity) -> Layer<'_> {
    Layer {
        weight: values(&tensors[1]),
        bias: values(&tensors[2]),
        norm: match &tensors[3..] {
            [gamma, beta] => Some([values(gamma), values(beta)]),
            _ => None,
        },
        nonlinearity,
    }
}

/// Of [`Norm`]: input, gamma and beta.
#[derive(Debug)]
struct NormBackward;

impl Fused<3> for NormBackward {
    fn forward(
        tensors: &[FlexTensor; 3],
        nonlinearity: Nonlinearity,
        _: bool,
    ) -> (Vec<f32>, usize, Kept) {
        let norm = as_norm(tensors, nonlinearity);
        let (outputs, kept) = norm.forward(values(&tensors[0]));
        (outputs, norm.gamma.len(), kept)
    }
}

impl Backward<Flex, 3> for NormBackward {
    type State = Saved<3>;

    fn backward(self, ops: Ops<Saved<3>, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let mut gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let saved = ops.state;
        let norm = as_norm(&saved.tensors, saved.nonlinearity);
        let [gamma, beta] =
            norm.backward(values(&saved.outputs), &saved.kept, gradient.storage_mut());
        let [input_parent, gamma_parent, beta_parent] = ops.parents;
        if let Some(parent) = input_parent {
            gradients.register::<Flex>(parent.id, gradient);
        }
        for (parent, gradient) in [(gamma_parent, gamma), (beta_parent, beta)] {
            if let Some(parent) = parent {
                let shape = vec![gradient.len()];
                gradients.register::<Flex>(parent.id, tensor(gradient, shape));
            }
        }
    }
}

fn as_norm(tensors: &[FlexTensor; 3], nonlinearity: Nonlinearity) -> Norm<'_> {
    Norm {
        gamma: values(&tensors[1]),
        beta: values(&tensors[2]),
        nonlinearity,
    }
}

pub(super) fn softmax(logits: Tensor<2>) -> Tensor<2> {
    let [_, columns] = logits.dims();
    let mut primitive = constant(logits);
    softmax::softmax(primitive.storage_mut(), columns, &mut []);
    Tensor::from_primitive::<Flex>(primitive)
}

pub(super) fn cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let [rows, columns] = logits.dims();
    let logits = on_graph(logits);
    let targets = constant(targets);
    let inputs = contiguous(logits.primitive().clone());
    let mut probabilities = values(&inputs).to_vec();
    let (mut log_sums, mut losses) = (vec![0.0; rows], vec![0.0; rows]);
    softmax::softmax(&mut probabilities, columns, &mut log_sums);
    softmax::cross_entropy(values(&inputs), &log_sums, values(&targets), &mut losses);
    let losses = tensor(losses, vec![rows]);
    operation(CrossEntropyBackward, [logits], losses, || Entropies {
        probabilities: tensor(probabilities, vec![rows, columns]),
        targets,
    })
}

/// Of a cross-entropy: its only parent are the logits.
#[derive(Debug)]
struct CrossEntropyBackward;

#[derive(Clone, Debug)]
struct Entropies {
    probabilities: FlexTensor,
    targets: FlexTensor,
}

impl Backward<Flex, 1> for CrossEntropyBackward {
    type State = Entropies;

    fn backward(self, ops: Ops<Entropies, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let Entropies {
            mut probabilities,
            targets,
        } = ops.state;
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            let storage = probabilities.storage_mut();
            softmax::cross_entropy_backward(storage, values(&targets), values(&gradient));
            gradients.register::<Flex>(parent.id, probabilities);
        }
    }
}

pub(super) fn expectation(logits: Tensor<2>, support: Tensor<1>) -> Tensor<1> {
    let [rows, columns] = logits.dims();
    let logits = on_graph(logits);
    let support = constant(support);
    let inputs = contiguous(logits.primitive().clone());
    let mut probabilities = values(&inputs).to_vec();
    let mut means = vec![0.0; rows];
    softmax::softmax(&mut probabilities, columns, &mut []);
    softmax::expectation(&probabilities, values(&support), &mut means);
    let means = tensor(means, vec![rows]);
    operation(ExpectationBackward, [logits], means.clone(), || {
        Expectations {
            probabilities: tensor(probabilities, vec![rows, columns]),
            support,
            means,
        }
    })
}

/// Of a distribution's mean: its only parent are the logits.
#[derive(Debug)]
struct ExpectationBackward;

#[derive(Clone, Debug)]
struct Expectations {
    probabilities: FlexTensor,
    support: FlexTensor,
    means: FlexTensor,
}

impl Backward<Flex, 1> for ExpectationBackward {
    type State = Expectations;

    fn backward(self, ops: Ops<Expectations, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let Expectations {
            mut probabilities,
            support,
            means,
        } = ops.state;
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            softmax::expectation_backward(
                probabilities.storage_mut(),
                values(&support),
                values(&means),
                values(&gradient),
            );
            gradients.register::<Flex>(parent.id, probabilities);
        }
    }
}
