//! The transformer's kernels as operations of the tensor library, and the formulas composed of its own
//! operations, which serve wherever the kernels do not apply and are what they are tested against.

use burn::backend::Flex;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::flex::FlexTensor;
use burn::tensor::{Int, Tensor, TensorData, activation};
use pmpo_kernels::fused::primitive::{
    GraphTensor, constant, contiguous, on_cpu, on_graph, operation, tensor, values,
};

pub(crate) use crate::kernels::attention::Shape;
use crate::kernels::attention::{Angles, Inputs};
pub(crate) use crate::kernels::gated::Gate;
pub(crate) use crate::kernels::tokens::Measured;
use crate::kernels::tokens::{self, Head, Rows};
use crate::kernels::{gated as gating, rms_norm as norming};

/// `g x / sqrt(mean(x^2) + epsilon)`: `[R, D]` of `[R, D]` and gains `[D]`.
pub(crate) fn rms_norm(input: Tensor<2>, gain: &Tensor<1>, epsilon: f64) -> Tensor<2> {
    if !on_cpu(&input) {
        return composed_rms_norm(input, gain, epsilon);
    }
    let tracked = input.is_autodiff() || gain.is_autodiff();
    let parents = [on_graph(input), on_graph(gain.clone())];
    let [x, g] = parents.each_ref().map(inside);
    let (output, scales) = norming::forward(values(&x), values(&g), epsilon as f32);
    let output = like(&x, output);
    let output = operation(RmsNorm, parents, output, || (x, g, scales));
    constant_unless(tracked, output)
}

/// [`rms_norm`] in the tensor library's operations.
pub(crate) fn composed_rms_norm(input: Tensor<2>, gain: &Tensor<1>, epsilon: f64) -> Tensor<2> {
    let mean = input.clone().square().mean_dim(1);
    input / (mean + epsilon).sqrt() * gain.clone().unsqueeze::<2>()
}

#[derive(Debug)]
struct RmsNorm;

impl Backward<Flex, 2> for RmsNorm {
    type State = (FlexTensor, FlexTensor, Vec<f32>);

    fn backward(self, ops: Ops<Self::State, 2>, to: &mut Gradients, _: &mut Checkpointer) {
        let gradient = contiguous(to.consume::<Flex>(&ops.node));
        let (x, g, scales) = ops.state;
        let (input, gain) = norming::backward(values(&x), values(&g), &scales, values(&gradient));
        register(
            to,
            ops.parents.map(|parent| parent.map(|node| node.id)),
            [like(&x, input), like(&g, gain)],
        );
    }
}

/// `f(gate) up`, each `[R, F]`.
pub(crate) fn gated(kind: Gate, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if !on_cpu(&gate) {
        return composed_gated(kind, gate, up);
    }
    let tracked = gate.is_autodiff() || up.is_autodiff();
    let parents = [on_graph(gate), on_graph(up)];
    let [gate, up] = parents.each_ref().map(inside);
    let output = like(&gate, gating::forward(kind, values(&gate), values(&up)));
    let output = operation(Gated(kind), parents, output, || [gate, up]);
    constant_unless(tracked, output)
}

/// [`gated`] in the tensor library's operations.
pub(crate) fn composed_gated(kind: Gate, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let gate = match kind {
        Gate::Silu => activation::silu(gate),
        Gate::GeluTanh => activation::gelu_approximate(gate),
    };
    gate * up
}

#[derive(Debug)]
struct Gated(Gate);

impl Backward<Flex, 2> for Gated {
    type State = [FlexTensor; 2];

    fn backward(self, ops: Ops<Self::State, 2>, to: &mut Gradients, _: &mut Checkpointer) {
        let mut gradient = contiguous(to.consume::<Flex>(&ops.node));
        let [gate, up] = ops.state;
        let gates = gating::backward(self.0, values(&gate), values(&up), gradient.storage_mut());
        register(
            to,
            ops.parents.map(|parent| parent.map(|node| node.id)),
            [like(&gate, gates), gradient],
        );
    }
}

/// The cosines and sines `[T, E / 2]` of rotary positions.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    pub(crate) cosines: Tensor<2>,
    pub(crate) sines: Tensor<2>,
}

impl Rotation {
    /// Of positions from `start` on, so many.
    pub(crate) fn positions(&self, start: usize, count: usize) -> Self {
        let cut = |table: &Tensor<2>| table.clone().narrow(0, start, count);
        Self {
            cosines: cut(&self.cosines),
            sines: cut(&self.sines),
        }
    }

