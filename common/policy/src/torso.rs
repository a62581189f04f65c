//! The layers of a policy, without allocation once a batch of its size was there: the [`Op`]s of its plan with
//! their weights. A row's numbers do not depend on how many there are.

use pmpo_kernels::simd::{Kernel, dispatch};
use pmpo_kernels::{Nonlinearity, normalise};

use crate::linear::Linear;
use crate::snapshot::Tensors;
use crate::{LinearOp, Op, Plan, SnapshotError};

/// Added to the variance of an observation's element before its root is taken.
pub const NORMALISER_EPSILON: f32 = 1e-4;
/// Normalised observations are kept within this, either side of 0.
pub const NORMALISER_LIMIT: f32 = 10.0;

/// A torso with its weights and the outputs of its layers, for as many rows as were asked for last.
#[derive(Clone, Debug)]
pub(crate) struct Torso {
    normaliser: Option<ObservationNormaliser>,
    stages: Vec<Stage>,
    features: usize,
}

impl Torso {
    pub(crate) fn new(
        plan: &Plan,
        normaliser: Option<[usize; 2]>,
        tensors: &Tensors<'_>,
    ) -> Result<Self, SnapshotError> {
        Ok(Self {
            normaliser: normaliser
                .map(|places| ObservationNormaliser::new(plan, places, tensors))
                .transpose()?,
            stages: stages(plan, &plan.torso, tensors)?,
            features: plan.features,
        })
    }

    /// Computes [`Self::features`] of observations `[rows, observation_size]`.
    #[inline(always)]
    pub(crate) fn forward<const FMA: bool>(&mut self, observations: &[f32], rows: usize) {
        let values = match &mut self.normaliser {
            Some(normaliser) => normaliser.forward(observations),
            None => observations,
        };
        let width = values.len() / rows.max(1);
        forward::<FMA>(
            &mut self.stages,
            Batch {
                values,
                width,
                rows,
            },
        );
    }

    /// Output of the last layer for a row.
    pub(crate) fn features(&self, row: usize) -> &[f32] {
        let last = self.stages.last().expect("at least one layer");
        &last.output[row * last.width..][..self.features]
    }
}

/// `(x - mean) / sqrt(variance + epsilon)`, within the limit.
#[derive(Clone, Debug)]
struct ObservationNormaliser {
    mean: Vec<f32>,
    scale: Vec<f32>,
    output: Vec<f32>,
}

impl ObservationNormaliser {
    fn new(plan: &Plan, places: [usize; 2], tensors: &Tensors<'_>) -> Result<Self, SnapshotError> {
        let [mean, variance] = places.map(|place| tensors.get(&plan.tensors[place].name));
        let mean = mean?.values.clone();
        let scale = variance?.values.iter().map(|&v| normaliser_scale(v));
        Ok(Self {
            output: Vec::new(),
            scale: scale.collect(),
            mean,
        })
    }

    fn forward(&mut self, observations: &[f32]) -> &[f32] {
        self.output.clear();
        for observation in observations.chunks_exact(self.mean.len()) {
            let statistics = self.mean.iter().zip(&self.scale);
            let elements = observation.iter().zip(statistics);
            self.output
                .extend(elements.map(|(x, (mean, scale))| normalised(*x, *mean, *scale)));
        }
        &self.output
    }
}

/// What an element of an observation is multiplied by, once its mean is taken away.
pub fn normaliser_scale(variance: f32) -> f32 {
    1.0 / (variance.max(0.0) + NORMALISER_EPSILON).sqrt()
}

/// A normalised element of an observation.
#[inline(always)]
pub fn normalised(x: f32, mean: f32, scale: f32) -> f32 {
    ((x - mean) * scale).clamp(-NORMALISER_LIMIT, NORMALISER_LIMIT)
}

/// An operation and its output.
#[derive(Clone, Debug)]
struct Stage {
    operation: Operation,
    /// `[rows, width]`.
    output: Vec<f32>,
    /// `outputs`, and the padding of [`Operation::Linear`].
    width: usize,
    outputs: usize,
}

/// What goes into an operation, `[rows, width]`; what it does not ask for is padding.
#[derive(Clone, Copy)]
struct Batch<'a> {
    values: &'a [f32],
    width: usize,
    rows: usize,
}

#[derive(Clone, Debug)]
enum Operation {
    Linear {
        linear: Linear,
        norm: Option<Norm>,
        nonlinearity: Nonlinearity,
    },
    LayerNorm {
        norm: Norm,
        nonlinearity: Nonlinearity,
    },
    Activation(Nonlinearity),
    Residual(Vec<Stage>),
}

