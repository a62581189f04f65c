//! `pmpo export`: a run's policy for other programs, with everything inside that it needs: the observation's
//! normaliser, and the way from canonical actions to the environment's own.
//!
//! What is written acts with the mode of the policy. Its numbers are the actor's up to the order in which
//! floating-point numbers are added.

mod messages;
mod onnx;
mod pickle;
mod torch;

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::Args;
use pmpo_actor::ActionScale;
use pmpo_policy::{HeadConfig, NetworkConfig, PolicyWeights, snapshot};
use pmpo_service::files::write_atomically;
use pmpo_types::EnvironmentSpec;

use crate::failure::{self, Usage};
use crate::output::answer;
use crate::policies::{Choice, Chosen, ENVIRONMENT};

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Folder of the run, or of one of its checkpoints.
    run_dir: PathBuf,
    /// Which of the run's policies: of the best evaluation, of the newest checkpoint, or of the checkpoint
    /// of a learner step.
    #[arg(long, value_name = "best|newest|STEP", default_value = "best")]
    checkpoint: Choice,
    /// ONNX model: an input a field of the observation, one output, `action`, both with any batch size.
    #[arg(long, value_name = "FILE.onnx")]
    onnx: Option<PathBuf>,
    /// PyTorch state dict; the module that it is for is written beside it, as FILE.py.
    #[arg(long, value_name = "FILE.pt")]
    torch: Option<PathBuf>,
    /// Safetensors whose metadata say everything about the network and its environment.
    #[arg(long, value_name = "FILE.safetensors")]
    safetensors: Option<PathBuf>,
}

/// A policy as all forms take it.
struct Exported {
    weights: PolicyWeights,
    spec: EnvironmentSpec,
    /// Where canonical -1 and 1 lead, `[action_size]` each.
    minimum: Vec<f32>,
    maximum: Vec<f32>,
}

/// Writes each form that was asked for.
pub(crate) fn export(args: &ExportArgs) -> Result<()> {
    if args.onnx.is_none() && args.torch.is_none() && args.safetensors.is_none() {
        let expected = anyhow!("expected at least one of --onnx, --torch and --safetensors");
        return Err(Usage::new(expected).into());
    }
    let chosen = Chosen::load(&args.run_dir, args.checkpoint)?;
    let exported = Exported::new(&chosen)?;
    answer!("{} · {}", chosen.task, chosen.place.display())?;
    if let Some(path) = &args.onnx {
        write(path, &onnx::model(&exported)?)?;
    }
    if let Some(path) = &args.torch {
        let module = path.with_extension("py");
        write(path, &torch::state_dict(&exported)?)?;
        write(&module, torch::module(&exported, path)?.as_bytes())?;
    }
    if let Some(path) = &args.safetensors {
        let entries = exported.entries()?;
        let bytes = snapshot::with_entries(&chosen.snapshot, entries)?;
        write(path, &bytes)?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, bytes).map_err(failure::storage(path))?;
    answer!("{}", path.display())?;
    Ok(())
}

impl Exported {
    fn new(chosen: &Chosen) -> Result<Self> {
        let spec = chosen.spec()?;
        let mut scale = ActionScale::new(&spec.action);
        let mut ends = |canonical: f32| -> Vec<f32> {
            let actions = scale.scale(&vec![canonical; spec.action_size()]);
            actions.iter().map(|&value| value as f32).collect()
        };
        let (minimum, maximum) = (ends(-1.0), ends(1.0));
        Ok(Self {
            weights: snapshot::decode(&chosen.snapshot).map_err(Usage::new)?,
            spec,
            minimum,
            maximum,
        })
    }

    fn network(&self) -> &NetworkConfig {
        &self.weights.network
    }

    /// The values of a tensor of the network's.
    fn tensor(&self, name: &str) -> Result<&pmpo_policy::NamedTensor> {
        let mut tensors = self.weights.tensors.iter();
        let found = tensors.find(|tensor| tensor.name == name);
        found.ok_or_else(|| anyhow!("the policy has no tensor {name}"))
    }

    /// Mean of the observations and what a difference from it is multiplied by, where they are normalised.
    fn normaliser(&self) -> Result<Option<[Vec<f32>; 2]>> {
        if !self.network().normalise_observations {
            return Ok(None);
        }
        let mean = self.tensor("normaliser.mean")?.values.clone();
        let variance = self.tensor("normaliser.variance")?.values.iter();
        let scale = variance.map(|&v| pmpo_policy::normaliser_scale(v));
        Ok(Some([mean, scale.collect()]))
    }

    /// Everything there is to say, as metadata.
    fn entries(&self) -> Result<Vec<(String, String)>> {
        let network = self.network();
        let head = match &network.head {
            HeadConfig::Gaussian(head) if head.squash => {
                "a Gaussian's mean, then tanh: action = tanh(head.mean)"
            }
            HeadConfig::Gaussian(head) if head.tanh_mean => {
                "a Gaussian: action = tanh(head.mean), its standard deviation from head.std"
            }
            HeadConfig::Gaussian(_) => {
                "a Gaussian: action = head.mean within [-1, 1], its standard deviation from head.std"
            }
            HeadConfig::Categorical(_) => {
                "bins of [-1, 1] for each dimension: action = -1 + 2 k / (bins - 1), k the likeliest"
            }
        };
        let normaliser = if network.normalise_observations {
            format!(
                "(x - normaliser.mean) / sqrt(normaliser.variance + {}), within {} either side of 0",
                pmpo_policy::NORMALISER_EPSILON,
                pmpo_policy::NORMALISER_LIMIT
            )
        } else {
            "none".to_owned()
        };
        let json = serde_json::to_string::<EnvironmentSpec>;
        let entries = [
            (ENVIRONMENT, json(&self.spec)?),
            ("task", self.spec.task.clone()),
            ("layers", serde_json::to_string(&network.torso.layers())?),
            (
                "layer_norm_epsilon",
                pmpo_kernels::LAYER_NORM_EPSILON.to_string(),
            ),
            ("head", head.to_owned()),
            ("normaliser", normaliser),
            (
                "observation",
                serde_json::to_string(&self.spec.observation)?,
            ),
            ("action_minimum", serde_json::to_string(&self.minimum)?),
            ("action_maximum", serde_json::to_string(&self.maximum)?),
            (
                "matrices",
                "[in, out]: y = x W + b; the environment's action is \
                 minimum + (action + 1) / 2 (maximum - minimum)"
                    .to_owned(),
            ),
        ];
        Ok(entries.map(|(key, text)| (key.to_owned(), text)).into())
    }
}
