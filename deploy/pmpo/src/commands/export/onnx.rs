//! The policy as an ONNX model (opset 17), from the same plan that actors run.
//!
//! Inputs are the observation's fields by name, `[batch, size]` each, in `float32`; the output `action`
//! `[batch, action_size]` is in the environment's units.

use anyhow::Result;
use pmpo_kernels::{LAYER_NORM_EPSILON, Nonlinearity};
use pmpo_policy::{HeadConfig, HeadPlan, LinearOp, NORMALISER_LIMIT, Op, PolicyPlan};
use prost::Message;

use super::Exported;
use super::messages::{
    ATTRIBUTE_FLOAT, ATTRIBUTE_INT, AttributeProto, Dimension, FLOAT, GraphProto, INT64,
    ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
};

/// `onnx.proto`'s IR version, and the operator set with `LayerNormalization`.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;

/// The model as bytes of a file.
pub(super) fn model(exported: &Exported) -> Result<Vec<u8>> {
    let (weights, spec) = (&exported.weights, &exported.spec);
    let network = exported.network();
    let plan = network.plan(weights.observation_size, weights.action_size)?;
    let mut graph = Graph {
        exported,
        plan: &plan,
        proto: GraphProto {
            name: "policy".to_owned(),
            ..GraphProto::default()
        },
        values: 0,
    };
    let fields = spec.observation.iter();
    graph.proto.input = fields
        .map(|field| floats(&field.name, field.size))
        .collect();
    graph.proto.output = vec![floats("action", spec.action_size())];
    let observation = graph.observation()?;
    let features = graph.operations(&plan.network.torso, observation)?;
    let canonical = graph.mode(features)?;
    graph.scale(canonical);
    let entries = exported.entries()?.into_iter();
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "pmpo".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph.proto),
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: OPSET,
        }],
        metadata_props: entries
            .map(|(key, value)| StringStringEntryProto { key, value })
            .collect(),
    };
    Ok(model.encode_to_vec())
}

/// A graph that grows; values are known by their names.
struct Graph<'a> {
    exported: &'a Exported,
    plan: &'a PolicyPlan,
    proto: GraphProto,
    values: usize,
}

