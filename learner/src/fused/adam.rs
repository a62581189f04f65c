//! A step of Adam in one pass over the parameters: `adam.rs` of this crate has the formula.

use burn::backend::Flex;
use burn::tensor::{DType, Device, Tensor};
use pmpo_policy::simd::{Kernel, dispatch_widest, multiply_add};
use rayon::prelude::*;

/// Parameters to a task at least, so that small networks stay on one thread.
const TASK: usize = 1 << 15;

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamFactors {
    pub(crate) beta_1: f64,
    pub(crate) beta_2: f64,
    pub(crate) epsilon: f64,
    /// Learning rate over the first moment's bias correction.
    pub(crate) rate: f64,
    /// Square root of the second moment's bias correction.
    pub(crate) root: f64,
}

/// Moves both moments and returns what to subtract from the parameters. `None`, and nothing done, if
/// the tensors are not `f32` on the CPU.
pub(crate) fn adam_step(
    first: &mut Tensor<1>,
    second: &mut Tensor<1>,
    gradient: &Tensor<1>,
    factors: AdamFactors,
) -> Option<Tensor<1>> {
    if gradient.device() != Device::flex() || gradient.dtype() != DType::F32 {
        return None;
    }
    let on_cpu = |tensor: Tensor<1>| {
        let primitive = tensor.try_into_primitive::<Flex>();
        primitive
            .expect("moments and gradient are on one device")
            .to_contiguous()
    };
    // Copied, because the caller may keep its gradient; becomes the change.
    let mut change = on_cpu(gradient.clone());
    first.inplace(|first| {
        let mut first = on_cpu(first);
        second.inplace(|second| {
            let mut second = on_cpu(second);
            let tasks = change.storage_mut().par_chunks_mut(TASK).zip(
                first
                    .storage_mut()
                    .par_chunks_mut(TASK)
                    .zip(second.storage_mut().par_chunks_mut(TASK)),
            );
            tasks.for_each(|(change, (first, second))| {
                dispatch_widest(Step {
                    first,
                    second,
                    change,
                    factors,
                });
            });
            Tensor::from_primitive::<Flex>(second)
        });
        Tensor::from_primitive::<Flex>(first)
    });
    Some(Tensor::from_primitive::<Flex>(change))
}

struct Step<'a> {
    first: &'a mut [f32],
    second: &'a mut [f32],
    /// The gradient on entry.
    change: &'a mut [f32],
    factors: AdamFactors,
}

impl Kernel for Step<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let [beta_1, beta_2] = [self.factors.beta_1, self.factors.beta_2];
        let [new_1, new_2] = [(1.0 - beta_1) as f32, (1.0 - beta_2) as f32];
        let [beta_1, beta_2] = [beta_1 as f32, beta_2 as f32];
        let (rate, epsilon) = (self.factors.rate as f32, self.factors.epsilon as f32);
        let inverse_root = (1.0 / self.factors.root) as f32;
        let moments = self.first.iter_mut().zip(self.second);
        for (change, (m, v)) in self.change.iter_mut().zip(moments) {
            let gradient = *change;
            *m = multiply_add::<FMA>(beta_1, *m, new_1 * gradient);
            *v = multiply_add::<FMA>(beta_2, *v, new_2 * gradient * gradient);
            *change = rate * *m / multiply_add::<FMA>(v.sqrt(), inverse_root, epsilon);
        }
    }
}
