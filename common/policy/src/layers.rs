//! The one description of a network: a list of [`Layer`]s. From it come the tensors' names and shapes
//! ([`TensorSpec`]), what the learner's tensor library computes and what an actor computes at batch 1:
//! both run the [`Op`]s that [`Plan`] makes of the list.
//!
//! Tensors are named by the place of their layer in the list, `torso.3.weight`, and within a residual
//! block by both places, `torso.4.1.weight`. Matrices are `[in, out]`: `y = x W + b`.

use pmpo_kernels::Nonlinearity;
use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

use crate::NamedTensor;

/// Layers of a list at most, those of its blocks included.
const MAX_LAYERS: usize = 256;
/// Widest layer.
pub(crate) const MAX_WIDTH: usize = 16_384;

/// One layer. In TOML: `{ linear = 256 }`, `"layer_norm"`, `"relu"`, `{ residual = [...] }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// `x W + b` with so many outputs.
    Linear(usize),
    /// Layer normalisation (Ba, Kiros and Hinton 2016) over the features.
    LayerNorm,
    /// `max(x, 0)`.
    Relu,
    /// `x` where positive, else `e^x - 1`.
    Elu,
    /// Hyperbolic tangent.
    Tanh,
    /// `x + f(x)`, where `f` is these layers and keeps the number of features.
    Residual(Vec<Layer>),
}

/// How the values of a fresh tensor are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Uniform around 0 with this variance times the number of inputs.
    Uniform(f64),
    /// All the same.
    Constant(f32),
}

/// Variance of a torso's weights times the number of inputs, as Acme's `uniform` initialiser.
const TORSO_INIT: Init = Init::Uniform(1.0 / 3.0);
/// The same of an output layer, which starts near zero.
const OUTPUT_INIT: Init = Init::Uniform(1e-4);

/// A tensor of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Its name in snapshots and checkpoints.
    pub name: String,
    /// Its shape, one or two axes.
    pub shape: Vec<usize>,
    /// Whether gradients move it; a normaliser's tensors are moved by other means.
    pub trained: bool,
    /// Its first values.
    pub init: Init,
}

impl TensorSpec {
    /// Number of its values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The tensor with a value for each place, row-major.
    pub fn filled(&self, value: impl FnMut(usize) -> f32) -> NamedTensor {
        NamedTensor {
            name: self.name.clone(),
            shape: self.shape.clone(),
            values: (0..self.elements()).map(value).collect(),
        }
    }
}

/// What is computed at once; tensors are given by their places in [`Plan::tensors`].
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `f(x W + b)`, or `f(LayerNorm(x W + b))`.
    Linear(LinearOp),
    /// `f(LayerNorm(x))`.
    LayerNorm {
        /// Gamma and beta.
        norm: [usize; 2],
        /// `f`.
        nonlinearity: Nonlinearity,
    },
    /// `f(x)`.
    Activation(Nonlinearity),
    /// `x` plus what these make of it.
    Residual(Vec<Op>),
}

/// A linear layer with what directly follows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearOp {
    /// `[I, O]`.
    pub weight: usize,
    /// `[O]`.
    pub bias: usize,
    /// Gamma and beta of a layer normalisation, `[O]` each.
    pub norm: Option<[usize; 2]>,
    /// What it ends in.
    pub nonlinearity: Nonlinearity,
}

/// Operations over shared tensors: of a torso and the layers that its features go to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The tensors, in the order that a fresh network draws them.
    pub tensors: Vec<TensorSpec>,
    /// The torso.
    pub torso: Vec<Op>,
    /// Number of the torso's features.
    pub features: usize,
}

impl Plan {
    /// The plan of a torso over inputs of size `inputs`.
    ///
    /// # Errors
    /// A width is out of range, or a residual block changes the number of features.
    pub fn torso(layers: &[Layer], inputs: usize) -> Result<Self, ConfigError> {
        let mut plan = Self::default();
        let mut left = MAX_LAYERS;
        (plan.torso, plan.features) = plan.compile(layers, "torso", inputs, &mut left)?;
        Ok(plan)
    }

    /// Appends an output layer over the torso's features.
    pub fn output(&mut self, name: &str, outputs: usize, nonlinearity: Nonlinearity) -> LinearOp {
        let [weight, bias] = self.linear(name, [self.features, outputs], OUTPUT_INIT);
        LinearOp {
            weight,
            bias,
            norm: None,
            nonlinearity,
        }
    }

    fn compile(
        &mut self,
        layers: &[Layer],
        prefix: &str,
        inputs: usize,
        left: &mut usize,
    ) -> Result<(Vec<Op>, usize), ConfigError> {
        let mut ops = Vec::new();
        let mut width = inputs;
        for (i, layer) in layers.iter().enumerate() {
            let name = format!("{prefix}.{i}");
            *left = left.checked_sub(1).ok_or_else(|| {
                ConfigError::new("layers", format!("at most {MAX_LAYERS}"), "more")
            })?;
            match layer {
                Layer::Linear(outputs) => {
                    if !(1..=MAX_WIDTH).contains(outputs) {
                        let expected = format!("widths from 1 to {MAX_WIDTH}");
                        return Err(ConfigError::new("layers", expected, outputs));
                    }
                    let [weight, bias] = self.linear(&name, [width, *outputs], TORSO_INIT);
                    ops.push(Op::Linear(LinearOp {
                        weight,
                        bias,
                        norm: None,
                        nonlinearity: Nonlinearity::Identity,
                    }));
                    width = *outputs;
                }
                Layer::LayerNorm => {
                    let norm = self.layer_norm(&name, width);
                    match ops.last_mut() {
                        Some(Op::Linear(linear))
                            if linear.norm.is_none()
                                && linear.nonlinearity == Nonlinearity::Identity =>
                        {
                            linear.norm = Some(norm);
                        }
                        _ => ops.push(Op::LayerNorm {
                            norm,
                            nonlinearity: Nonlinearity::Identity,
                        }),
                    }
                }
                Layer::Relu => activate(&mut ops, Nonlinearity::Relu),
                Layer::Elu => activate(&mut ops, Nonlinearity::Elu),
                Layer::Tanh => activate(&mut ops, Nonlinearity::Tanh),
                Layer::Residual(inner) => {
                    let (inner, outputs) = self.compile(inner, &name, width, left)?;
                    if outputs != width {
                        let expected =
                            format!("{width} outputs of a residual block, as its inputs");
                        return Err(ConfigError::new("layers", expected, outputs));
                    }
                    ops.push(Op::Residual(inner));
                }
            }
        }
        Ok((ops, width))
    }