    /// Turns `[B, heads, T, E]`, number `i` of a head with number `i + E / 2`.
    pub(crate) fn turn(&self, heads: Tensor<4>) -> Tensor<4> {
        let [_, _, _, size] = heads.dims();
        let [cosines, sines] =
            [&self.cosines, &self.sines].map(|table| table.clone().unsqueeze::<4>());
        let first = heads.clone().narrow(3, 0, size / 2);
        let second = heads.narrow(3, size / 2, size / 2);
        let turned = first.clone() * cosines.clone() - second.clone() * sines.clone();
        Tensor::cat(vec![turned, second * cosines + first * sines], 3)
    }
}

/// Causal attention of whole sequences: `[B T, H E]` of queries `[B T, H E]`, keys and values `[B T, G E]`.
pub(crate) fn attention(
    shape: Shape,
    [queries, keys, others]: [Tensor<2>; 3],
    rotation: &Rotation,
) -> Tensor<2> {
    if !on_cpu(&queries) {
        return composed_attention(shape, [queries, keys, others], rotation);
    }
    let tracked = queries.is_autodiff() || keys.is_autodiff() || others.is_autodiff();
    let parents = [on_graph(queries), on_graph(keys), on_graph(others)];
    let inputs = parents.each_ref().map(inside);
    let angles = [&rotation.cosines, &rotation.sines].map(|table| constant(table.clone()));
    let (output, log_sums) = shape.forward(as_inputs(&inputs), as_angles(&angles));
    let output = like(&inputs[0], output);
    let kept = output.clone();
    let output = operation(Attention(shape), parents, output, || Attended {
        inputs,
        angles,
        output: kept,
        log_sums,
    });
    constant_unless(tracked, output)
}

/// [`attention`] in the tensor library's operations.
pub(crate) fn composed_attention(
    shape: Shape,
    [queries, keys, others]: [Tensor<2>; 3],
    rotation: &Rotation,
) -> Tensor<2> {
    let queries = rotation.turn(shape.split(queries, shape.heads));
    let keys = rotation.turn(shape.split(keys, shape.kv_heads));
    let others = shape.split(others, shape.kv_heads);
    let [batch, ..] = keys.dims();
    let seen = shape.seen(
        0,
        shape.length,
        shape.length,
        &vec![0; batch],
        &keys.device(),
    );
    shape.attend(queries, [keys, others], seen)
}

impl Shape {
    /// `[B, heads, T, E]` of `[B T, heads E]`.
    pub(crate) fn split(&self, rows: Tensor<2>, heads: usize) -> Tensor<4> {
        let [count, _] = rows.dims();
        let batch = count / self.length;
        rows.reshape([batch, self.length, heads, self.head_size])
            .swap_dims(1, 2)
    }

    /// 0 where a query at `start + t` of sequence `b` sees a key, a large negative number elsewhere:
    /// `[B, 1, queries, keys]`. Keys before `begins[b]` are nobody's.
    pub(crate) fn seen(
        &self,
        start: usize,
        queries: usize,
        keys: usize,
        begins: &[usize],
        device: &burn::tensor::Device,
    ) -> Tensor<4> {
        let mut mask = Vec::with_capacity(begins.len() * queries * keys);
        for &begin in begins {
            for query in start..start + queries {
                let first = self
                    .window
                    .map_or(0, |window| (query + 1).saturating_sub(window));
                let first = first.max(begin);
                // Who sees nobody sees himself: a row of padding must be finite.
                let sees = |key| (first..=query).contains(&key) || key == query;
                mask.extend((0..keys).map(|key| if sees(key) { 0.0_f32 } else { -1e9 }));
            }
        }
        let shape = [begins.len(), 1, queries, keys];
        Tensor::from_data(TensorData::new(mask, shape), device)
    }

