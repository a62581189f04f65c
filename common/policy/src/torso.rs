//! The layers of a policy at batch 1, without allocation: the [`Op`]s of its plan with their weights.

use pmpo_kernels::simd::{Kernel, dispatch};
use pmpo_kernels::{Nonlinearity, normalise};

use crate::linear::Linear;
use crate::snapshot::Tensors;
use crate::{LinearOp, Op, Plan, SnapshotError};

/// Added to the variance of an observation's element before its root is taken.
pub const NORMALISER_EPSILON: f32 = 1e-4;
/// Normalised observations are kept within this, either side of 0.
pub const NORMALISER_LIMIT: f32 = 10.0;

/// A torso with its weights and the outputs of its layers.
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

    /// Computes [`Self::features`] of an observation.
    #[inline(always)]
    pub(crate) fn forward<const FMA: bool>(&mut self, observation: &[f32]) {
        let input = match &mut self.normaliser {
            Some(normaliser) => normaliser.forward(observation),
            None => observation,
        };
        forward::<FMA>(&mut self.stages, input);
    }

    /// Output of the last layer.
    pub(crate) fn features(&self) -> &[f32] {
        let last = self.stages.last().expect("at least one layer");
        &last.output[..self.features]
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
            output: vec![0.0; mean.len()],
            scale: scale.collect(),
            mean,
        })
    }

    fn forward(&mut self, observation: &[f32]) -> &[f32] {
        let statistics = self.mean.iter().zip(&self.scale);
        for ((output, x), (mean, scale)) in self.output.iter_mut().zip(observation).zip(statistics)
        {
            *output = normalised(*x, *mean, *scale);
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
    /// Of [`Operation::Linear`] with its padding.
    output: Vec<f32>,
    outputs: usize,
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
        let (operation, length, outputs) = match op {
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
            output: vec![0.0; length],
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
fn forward<const FMA: bool>(stages: &mut [Stage], input: &[f32]) {
    let mut done: &[f32] = input;
    for stage in stages {
        let output = stage.output.as_mut_slice();
        match &mut stage.operation {
            Operation::Linear {
                linear,
                norm,
                nonlinearity,
            } => {
                linear.forward::<FMA>(done, output);
                let output = &mut output[..stage.outputs];
                if let Some(norm) = norm {
                    normalise::<FMA>(output, &norm.gamma, &norm.beta);
                }
                nonlinearity.apply::<FMA>(output);
            }
            Operation::LayerNorm { norm, nonlinearity } => {
                output.copy_from_slice(done);
                normalise::<FMA>(output, &norm.gamma, &norm.beta);
                nonlinearity.apply::<FMA>(output);
            }
            Operation::Activation(nonlinearity) => {
                output.copy_from_slice(done);
                nonlinearity.apply::<FMA>(output);
            }
            Operation::Residual(inner) => dispatch(Residual {
                inner,
                input: done,
                output,
            }),
        }
        done = &stage.output[..stage.outputs];
    }
}

/// `output = input + f(input)`. Dispatched on its own, for a recursion cannot be inlined into the one
/// that is under way.
struct Residual<'a> {
    inner: &'a mut [Stage],
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Residual<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        forward::<FMA>(self.inner, self.input);
        self.output.copy_from_slice(self.input);
        if let Some(last) = self.inner.last() {
            let inner = &last.output[..last.outputs];
            self.output.iter_mut().zip(inner).for_each(|(x, f)| *x += f);
        }
    }
}
