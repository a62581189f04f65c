//! The fused forms against the composed ones: the same formula, written twice.

use burn::tensor::{Distribution, Gradients, Tensor};

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

fn leaf<const D: usize>(dims: [usize; D]) -> Tensor<D> {
    random(dims).autodiff().require_grad()
}

fn assert_close<const D: usize>(got: Tensor<D>, expected: Tensor<D>, what: &str) {
    let scale = expected.clone().max_abs().into_scalar::<f32>().max(1e-3);
    let difference = (got - expected).max_abs().into_scalar::<f32>() / scale;
    assert!(difference <= TOLERANCE, "{what}: off by {difference:e}");
}

/// The output of `form`, and the gradients of a loss that weighs every output by `weights`.
fn run(weights: &Tensor<2>, form: impl Fn() -> Tensor<2>) -> (Tensor<2>, Gradients) {
    let output = form();
    let gradients = (output.clone() * weights.clone()).sum().backward();
    (output.without_autodiff(), gradients)
}

fn compare_gradients<const D: usize>(
    of: &Tensor<D>,
    [got, expected]: [&Gradients; 2],
    what: &str,
) {
    let [got, expected] = [got, expected].map(|gradients| of.grad(gradients).unwrap());
    assert_close(got, expected, what);
}

fn compare(rows: usize, inputs: usize, outputs: usize, with_norm: bool, f: Nonlinearity) {
    let (weight, bias) = (leaf([inputs, outputs]) * 0.1, leaf([outputs]));
    let weight = weight.without_autodiff().autodiff().require_grad();
    let (gamma, beta) = (leaf([outputs]), leaf([outputs]));
    let norm = with_norm.then_some([&gamma, &beta]);
    let (input, weights) = (leaf([rows, inputs]), random([rows, outputs]));
    let (got, got_gradients) = run(&weights, || layer(input.clone(), &weight, &bias, norm, f));
    let (expected, gradients) =
        run(&weights, || composed(input.clone(), &weight, &bias, norm, f));
    let what = |name: &str| format!("{name} of {f:?}, norm {with_norm}, {rows}x{inputs}x{outputs}");
    assert_close(got, expected, &what("output"));
    let both = [&got_gradients, &gradients];
    compare_gradients(&input, both, &what("input"));
    compare_gradients(&weight, both, &what("weight"));
    compare_gradients(&bias, both, &what("bias"));
    if with_norm {
        compare_gradients(&gamma, both, &what("gamma"));
        compare_gradients(&beta, both, &what("beta"));
    }
}

fn compare_norm(rows: usize, columns: usize, f: Nonlinearity) {
    let (gamma, beta) = (leaf([columns]), leaf([columns]));
    let (input, weights) = (leaf([rows, columns]), random([rows, columns]));
    let norm = [&gamma, &beta];
    let (got, got_gradients) = run(&weights, || layer_norm(input.clone(), norm, f));
    let (expected, gradients) = run(&weights, || composed_norm(input.clone(), norm, f));
    let what = |name: &str| format!("{name} of {f:?} of a norm, {rows}x{columns}");
    assert_close(got, expected, &what("output"));
    let both = [&got_gradients, &gradients];
    compare_gradients(&input, both, &what("input"));
    compare_gradients(&gamma, both, &what("gamma"));
    compare_gradients(&beta, both, &what("beta"));
}

/// One row, sizes that fill no vector, and more rows than a block.
#[test]
fn values_and_gradients_are_those_of_the_composed_layer() {
    Device::flex().seed(5);
    for [rows, inputs, outputs] in [[1, 3, 5], [33, 7, 16], [600, 24, 50]] {
        for f in NONLINEARITIES {
            for with_norm in [false, true] {
                compare(rows, inputs, outputs, with_norm, f);
            }
            compare_norm(rows, outputs, f);
        }
    }
}

/// The library's own ELU has 0 times infinity in its backward pass there.
#[test]
fn the_composed_elu_has_a_gradient_for_large_inputs() {
    let input = Tensor::<2>::from_floats([[-200.0, -1.0, 3.0, 200.0]], &Device::flex());
    let input = input.autodiff().require_grad();
    let output = activate(input.clone(), Nonlinearity::Elu);
    let gradients = output.clone().sum().backward();
    let values = |tensor: Tensor<2>| tensor.into_data().try_into_vec::<f32>().unwrap();
    let e = (-1f32).exp();
    let close = |got: Vec<f32>, expected: [f32; 4]| {
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got} against {expected}");
        }
    };
    close(values(input.grad(&gradients).unwrap()), [0.0, e, 1.0, 1.0]);
    close(values(output.without_autodiff()), [-1.0, e - 1.0, 3.0, 200.0]);
}
