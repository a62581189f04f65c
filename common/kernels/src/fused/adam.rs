//! A step of AdamW on tensors (`adam.rs` of this crate has the formula and the kernel), and averages.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Device, Tensor};

use crate::adam::{AdamFactors, AdamStep};

/// Moves a parameter and its moments. `None` if the tensors are not `f32` on the CPU; nothing is done
/// then, and the caller composes the step.
///
/// Tensors whose storage nobody else holds are moved in place; others are copied first.
pub fn adam_step<const D: usize>(
    value: Tensor<D>,
    moments: [Tensor<D>; 2],
    gradient: Tensor<D>,
    factors: AdamFactors,
) -> Result<[Tensor<D>; 3], [Tensor<D>; 4]> {
    let [first, second] = moments;
    if gradient.device() != Device::flex() || gradient.dtype() != DType::F32 {
        return Err([value, first, second, gradient]);
    }
    let [mut value, mut first, mut second, gradient] =
        [value, first, second, gradient].map(on_cpu);
    AdamStep {
        values: value.storage_mut(),
        first: first.storage_mut(),
        second: second.storage_mut(),
        gradient: gradient.as_slice().expect("contiguous f32"),
    }
    .take(factors);
    Ok([value, first, second].map(Tensor::from_primitive::<Flex>))
}

/// `values + share (towards - values)`.
pub(super) fn lerp<const D: usize>(
    values: Tensor<D>,
    towards: Tensor<D>,
    share: f64,
) -> Tensor<D> {
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
