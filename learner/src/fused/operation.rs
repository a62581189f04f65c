//! A fused layer as one operation of the tensor library, with its backward pass.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{Tensor, TensorData};

use super::Nonlinearity;
use super::layer::{self, Kept, Layer};

type GraphTensor = FloatTensor<Autodiff<Flex>>;

/// The tensor as the CPU backend's, on the graph of its gradients; a constant becomes one of that
/// graph.
pub(super) fn on_graph<const D: usize>(tensor: Tensor<D>) -> GraphTensor {
    let primitive = tensor.autodiff().try_into_primitive::<Autodiff<Flex>>();
    primitive.expect("a layer's tensors are on one device, without checkpointing")
}

/// A layer of `[input, weight, bias]` or `[input, weight, bias, gamma, beta]`.
pub(super) fn fused<const N: usize>(
    parents: [GraphTensor; N],
    nonlinearity: Nonlinearity,
) -> Tensor<2> {
    let tensors = parents
        .each_ref()
        .map(|parent| contiguous(parent.primitive().clone()));
    let prepared = LayerBackward
        .prepare::<NoCheckpointing>(parents.map(|parent| parent.into_parts().1))
        .compute_bound()
        .stateful();
    let keep = matches!(prepared, OpsKind::Tracked(_));
    let layer = as_layer(&tensors, nonlinearity);
    let (outputs, kept) = layer.forward(values(&tensors[0]), keep);
    let outputs = tensor(
        outputs,
        vec![tensors[0].layout().shape()[0], layer.bias.len()],
    );
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

#[derive(Debug)]
struct LayerBackward;

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved<const N: usize> {
    tensors: [FlexTensor; N],
    nonlinearity: Nonlinearity,
    outputs: FlexTensor,
    kept: Kept,
}

impl<const N: usize> Backward<Flex, N> for LayerBackward {
    type State = Saved<N>;

    fn backward(self, ops: Ops<Saved<N>, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let mut gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let Saved {
            tensors,
            nonlinearity,
            outputs,
            kept,
        } = ops.state;
        let layer::Gradients {
            input,
            weight,
            bias,
            norm,
        } = as_layer(&tensors, nonlinearity).backward(
            values(&tensors[0]),
            values(&outputs),
            &kept,
            gradient.storage_mut(),
            ops.parents[0].is_some(),
        );
        let parts = [input, Some(weight), Some(bias)];
        let parts = parts
            .into_iter()
            .chain(norm.into_iter().flatten().map(Some));
        for ((parent, of), gradient) in ops.parents.into_iter().zip(&tensors).zip(parts) {
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

fn tensor(values: Vec<f32>, shape: Vec<usize>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The tensor in row-major order, alone in its storage.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    // The copy, where there was nothing to copy, shares the storage with a tensor that ends here.
    tensor.to_contiguous()
}

fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("contiguous f32")
}