#[derive(Clone, Debug)]
struct Norm {
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

/// Stages for operations that follow one another; what each gives is what its first tensor or the one
/// before it says.
fn stages(plan: &Plan, ops: &[Op], tensors: &Tensors<'_>) -> Result<Vec<Stage>, SnapshotError> {
    let mut stages: Vec<Stage> = Vec::with_capacity(ops.len());
    let get = |place: usize| tensors.get(&plan.tensors[place].name);
    let norm = |[gamma, beta]: [usize; 2]| {
        Ok::<_, SnapshotError>(Norm {
            gamma: get(gamma)?.values.clone(),
            beta: get(beta)?.values.clone(),
        })
    };
    for op in ops {
        let before = stages.last().map_or(0, |stage| stage.outputs);
        let (operation, width, outputs) = match op {
            Op::Linear(op) => {
                let linear = linear(plan, &[*op], tensors)?;
                let (padded, outputs) = (linear.padded_outputs(), get(op.bias)?.values.len());
                let operation = Operation::Linear {
                    linear,
                    norm: op.norm.map(norm).transpose()?,
                    nonlinearity: op.nonlinearity,
                };
                (operation, padded, outputs)
            }
            Op::LayerNorm {
                norm: places,
                nonlinearity,
            } => {
                let norm = norm(*places)?;
                let outputs = norm.gamma.len();
                let nonlinearity = *nonlinearity;
                (
                    Operation::LayerNorm { norm, nonlinearity },
                    outputs,
                    outputs,
                )
            }
            Op::Activation(nonlinearity) => (Operation::Activation(*nonlinearity), before, before),
            Op::Residual(inner) => {
                let inner = self::stages(plan, inner, tensors)?;
                let outputs = inner.last().map_or(before, |stage| stage.outputs);
                (Operation::Residual(inner), outputs, outputs)
            }
        };
        stages.push(Stage {
            operation,
            output: vec![0.0; width],
            width,
            outputs,
        });
    }
    Ok(stages)
}

/// The layers `ops`, over the same input, side by side.
pub(crate) fn linear(
    plan: &Plan,
    ops: &[LinearOp],
    tensors: &Tensors<'_>,
) -> Result<Linear, SnapshotError> {
    let parts = ops.iter().map(|op| {
        let [weight, bias] = [op.weight, op.bias].map(|place| &plan.tensors[place].name);
        Ok((tensors.get(weight)?, tensors.get(bias)?))
    });
    Ok(Linear::new(
        &parts.collect::<Result<Vec<_>, SnapshotError>>()?,
    ))
}

#[inline(always)]
fn forward<const FMA: bool>(stages: &mut [Stage], input: Batch<'_>) {
    let mut done = input;
    for stage in stages {
        let (width, outputs) = (stage.width, stage.outputs);
        stage.output.resize(done.rows * width, 0.0);
        let output = stage.output.as_mut_slice();
        match &mut stage.operation {
            Operation::Linear {
                linear,
                norm,
                nonlinearity,
            } => {
                linear.forward::<FMA>(done.values, done.width, output);
                for output in output.chunks_exact_mut(width) {
                    let output = &mut output[..outputs];
                    if let Some(norm) = norm {
                        normalise::<FMA>(output, &norm.gamma, &norm.beta);
                    }
                    nonlinearity.apply::<FMA>(output);
                }
            }
            Operation::LayerNorm { norm, nonlinearity } => {
                copy(done, outputs, output);
                for output in output.chunks_exact_mut(outputs) {
                    normalise::<FMA>(output, &norm.gamma, &norm.beta);
                    nonlinearity.apply::<FMA>(output);
                }
            }
            Operation::Activation(nonlinearity) => {
                copy(done, outputs, output);
                nonlinearity.apply::<FMA>(output);
            }
            Operation::Residual(inner) => {
                copy(done, outputs, output);
                dispatch(Residual {
                    inner,
                    input: done,
                    output,
                });
            }
        }
        done = Batch {
            values: &stage.output,
            width,
            rows: done.rows,
        };
    }
}

/// The rows of `input` without their padding, `[rows, size]`.
fn copy(input: Batch<'_>, size: usize, output: &mut [f32]) {
    let rows = input.values.chunks_exact(input.width);
    for (output, input) in output.chunks_exact_mut(size).zip(rows) {
        output.copy_from_slice(&input[..size]);
    }
}

/// Adds `f(input)` to `output`. Dispatched on its own, for a recursion cannot be inlined into the one
/// that is under way.
struct Residual<'a> {
    inner: &'a mut [Stage],
    input: Batch<'a>,
    /// `[rows, size]`.
    output: &'a mut [f32],
}

impl Kernel for Residual<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        forward::<FMA>(self.inner, self.input);
        if let Some(last) = self.inner.last() {
            let inner = last.output.chunks_exact(last.width);
            for (output, inner) in self.output.chunks_exact_mut(last.outputs).zip(inner) {
                output.iter_mut().zip(inner).for_each(|(x, f)| *x += f);
            }
        }
    }
}