    /// `[B T, H E]` of turned queries `[B, H, T, E]`, turned keys and values `[B, G, K, E]`.
    pub(crate) fn attend(
        &self,
        queries: Tensor<4>,
        [keys, others]: [Tensor<4>; 2],
        seen: Tensor<4>,
    ) -> Tensor<2> {
        let [batch, heads, length, size] = queries.dims();
        let [_, groups, count, _] = keys.dims();
        // Heads of one group stand one after the other: as rows of one product they share their keys.
        let queries = queries.reshape([batch, groups, heads / groups * length, size]);
        let scores = queries.matmul(keys.swap_dims(2, 3)) * f64::from(self.scale);
        let scores = scores.reshape([batch, heads, length, count]) + seen;
        let probabilities = activation::softmax(scores, 3);
        let probabilities = probabilities.reshape([batch, groups, heads / groups * length, count]);
        let result = probabilities.matmul(others);
        let result = result.reshape([batch, heads, length, size]).swap_dims(1, 2);
        result.reshape([batch * length, heads * size])
    }
}

fn as_inputs(tensors: &[FlexTensor; 3]) -> Inputs<'_> {
    let [queries, keys, others] = tensors.each_ref().map(values);
    Inputs {
        queries,
        keys,
        values: others,
    }
}

fn as_angles(tables: &[FlexTensor; 2]) -> Angles<'_> {
    let [cosines, sines] = tables.each_ref().map(values);
    Angles { cosines, sines }
}

#[derive(Debug)]
struct Attention(Shape);

#[derive(Clone, Debug)]
struct Attended {
    inputs: [FlexTensor; 3],
    angles: [FlexTensor; 2],
    output: FlexTensor,
    log_sums: Vec<f32>,
}

impl Backward<Flex, 3> for Attention {
    type State = Attended;

    fn backward(self, ops: Ops<Attended, 3>, to: &mut Gradients, _: &mut Checkpointer) {
        let gradient = contiguous(to.consume::<Flex>(&ops.node));
        let kept = ops.state;
        let gradients = self.0.backward(
            as_inputs(&kept.inputs),
            as_angles(&kept.angles),
            [values(&kept.output), &kept.log_sums, values(&gradient)],
        );
        let mut gradients = gradients.into_iter().zip(&kept.inputs);
        let gradients = std::array::from_fn(|_| {
            let (gradient, input) = gradients.next().expect("a gradient for each input");
            like(input, gradient)
        });
        register(
            to,
            ops.parents.map(|parent| parent.map(|node| node.id)),
            gradients,
        );
    }
}

/// Last hidden states `[R, D]` and the matrix `[V, D]` that makes logits of them.
#[derive(Clone, Debug)]
pub(crate) struct Logits {
    pub(crate) hidden: Tensor<2>,
    pub(crate) matrix: Tensor<2>,
}

impl Logits {
    fn constants(&self) -> [FlexTensor; 2] {
        [&self.hidden, &self.matrix].map(|tensor| constant(tensor.clone().without_autodiff()))
    }

    fn composed(&self) -> Tensor<2> {
        let logits = self.hidden.clone().matmul(self.matrix.clone().transpose());
        activation::log_softmax(logits, 1)
    }
}

fn head(tensors: &[FlexTensor; 2]) -> Head<'_> {
    let [hidden, matrix] = tensors.each_ref().map(values);
    Head {
        hidden,
        matrix,
        size: tensors[0].layout().shape()[1],
    }
}

/// What each row is, without gradients; `kernels::tokens` has the formulas.
pub(crate) fn measure_tokens(
    policy: &Logits,
    reference: Option<&Logits>,
    targets: &[u32],
) -> Measured {
    if !on_cpu(&policy.hidden) {
        let policy = policy.clone();
        let constant = Logits {
            hidden: policy.hidden.without_autodiff(),
            matrix: policy.matrix.without_autodiff(),
        };
        let (_, measured) = composed_rows(&constant, reference, targets);
        return measured;
    }
    let policy = policy.constants();
    let reference = reference.map(Logits::constants);
    tokens::measure(head(&policy), reference.as_ref().map(head), targets)
}

/// The loss `sum_r -w_r ln p_r(y_r) + k_r KL(q_r || p_r)`, `[1]`, and what each row is.
pub(crate) fn token_loss(
    policy: Logits,
    reference: Option<&Logits>,
    rows: Rows<'_>,
) -> (Tensor<1>, Measured) {
    if !on_cpu(&policy.hidden) {
        return composed_token_loss(&policy, reference, rows);
    }
    let constants = policy.constants();
    let reference = reference.map(Logits::constants);
    let (measured, gradients) =
        tokens::gradients(head(&constants), reference.as_ref().map(head), rows);
    let terms = measured.log_probabilities.iter().zip(&measured.kl);
    let loss: f32 = terms
        .zip(rows.weights.iter().zip(rows.kl_weights))
        .map(|((log_probability, kl), (weight, kl_weight))| {
            kl_weight * kl - weight * log_probability
        })
        .sum();
    let parents = [on_graph(policy.hidden), on_graph(policy.matrix)];
    let loss = operation(TokenLoss, parents, tensor(vec![loss], vec![1]), || {
        let [hidden, matrix] = &constants;
        [
            like(hidden, gradients.hidden),
            like(matrix, gradients.matrix),
        ]
    });
    (loss, measured)
}

