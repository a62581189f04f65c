//! The policy for PyTorch: a state dict, and the module that it is for as a few lines of Python.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use pmpo_policy::{HeadConfig, Layer, NORMALISER_LIMIT};

use super::Exported;
use super::pickle::{Entry, archive};

/// The state dict, as `torch.save` writes it.
pub(super) fn state_dict(exported: &Exported) -> Result<Vec<u8>> {
    let vector = |name: &str, values: &[f32]| Entry {
        name: name.to_owned(),
        shape: vec![values.len()],
        values: values.to_vec(),
    };
    let mut entries = vec![
        vector("minimum", &exported.minimum),
        vector("maximum", &exported.maximum),
    ];
    if let Some([mean, scale]) = exported.normaliser()? {
        entries.push(vector("observation_mean", &mean));
        entries.push(vector("observation_scale", &scale));
    }
    let tensors = exported.weights.tensors.iter();
    let trained = tensors.filter(|tensor| !tensor.name.starts_with("normaliser."));
    entries.extend(trained.map(|tensor| {
        let (shape, values) = match tensor.shape[..] {
            // PyTorch's matrices are `[out, in]`.
            [inputs, outputs] => {
                let at = |i: usize| tensor.values[i % inputs * outputs + i / inputs];
                let transposed = (0..inputs * outputs).map(at).collect();
                (vec![outputs, inputs], transposed)
            }
            _ => (tensor.shape.clone(), tensor.values.clone()),
        };
        Entry {
            name: name(&tensor.name),
            shape,
            values,
        }
    }));
    archive(&entries)
}

/// `torch.nn`'s name of a tensor.
fn name(ours: &str) -> String {
    let name = ours.strip_prefix("head.").unwrap_or(ours);
    match name.rsplit_once('.') {
        Some((layer, "gamma")) => format!("{layer}.weight"),
        Some((layer, "beta")) => format!("{layer}.bias"),
        _ => name.to_owned(),
    }
}

/// The module's source; `file` is where its state dict is.
pub(super) fn module(exported: &Exported, file: &Path) -> Result<String> {
    let (weights, spec) = (&exported.weights, &exported.spec);
    let (inputs, outputs) = (weights.observation_size, weights.action_size);
    let fields = spec.observation.iter();
    let fields: Vec<String> = fields.map(|f| format!("{} [{}]", f.name, f.size)).collect();
    let file = file.file_name().unwrap_or_default().to_string_lossy();
    let layers = exported.network().torso.layers();
    let (torso, features) = sequential(&layers, inputs);
    let normalised = exported.network().normalise_observations;
    let residual = layers
        .iter()
        .any(|layer| matches!(layer, Layer::Residual(_)));
    let mut out = format!(
        "\"\"\"The policy of {}; its state dict is in {file}.\"\"\"\nimport torch\nfrom torch import nn\n\n\n",
        spec.task
    );
    if residual {
        out += "class Residual(nn.Sequential):\n    def forward(self, x):\n        \
                return x + super().forward(x)\n\n\n";
    }
    write!(
        out,
        "class Policy(nn.Module):\n    \"\"\"Observations [..., {inputs}] ({}) to actions [..., {outputs}], in the \
         environment's units.\"\"\"\n\n    def __init__(self):\n        super().__init__()\n        \
         self.torso = {torso}\n",
        fields.join(", ")
    )?;
    let buffers = |names: &str, size: usize| {
        format!(
            "        for name in {names}:\n            self.register_buffer(name, torch.zeros({size}))\n"
        )
    };
    let mut forward = "observation".to_owned();
    let mut all = String::new();
    if normalised {
        all += &buffers("(\"observation_mean\", \"observation_scale\")", inputs);
        forward = format!(
            "((observation - self.observation_mean) * self.observation_scale).clamp(-{NORMALISER_LIMIT:?}, {NORMALISER_LIMIT:?})"
        );
    }
    all += &buffers("(\"minimum\", \"maximum\")", outputs);
    let (heads, mode) = head(exported, features);
    write!(
        out,
        "{heads}{all}\n    def forward(self, observation):\n        x = self.torso({forward})\n{mode}        \
         share = 0.5 * (action.clamp(-1.0, 1.0) + 1.0)\n        \
         return self.minimum + share * (self.maximum - self.minimum)\n\n\n\
         def load(path):\n    policy = Policy()\n    policy.load_state_dict(torch.load(path))\n    return policy.eval()\n"
    )?;
    Ok(out)
}

/// The layers in `torch.nn`'s words, and the number of features that they end in.
fn sequential(layers: &[Layer], inputs: usize) -> (String, usize) {
    let mut width = inputs;
    let mut words = Vec::new();
    for layer in layers {
        words.push(match layer {
            Layer::Linear(outputs) => {
                let word = format!("nn.Linear({width}, {outputs})");
                width = *outputs;
                word
            }
            Layer::LayerNorm => format!("nn.LayerNorm({width})"),
            Layer::Relu => "nn.ReLU()".to_owned(),
            Layer::Elu => "nn.ELU()".to_owned(),
            Layer::Tanh => "nn.Tanh()".to_owned(),
            Layer::Residual(inner) => {
                let (inner, _) = sequential(inner, width);
                inner.replacen("nn.Sequential", "Residual", 1)
            }
        });
    }
    (format!("nn.Sequential({})", words.join(", ")), width)
}

/// The lines that make the head's layers, and those that take its most likely action.
fn head(exported: &Exported, features: usize) -> (String, String) {
    let outputs = exported.weights.action_size;
    match &exported.network().head {
        HeadConfig::Gaussian(head) => {
            let layer =
                |name: &str| format!("        self.{name} = nn.Linear({features}, {outputs})\n");
            let mean = if head.tanh_mean || head.squash {
                "torch.tanh(self.mean(x))"
            } else {
                "self.mean(x)"
            };
            (
                layer("mean") + &layer("std"),
                format!("        action = {mean}\n"),
            )
        }
        HeadConfig::Categorical(head) => {
            let bins = head.bins;
            (
                format!(
                    "        self.logits = nn.Linear({features}, {})\n",
                    outputs * bins
                ),
                format!(
                    "        best = self.logits(x).unflatten(-1, ({outputs}, {bins})).argmax(-1)\n        \
                     action = -1.0 + 2.0 * best / {}\n",
                    bins - 1
                ),
            )
        }
    }
}