    fn linear(&mut self, name: &str, [inputs, outputs]: [usize; 2], init: Init) -> [usize; 2] {
        [
            self.tensor(format!("{name}.weight"), vec![inputs, outputs], init),
            self.tensor(format!("{name}.bias"), vec![outputs], Init::Constant(0.0)),
        ]
    }

    fn layer_norm(&mut self, name: &str, width: usize) -> [usize; 2] {
        [("gamma", 1.0), ("beta", 0.0)].map(|(part, value)| {
            let name = format!("{name}.{part}");
            self.tensor(name, vec![width], Init::Constant(value))
        })
    }

    /// Appends a tensor that gradients move; answers its place.
    fn tensor(&mut self, name: String, shape: Vec<usize>, init: Init) -> usize {
        self.tensors.push(TensorSpec {
            name,
            shape,
            trained: true,
            init,
        });
        self.tensors.len() - 1
    }

    /// Appends a tensor that gradients do not move; answers its place.
    pub(crate) fn untrained(&mut self, name: &str, size: usize, init: f32) -> usize {
        self.tensors.push(TensorSpec {
            name: name.to_owned(),
            shape: vec![size],
            trained: false,
            init: Init::Constant(init),
        });
        self.tensors.len() - 1
    }
}

/// Appends an activation, to the operation before it if that has none.
fn activate(ops: &mut Vec<Op>, activation: Nonlinearity) {
    match ops.last_mut() {
        Some(
            Op::Linear(LinearOp { nonlinearity, .. })
            | Op::LayerNorm { nonlinearity, .. }
            | Op::Activation(nonlinearity),
        ) if *nonlinearity == Nonlinearity::Identity => *nonlinearity = activation,
        _ => ops.push(Op::Activation(activation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plan: &Plan) -> Vec<(&str, &[usize])> {
        let tensors = plan.tensors.iter();
        tensors
            .map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()))
            .collect()
    }

    #[test]
    fn what_follows_a_linear_layer_is_done_with_it() {
        use Layer::{Elu, LayerNorm, Linear, Relu, Residual, Tanh};
        let layers = [
            Linear(8),
            LayerNorm,
            Tanh,
            Residual(vec![LayerNorm, Linear(16), Relu, Linear(8)]),
            LayerNorm,
            Elu,
            Relu,
        ];
        let mut plan = Plan::torso(&layers, 3).unwrap();
        plan.output("value", 2, Nonlinearity::Identity);
        assert_eq!(plan.features, 8);
        let expected: [(&str, &[usize]); 14] = [
            ("torso.0.weight", &[3, 8]),
            ("torso.0.bias", &[8]),
            ("torso.1.gamma", &[8]),
            ("torso.1.beta", &[8]),
            ("torso.3.0.gamma", &[8]),
            ("torso.3.0.beta", &[8]),
            ("torso.3.1.weight", &[8, 16]),
            ("torso.3.1.bias", &[16]),
            ("torso.3.3.weight", &[16, 8]),
            ("torso.3.3.bias", &[8]),
            ("torso.4.gamma", &[8]),
            ("torso.4.beta", &[8]),
            ("value.weight", &[8, 2]),
            ("value.bias", &[2]),
        ];
        assert_eq!(names(&plan), expected);
        let linear = |weight, norm, nonlinearity| {
            Op::Linear(LinearOp {
                weight,
                bias: weight + 1,
                norm,
                nonlinearity,
            })
        };
        let block = vec![
            Op::LayerNorm {
                norm: [4, 5],
                nonlinearity: Nonlinearity::Identity,
            },
            linear(6, None, Nonlinearity::Relu),
            linear(8, None, Nonlinearity::Identity),
        ];
        assert_eq!(
            plan.torso,
            [
                linear(0, Some([2, 3]), Nonlinearity::Tanh),
                Op::Residual(block),
                Op::LayerNorm {
                    norm: [10, 11],
                    nonlinearity: Nonlinearity::Elu,
                },
                Op::Activation(Nonlinearity::Relu),
            ]
        );
    }

    #[test]
    fn refuses_what_cannot_be_built() {
        let refused = |layers: &[Layer]| Plan::torso(layers, 3).unwrap_err().to_string();
        assert_eq!(
            refused(&[Layer::Linear(0)]),
            "layers: expected widths from 1 to 16384, got 0"
        );
        assert_eq!(
            refused(&[Layer::Residual(vec![Layer::Linear(4)])]),
            "layers: expected 3 outputs of a residual block, as its inputs, got 4"
        );
        let many = vec![Layer::Relu; 300];
        assert_eq!(refused(&many), "layers: expected at most 256, got more");
    }
}
