//! What the losses' tests share: f64 tensors on the CPU, and gradients by central differences.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::{ActionDistribution, CategoricalActions, DiagonalGaussian, PolicyLossOutput};

/// Gaussians `[B, A]` from a vector of all means and then all standard deviations.
pub(crate) fn gaussian(x: Tensor<1>, dims: [usize; 2]) -> ActionDistribution {
    let count = dims[0] * dims[1];
    ActionDistribution::Gaussian(DiagonalGaussian {
        mean: x.clone().slice(0..count).reshape(dims),
        std: x.slice(count..2 * count).reshape(dims),
    })
}

/// Categorical distributions from logits `[B, A, K]` as a vector.
pub(crate) fn categorical(x: Tensor<1>, dims: [usize; 3]) -> ActionDistribution {
    ActionDistribution::Categorical(CategoricalActions::new(x.reshape(dims)))
}

/// A statistic by its name.
pub(crate) fn stat(output: &PolicyLossOutput, name: &str) -> Vec<f64> {
    let found = output.stats.iter().find(|(known, _)| *known == name);
    values(found.expect("a statistic of this name").1.clone())
}

/// A constant f64 tensor.
pub(crate) fn constant<const D: usize>(values: &[f64], dims: [usize; D]) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), dims);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

/// The values of a tensor.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().try_to_vec().expect("f64 tensors")
}

/// Asserts that two vectors differ nowhere by more than `tolerance`.
#[track_caller]
pub(crate) fn assert_close(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{got:?} against {expected:?}");
    let close = got
        .iter()
        .zip(expected)
        .all(|(a, b)| (a - b).abs() <= tolerance);
    assert!(close, "{got:?} against {expected:?}");
}

/// The gradient of the scalar `f` at `x`, after asserting that it equals central differences.
#[track_caller]
pub(crate) fn gradient_check(x: &[f64], f: impl Fn(Tensor<1>) -> Tensor<1>) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let leaf = constant(x, [x.len()]).autodiff().require_grad();
    let gradients = f(leaf.clone()).backward();
    let gradient = values(leaf.grad(&gradients).expect("x takes part"));
    let differences: Vec<f64> = (0..x.len())
        .map(|i| {
            let at = |delta: f64| {
                let mut moved = x.to_vec();
                moved[i] += delta;
                values(f(constant(&moved, [x.len()])))[0]
            };
            (at(STEP) - at(-STEP)) / (2.0 * STEP)
        })
        .collect();
    assert_close(&gradient, &differences, 1e-7);
    gradient
}