/// [`token_loss`] in the tensor library's operations.
pub(crate) fn composed_token_loss(
    policy: &Logits,
    reference: Option<&Logits>,
    rows: Rows<'_>,
) -> (Tensor<1>, Measured) {
    let device = policy.hidden.device();
    let constant = |numbers: &[f32]| {
        Tensor::<1>::from_data(TensorData::new(numbers.to_vec(), [numbers.len()]), &device)
    };
    let ([log_probabilities, kl], measured) = composed_rows(policy, reference, rows.targets);
    let loss = kl * constant(rows.kl_weights) - log_probabilities * constant(rows.weights);
    (loss.sum(), measured)
}

/// `ln p(y)` and `KL(q || p)` of each row, `[R]`.
fn composed_rows(
    policy: &Logits,
    reference: Option<&Logits>,
    targets: &[u32],
) -> ([Tensor<1>; 2], Measured) {
    let count = targets.len();
    let device = policy.hidden.device();
    let targets: Vec<i64> = targets.iter().map(|&token| i64::from(token)).collect();
    let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [count, 1]), &device);
    let logs = policy.composed();
    let of_target = |logs: &Tensor<2>| logs.clone().gather(1, targets.clone()).reshape([count]);
    let log_probabilities: Tensor<1> = of_target(&logs);
    let entropies = -(logs.clone().exp() * logs.clone()).sum_dim(1);
    let others = reference.map(Logits::composed);
    let (of_reference, kl) = match others {
        Some(others) => {
            let kl = (others.clone().exp() * (others.clone() - logs)).sum_dim(1);
            (of_target(&others), kl.reshape([count]))
        }
        None => (
            log_probabilities.zeros_like(),
            log_probabilities.zeros_like(),
        ),
    };
    let host = |tensor: Tensor<1>| -> Vec<f32> {
        let data = tensor.without_autodiff().into_data();
        data.try_into_vec().expect("f32")
    };
    let measured = Measured {
        log_probabilities: host(log_probabilities.clone()),
        reference_log_probabilities: host(of_reference),
        kl: host(kl.clone()),
        entropies: host(entropies.reshape([count])),
    };
    ([log_probabilities, kl], measured)
}

#[derive(Debug)]
struct TokenLoss;

impl Backward<Flex, 2> for TokenLoss {
    type State = [FlexTensor; 2];

    fn backward(self, ops: Ops<Self::State, 2>, to: &mut Gradients, _: &mut Checkpointer) {
        let factor = values(&contiguous(to.consume::<Flex>(&ops.node)))[0];
        let mut gradients = ops.state;
        if factor != 1.0 {
            for gradient in &mut gradients {
                let numbers: &mut [f32] = gradient.storage_mut();
                numbers.iter_mut().for_each(|x| *x *= factor);
            }
        }
        register(
            to,
            ops.parents.map(|parent| parent.map(|node| node.id)),
            gradients,
        );
    }
}

/// The values of a tensor on the graph, in row-major order.
fn inside(tensor: &GraphTensor) -> FlexTensor {
    contiguous(tensor.primitive().clone())
}

fn like(of: &FlexTensor, numbers: Vec<f32>) -> FlexTensor {
    tensor(numbers, of.layout().shape().to_vec())
}

fn register<const N: usize>(
    to: &mut Gradients,
    parents: [Option<NodeId>; N],
    gradients: [FlexTensor; N],
) {
    for (parent, gradient) in parents.into_iter().zip(gradients) {
        if let Some(parent) = parent {
            to.register::<Flex>(parent, gradient);
        }
    }
}

fn constant_unless<const D: usize>(tracked: bool, output: Tensor<D>) -> Tensor<D> {
    match tracked {
        true => output,
        false => output.without_autodiff(),
    }
}
