//! The fused layer against the composed one: the same formula, written twice.

use burn::module::Module;
use burn::nn::{LayerNormConfig, LinearConfig};
use burn::tensor::{Distribution, Tensor};

use super::*;

/// Largest difference allowed, relative to the largest value: sums of some hundred terms in `f32`,
/// taken in another order.
const TOLERANCE: f32 = 3e-6;

const NONLINEARITIES: [Nonlinearity; 5] = [
    Nonlinearity::Identity,
    Nonlinearity::Relu,
    Nonlinearity::Elu,
    Nonlinearity::Tanh,
    Nonlinearity::Softplus,
];

fn random<const D: usize>(dims: [usize; D]) -> Tensor<D> {
    Tensor::random(dims, Distribution::Normal(0.0, 1.0), &Device::flex())
}

fn assert_close<const D: usize>(got: Tensor<D>, expected: Tensor<D>, what: &str) {
    let scale = expected.clone().max_abs().into_scalar::<f32>().max(1e-3);
    let difference = (got - expected).max_abs().into_scalar::<f32>() / scale;
    assert!(difference <= TOLERANCE, "{what}: off by {difference:e}");
}

/// Output and all gradients of a loss that weighs every output differently.
fn compare(rows: usize, inputs: usize, outputs: usize, with_norm: bool, f: Nonlinearity) {
    let device = Device::flex();
    let mut linear = LinearConfig::new(inputs, outputs).init(&device);
    linear.weight = linear.weight.map(|w| w.autodiff().require_grad());
    linear.bias = linear
        .bias
        .map(|b| b.map(|_| random([outputs]).autodiff().require_grad()));
    let mut norm = LayerNormConfig::new(outputs).init(&device);
    norm.gamma = norm
        .gamma
        .map(|_| random([outputs]).autodiff().require_grad());
    norm.beta = norm
        .beta
        .map(|b| b.map(|_| random([outputs]).autodiff().require_grad()));
    let norm = with_norm.then_some(norm);
    let input = random([rows, inputs]).autodiff().require_grad();
    let weights = random([rows, outputs]);

    let run = |f_layer: fn(Tensor<2>, &Linear, Option<&LayerNorm>, Nonlinearity) -> Tensor<2>| {
        let output = f_layer(input.clone(), &linear, norm.as_ref(), f);
        let gradients = (output.clone() * weights.clone()).sum().backward();
        (output.without_autodiff(), gradients)
    };
    let ((got, got_gradients), (expected, expected_gradients)) = (run(layer), run(composed));
    let what = |name: &str| format!("{name} of {f:?}, norm {with_norm}, {rows}x{inputs}x{outputs}");
    assert_close(got, expected, &what("output"));
    let matrices = [("input", input.clone()), ("weight", linear.weight.val())];
    for (name, tensor) in matrices {
        let of = |gradients| tensor.grad(gradients).unwrap();
        assert_close(of(&got_gradients), of(&expected_gradients), &what(name));
    }
    let mut vectors = vec![("bias", linear.bias.as_ref().unwrap().val())];
    if let Some(norm) = &norm {
        vectors.push(("gamma", norm.gamma.val()));
        vectors.push(("beta", norm.beta.as_ref().unwrap().val()));
    }
    for (name, tensor) in vectors {
        let of = |gradients| tensor.grad(gradients).unwrap();
        assert_close(of(&got_gradients), of(&expected_gradients), &what(name));
    }
}

/// One row, sizes that fill no vector, and more rows than a block.
#[test]
fn values_and_gradients_are_those_of_the_composed_layer() {
    Device::flex().seed(5);
    for [rows, inputs, outputs] in [[1, 3, 5], [33, 7, 16], [600, 24, 50]] {
        for with_norm in [false, true] {
            for f in NONLINEARITIES {
                compare(rows, inputs, outputs, with_norm, f);
            }
        }
    }
}

/// A pool's size decides how sums over rows are split, and nothing else does.
#[test]
fn a_given_number_of_threads_gives_the_same_bits_again() {
    let device = Device::flex();
    let linear = LinearConfig::new(20, 64).init(&device).train();
    let norm = LayerNormConfig::new(64).init(&device).train();
    let input = random([500, 20]);
    let run = |threads| {
        let pool = crate::threads::pool(threads).unwrap();
        pool.install(|| {
            let output = layer(input.clone(), &linear, Some(&norm), Nonlinearity::Tanh);
            let gradients = output.clone().square().sum().backward();
            let weight = linear.weight.val().grad(&gradients).unwrap();
            let beta = norm.beta.as_ref().unwrap().val().grad(&gradients).unwrap();
            let all = Tensor::cat(vec![weight.reshape([20 * 64]), beta], 0);
            let output = output.without_autodiff().reshape([500 * 64]);
            Tensor::cat(vec![all, output], 0).into_data()
        })
    };
    for threads in [1, 2, 3] {
        assert_eq!(run(threads), run(threads), "{threads} threads");
    }
}
