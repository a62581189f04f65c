//! The fused forms against the composed ones: the same formula, written twice.

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

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

/// Standard normal numbers of a test's own: the device's generator belongs to all tests of a process.
struct Numbers(ChaCha8Rng);

impl Numbers {
    fn new() -> Self {
        Self(ChaCha8Rng::seed_from_u64(5))
    }

    fn constant<const D: usize>(&mut self, dims: [usize; D]) -> Tensor<D> {
        let count = dims.iter().product();
        let values: Vec<f32> = StandardNormal
            .sample_iter(&mut self.0)
            .take(count)
            .collect();
        Tensor::from_data(TensorData::new(values, dims), &Device::flex())
    }

    fn leaf<const D: usize>(&mut self, dims: [usize; D]) -> Tensor<D> {
        self.constant(dims).autodiff().require_grad()
    }
}

fn assert_close<const D: usize>(got: Tensor<D>, expected: Tensor<D>, what: &str) {
    let scale = largest(&expected).max(1e-3);
    assert_close_at(scale, got, expected, what);
}

fn largest<const D: usize>(tensor: &Tensor<D>) -> f32 {
    tensor.clone().max_abs().into_scalar::<f32>()
}

fn assert_close_at<const D: usize>(scale: f32, got: Tensor<D>, expected: Tensor<D>, what: &str) {
    let difference = (got - expected).max_abs().into_scalar::<f32>() / scale;
    assert!(difference <= TOLERANCE, "{what}: off by {difference:e}");
}

/// The output of `form`, and the gradients of a loss that weighs every output by `weights`.
fn run(weights: &Tensor<2>, form: impl Fn() -> Tensor<2>) -> (Tensor<2>, Gradients) {
    let output = form();
    let gradients = (output.clone() * weights.clone()).sum().backward();
    (output.without_autodiff(), gradients)
}

fn compare_gradients<const D: usize>(of: &Tensor<D>, [got, expected]: [&Gradients; 2], what: &str) {
    let [got, expected] = [got, expected].map(|gradients| of.grad(gradients).unwrap());
    assert_close(got, expected, what);
}

