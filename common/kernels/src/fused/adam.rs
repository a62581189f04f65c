//! A step of AdamW on tensors (`adam.rs` of this crate has the formula and the kernel), and averages.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Device, Tensor};

use crate::adam::{AdamFactors, AdamStep};

/// A parameter and its moments after a step, from those before it and the gradient.
///
/// On the CPU tensors whose storage nobody else holds are moved in place; others are copied first.
pub fn adam_step<const D: usize>(tensors: [Tensor<D>; 4], factors: AdamFactors) -> [Tensor<D>; 3] {
    let [.., gradient] = &tensors;
    if gradient.device() != Device::flex() || gradient.dtype() != DType::F32 {
        return composed_adam_step(tensors, factors);
    }
    let [mut value, mut first, mut second, gradient] = tensors.map(on_cpu);
    AdamStep {
        values: value.storage_mut(),
        first: first.storage_mut(),
        second: second.storage_mut(),
        gradient: gradient.as_slice().expect("contiguous f32"),
    }
    .take(factors);
    [value, first, second].map(Tensor::from_primitive::<Flex>)
}

/// [`adam_step`] in the tensor library's operations.
pub fn composed_adam_step<const D: usize>(
    [value, first, second, gradient]: [Tensor<D>; 4],
    factors: AdamFactors,
) -> [Tensor<D>; 3] {
    let first = first * factors.beta_1 + gradient.clone() * (1.0 - factors.beta_1);
    let second = second * factors.beta_2 + gradient.square() * (1.0 - factors.beta_2);
    let width = second.clone().sqrt() / factors.root + factors.epsilon;
    let change = first.clone() * factors.rate / width;
    let value = if factors.decay > 0.0 {
        value * (1.0 - factors.decay)
    } else {
        value
    };
    [value - change, first, second]
}

/// `values + share (towards - values)`.
pub(super) fn lerp<const D: usize>(values: Tensor<D>, towards: Tensor<D>, share: f64) -> Tensor<D> {
    let [mut values, towards] = [values, towards].map(on_cpu);
    let share = share as f32;
    let from = towards.as_slice::<f32>().expect("contiguous f32");
    for (value, target) in values.storage_mut::<f32>().iter_mut().zip(from) {
        *value += share * (target - *value);
    }
    Tensor::from_primitive::<Flex>(values)
}

fn on_cpu<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let primitive = tensor.try_into_primitive::<Flex>();
    primitive
        .expect("a parameter's tensors are on one device")
        .to_contiguous()
}