impl Graph<'_> {
    /// Appends a node and answers the name of its output.
    fn node(&mut self, op: &str, input: &[&str], attribute: Vec<AttributeProto>) -> String {
        self.values += 1;
        let name = format!("value_{}", self.values);
        self.named_node(op, input, attribute, &name);
        name
    }

    fn named_node(&mut self, op: &str, input: &[&str], attribute: Vec<AttributeProto>, to: &str) {
        self.proto.node.push(NodeProto {
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: vec![to.to_owned()],
            op_type: op.to_owned(),
            attribute,
        });
    }

    /// A constant `[values.len()]`, or a scalar where `dims` is empty.
    fn constant(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.initializer(name, dims, (FLOAT, bytes.collect()))
    }

    fn initializer(&mut self, name: &str, dims: &[usize], data: (i32, Vec<u8>)) -> String {
        self.proto.initializer.push(TensorProto {
            dims: dims.iter().map(|&size| size as i64).collect(),
            data_type: data.0,
            name: name.to_owned(),
            raw_data: data.1,
        });
        name.to_owned()
    }

    /// A tensor of the network, under its own name; it may be asked for once.
    fn tensor(&mut self, place: usize) -> Result<String> {
        let tensor = self
            .exported
            .tensor(&self.plan.network.tensors[place].name)?;
        Ok(self.constant(&tensor.name, &tensor.shape, &tensor.values))
    }

    /// The fields one after the other, normalised if the network wants that.
    fn observation(&mut self) -> Result<String> {
        let fields = &self.exported.spec.observation;
        let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        let mut observation = match names[..] {
            [only] => only.to_owned(),
            _ => self.node("Concat", &names, vec![int("axis", -1)]),
        };
        if let Some([mean, scale]) = self.exported.normaliser()? {
            let mean = self.constant("normaliser.mean", &[mean.len()], &mean);
            let scale = self.constant("normaliser.scale", &[scale.len()], &scale);
            let centred = self.node("Sub", &[&observation, &mean], vec![]);
            let scaled = self.node("Mul", &[&centred, &scale], vec![]);
            let least = self.constant("normaliser.least", &[], &[-NORMALISER_LIMIT]);
            let most = self.constant("normaliser.most", &[], &[NORMALISER_LIMIT]);
            observation = self.node("Clip", &[&scaled, &least, &most], vec![]);
        }
        Ok(observation)
    }

    fn operations(&mut self, ops: &[Op], input: String) -> Result<String> {
        let mut value = input;
        for op in ops {
            value = match op {
                Op::Linear(linear) => self.linear(linear, &value)?,
                Op::LayerNorm { norm, nonlinearity } => {
                    let value = self.layer_norm(*norm, &value)?;
                    self.activation(*nonlinearity, value)
                }
                Op::Activation(nonlinearity) => self.activation(*nonlinearity, value),
                Op::Residual(inner) => {
                    let inner = self.operations(inner, value.clone())?;
                    self.node("Add", &[&value, &inner], vec![])
                }
            };
        }
        Ok(value)
    }

    fn linear(&mut self, op: &LinearOp, input: &str) -> Result<String> {
        let weight = self.tensor(op.weight)?;
        let bias = self.tensor(op.bias)?;
        // With its defaults: `x W + b`.
        let mut value = self.node("Gemm", &[input, &weight, &bias], vec![]);
        if let Some(norm) = op.norm {
            value = self.layer_norm(norm, &value)?;
        }
        Ok(self.activation(op.nonlinearity, value))
    }

    fn layer_norm(&mut self, [gamma, beta]: [usize; 2], input: &str) -> Result<String> {
        let (gamma, beta) = (self.tensor(gamma)?, self.tensor(beta)?);
        let epsilon = float("epsilon", LAYER_NORM_EPSILON as f32);
        let attributes = vec![int("axis", -1), epsilon];
        Ok(self.node("LayerNormalization", &[input, &gamma, &beta], attributes))
    }

    fn activation(&mut self, nonlinearity: Nonlinearity, input: String) -> String {
        let op = match nonlinearity {
            Nonlinearity::Identity => return input,
            Nonlinearity::Relu => "Relu",
            Nonlinearity::Elu => "Elu",
            Nonlinearity::Tanh => "Tanh",
            Nonlinearity::Softplus => "Softplus",
        };
        self.node(op, &[&input], vec![])
    }

    /// The most likely canonical action, within [-1, 1].
    fn mode(&mut self, features: String) -> Result<String> {
        let network = &self.exported.weights.network;
        match (self.plan.head, &network.head) {
            (HeadPlan::Gaussian { mean, .. }, HeadConfig::Gaussian(head)) => {
                let mut mean = self.linear(&mean, &features)?;
                if head.squash {
                    mean = self.activation(Nonlinearity::Tanh, mean);
                }
                let least = self.constant("canonical.least", &[], &[-1.0]);
                let most = self.constant("canonical.most", &[], &[1.0]);
                Ok(self.node("Clip", &[&mean, &least, &most], vec![]))
            }
            (HeadPlan::Categorical { logits }, HeadConfig::Categorical(head)) => {
                let logits = self.linear(&logits, &features)?;
                let actions = self.exported.spec.action_size();
                let shape = [0, actions as i64, head.bins as i64].map(i64::to_le_bytes);
                let shape = (INT64, shape.concat());
                let shape = self.initializer("head.shape", &[3], shape);
                let by_dimension = self.node("Reshape", &[&logits, &shape], vec![]);
                let attributes = vec![int("axis", -1), int("keepdims", 0)];
                let best = self.node("ArgMax", &[&by_dimension], attributes);
                let bins: Vec<f32> = (0..head.bins).map(|bin| head.action(bin)).collect();
                let bins = self.constant("head.actions", &[head.bins], &bins);
                Ok(self.node("Gather", &[&bins, &best], vec![]))
            }
            _ => unreachable!("a plan has the head of its network"),
        }
    }

    /// `minimum + (canonical + 1) / 2 (maximum - minimum)`, within both.
    fn scale(&mut self, canonical: String) {
        let (minimum, maximum) = (&self.exported.minimum, &self.exported.maximum);
        let size = [minimum.len()];
        let range = minimum.iter().zip(maximum).map(|(low, high)| high - low);
        let range: Vec<f32> = range.collect();
        let minimum = self.constant("action.minimum", &size, minimum);
        let maximum = self.constant("action.maximum", &size, maximum);
        let range = self.constant("action.range", &size, &range);
        let one = self.constant("action.one", &[], &[1.0]);
        let half = self.constant("action.half", &[], &[0.5]);
        let from_zero = self.node("Add", &[&canonical, &one], vec![]);
        let share = self.node("Mul", &[&from_zero, &half], vec![]);
        let part = self.node("Mul", &[&share, &range], vec![]);
        let action = self.node("Add", &[&part, &minimum], vec![]);
        // Rounding must not leave the bounds.
        let action = self.node("Max", &[&action, &minimum], vec![]);
        self.named_node("Min", &[&action, &maximum], vec![], "action");
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: Some(value),
        r#type: ATTRIBUTE_INT,
        ..AttributeProto::default()
    }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        f: Some(value),
        r#type: ATTRIBUTE_FLOAT,
        ..AttributeProto::default()
    }
}

/// `[batch, size]` of `float32`.
fn floats(name: &str, size: usize) -> ValueInfoProto {
    let batch = Dimension {
        dim_value: None,
        dim_param: Some("batch".to_owned()),
    };
    let size = Dimension {
        dim_value: Some(size as i64),
        dim_param: None,
    };
    let shape = TensorShapeProto {
        dim: vec![batch, size],
    };
    let tensor = TensorType {
        elem_type: FLOAT,
        shape: Some(shape),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor),
        }),
    }
}