fn compare(
    numbers: &mut Numbers,
    [rows, inputs, outputs]: [usize; 3],
    with_norm: bool,
    f: Nonlinearity,
) {
    let (weight, bias) = (
        numbers.leaf([inputs, outputs]) * 0.1,
        numbers.leaf([outputs]),
    );
    let weight = weight.without_autodiff().autodiff().require_grad();
    let (gamma, beta) = (numbers.leaf([outputs]), numbers.leaf([outputs]));
    let norm = with_norm.then_some([&gamma, &beta]);
    let (input, weights) = (
        numbers.leaf([rows, inputs]),
        numbers.constant([rows, outputs]),
    );
    let (got, got_gradients) = run(&weights, || layer(input.clone(), &weight, &bias, norm, f));
    let (expected, gradients) = run(&weights, || {
        composed(input.clone(), &weight, &bias, norm, f)
    });
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

fn compare_norm(numbers: &mut Numbers, [rows, columns]: [usize; 2], f: Nonlinearity) {
    let (gamma, beta) = (numbers.leaf([columns]), numbers.leaf([columns]));
    let (input, weights) = (
        numbers.leaf([rows, columns]),
        numbers.constant([rows, columns]),
    );
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
    let mut numbers = Numbers::new();
    for [rows, inputs, outputs] in [[1, 3, 5], [33, 7, 16], [600, 24, 50]] {
        for f in NONLINEARITIES {
            for with_norm in [false, true] {
                compare(&mut numbers, [rows, inputs, outputs], with_norm, f);
            }
            compare_norm(&mut numbers, [rows, outputs], f);
        }
    }
}

/// Of many and few outputs, with targets that are distributions.
#[test]
fn cross_entropy_and_softmax_are_those_of_the_composed_form() {
    let mut numbers = Numbers::new();
    for [rows, columns] in [[1, 2], [7, 16], [33, 101]] {
        let logits = numbers.leaf([rows, columns]) * 5.0;
        let logits = logits.without_autodiff().autodiff().require_grad();
        let targets = activation::softmax(numbers.constant([rows, columns]), 1);
        let weights: Tensor<1> = numbers.constant([rows]);
        let of = |form: fn(Tensor<2>, Tensor<2>) -> Tensor<1>| {
            let losses = form(logits.clone(), targets.clone());
            let gradients = (losses.clone() * weights.clone()).sum().backward();
            (losses.without_autodiff(), logits.grad(&gradients).unwrap())
        };
        let ((got, gradient), (expected, of_composed)) =
            (of(cross_entropy), of(composed_cross_entropy));
        assert_close(got, expected, "losses");
        assert_close(gradient, of_composed, "gradient");
        let support = numbers.constant([columns]);
        let of = |form: fn(Tensor<2>, Tensor<1>) -> Tensor<1>| {
            let means = form(logits.clone(), support.clone());
            let gradients = (means.clone() * weights.clone()).sum().backward();
            (means.without_autodiff(), logits.grad(&gradients).unwrap())
        };
        let ((got, gradient), (expected, of_composed)) =
            (of(expectation), of(composed_expectation));
        assert_close(got, expected, "means");
        // Differences from a mean, which are as exact as the support is large, however small they are.
        let scale = largest(&support) * largest(&weights);
        assert_close_at(scale, gradient, of_composed, "gradient of means");
        let constant = logits.clone().without_autodiff();
        let expected = activation::softmax(constant.clone(), 1);
        assert_close(softmax(constant), expected, "probabilities");
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
    close(
        values(output.without_autodiff()),
        [-1.0, e - 1.0, 3.0, 200.0],
    );
}

/// The gradient for the input alone, as where a critic's gradient for an action is wanted.
#[test]
fn constants_cost_no_gradient_and_change_none() {
    let mut numbers = Numbers::new();
    let (weight, bias): (Tensor<2>, Tensor<1>) =
        (numbers.constant([7, 16]), numbers.constant([16]));
    let (input, weights) = (numbers.leaf([33, 7]), numbers.constant([33, 16]));
    let of = |form: fn(
        Tensor<2>,
        &Tensor<2>,
        &Tensor<1>,
        Option<NormTensors<'_>>,
        Nonlinearity,
    ) -> Tensor<2>| {
        let (_, gradients) = run(&weights, || {
            form(input.clone(), &weight, &bias, None, Nonlinearity::Tanh)
        });
        input.grad(&gradients).unwrap()
    };
    assert_close(of(layer), of(composed), "input");
}

#[test]
fn averages_move_a_share_of_the_way() {
    let tensor = |values: [f32; 3]| Tensor::<1>::from_floats(values, &Device::flex());
    let values = tensor([1.0, 2.0, -4.0]);
    let moved = lerp(values.clone(), tensor([2.0, 2.0, 4.0]), 0.25);
    let vector = |tensor: Tensor<1>| tensor.into_data().try_into_vec::<f32>().unwrap();
    assert_eq!(vector(moved), [1.25, 2.0, -2.0]);
    assert_eq!(vector(values), [1.0, 2.0, -4.0]);
}

/// Blocks are the same whoever works on them.
#[test]
fn the_number_of_threads_changes_nothing() {
    let mut numbers = Numbers::new();
    let (weight, bias) = (numbers.leaf([200, 64]), numbers.leaf([64]));
    let (gamma, beta) = (numbers.leaf([64]), numbers.leaf([64]));
    let (input, weights) = (numbers.leaf([500, 200]), numbers.constant([500, 64]));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| {
            let norm = Some([&gamma, &beta]);
            let (output, gradients) = run(&weights, || {
                layer(input.clone(), &weight, &bias, norm, Nonlinearity::Tanh)
            });
            let flat = |tensor: Tensor<2>| {
                let count = tensor.dims().iter().product::<usize>();
                tensor.reshape([count])
            };
            let parts = vec![
                flat(output),
                flat(input.grad(&gradients).unwrap()),
                flat(weight.grad(&gradients).unwrap()),
                bias.grad(&gradients).unwrap(),
                gamma.grad(&gradients).unwrap(),
                beta.grad(&gradients).unwrap(),
            ];
            Tensor::cat(parts, 0).into_data()
        })
    };
    let one = run(1);
    for threads in [2, 3] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}
