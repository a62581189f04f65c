//! The CPU backend's tensors under the tensor library's, for operations with kernels and backward passes of
//! their own. Everything that the library does not promise comes through here; this crate's documentation
//! lists it.

use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::ops::{Backward, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// A tensor of the CPU backend on the graph of its gradients.
pub type GraphTensor = FloatTensor<Autodiff<Flex>>;

/// Whether kernels for slices of `f32` apply to the tensor.
pub fn on_cpu<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.device() == Device::flex() && tensor.dtype() == DType::F32
}

/// The tensor as the CPU backend's, on the graph of its gradients; a constant becomes one of that
/// graph.
///
/// # Panics
/// If it is not on the CPU, or under gradient checkpointing.
pub fn on_graph<const D: usize>(tensor: Tensor<D>) -> GraphTensor {
    let primitive = tensor.autodiff().try_into_primitive::<Autodiff<Flex>>();
    primitive.expect("a layer's tensors are on one device, without checkpointing")
}

/// A constant as the CPU backend's, in row-major order.
///
/// # Panics
/// If it is not on the CPU, or no constant.
pub fn constant<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let primitive = tensor.try_into_primitive::<Flex>();
    contiguous(primitive.expect("a constant on the CPU"))
}

/// An operation's `output` on the graph; `state` is made where gradients are wanted.
pub fn operation<const N: usize, const D: usize, O: Backward<Flex, N>>(
    operation: O,
    parents: [GraphTensor; N],
    output: FlexTensor,
    state: impl FnOnce() -> O::State,
) -> Tensor<D> {
    let prepared = operation
        .prepare::<NoCheckpointing>(parents.map(|parent| parent.into_parts().1))
        .compute_bound()
        .stateful();
    let output = match prepared {
        OpsKind::UnTracked(prepared) => prepared.finish(output),
        OpsKind::Tracked(prepared) => prepared.finish(state(), output),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(output)
}

/// A tensor of these values.
pub fn tensor(values: Vec<f32>, shape: Vec<usize>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The tensor in row-major order, alone in its storage.
pub fn contiguous(tensor: FlexTensor) -> FlexTensor {
    // The copy, where there was nothing to copy, shares the storage with a tensor that ends here.
    tensor.to_contiguous()
}

/// The values of a contiguous tensor.
///
/// # Panics
/// If it is not contiguous, or not `f32`.
pub fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("contiguous f32")
}
