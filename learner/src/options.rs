//! What a learner is told when it starts, and what it tells when it ends.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use burn::tensor::Device;
use pmpo_policy::NetworkConfig;
use pmpo_service::security::Credentials;
use pmpo_types::EnvironmentSpec;
use serde::{Deserialize, Serialize};

use crate::{ConfigError, LearnerConfig, LearnerError};

/// A run, from the learner's side.
#[derive(Clone, Debug)]
pub struct LearnerOptions {
    /// Name of the run, for logs and actors.
    pub run_id: String,
    /// Task, as `domain-task`.
    pub task: String,
    /// Every generator of the run is seeded from this.
    pub seed: u64,
    /// The task's observations and actions.
    pub spec: EnvironmentSpec,
    /// The policy's network; the critic has the same torso.
    pub policy: NetworkConfig,
    /// The update.
    pub learner: LearnerConfig,
    /// When the run ends.
    pub limits: Limits,
    /// Addresses of the replay service's shards, `host:port` each.
    pub replay_addresses: Vec<String>,
    /// What those are shown.
    pub credentials: Credentials,
    /// Folder for checkpoints, progress and curve; created if absent.
    pub run_dir: PathBuf,
    /// Go on from the newest checkpoint in `run_dir`.
    pub resume: bool,
    /// Where the update runs.
    pub device: DeviceChoice,
}

/// When a run ends; it ends at the first limit that is reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Environment steps, over all resumptions.
    pub env_steps: Option<u64>,
    /// Learner steps, over all resumptions.
    pub learner_steps: Option<u64>,
    /// Minutes since this process began to serve, waiting for data included: a resumed run gets its
    /// minutes anew.
    pub max_minutes: Option<f64>,
    /// Mean return of an evaluation.
    pub stop_at_return: Option<f64>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// [`Limits::env_steps`].
    EnvSteps,
    /// [`Limits::learner_steps`].
    LearnerSteps,
    /// [`Limits::max_minutes`].
    MaxMinutes,
    /// [`Limits::stop_at_return`], with the mean return that reached it.
    StopAtReturn(f64),
    /// It was told to stop.
    Shutdown,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnvSteps => f.write_str("reached its limit of environment steps"),
            Self::LearnerSteps => f.write_str("reached its limit of learner steps"),
            Self::MaxMinutes => f.write_str("reached its limit of minutes"),
            Self::StopAtReturn(mean) => write!(f, "reached a mean return of {mean:.1}"),
            Self::Shutdown => f.write_str("stopped"),
        }
    }
}

/// How a run ended, cleanly and with a checkpoint of its last step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunOutcome {
    /// Why.
    pub reason: EndReason,
    /// Learner steps, over all resumptions.
    pub learner_steps: u64,
    /// Environment steps, over all resumptions.
    pub env_steps: u64,
    /// The newest policy version.
    pub policy_version: u64,
    /// Seconds of training, over all resumptions.
    pub training_seconds: f64,
    /// Mean return of the newest evaluation.
    pub last_return_mean: Option<f64>,
}

impl fmt::Display for RunOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reason,
            learner_steps,
            env_steps,
            training_seconds,
            ..
        } = self;
        write!(
            f,
            "{reason} after {env_steps} environment steps and {learner_steps} learner steps in \
             {training_seconds:.0} s"
        )?;
        if let Some(mean) = self.last_return_mean {
            write!(f, "; last evaluation {mean:.1}")?;
        }
        Ok(())
    }
}

/// Where the update runs; written `cpu`, `cuda`, `cuda:N`, `vulkan` or `vulkan:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by its index.
    Cuda(usize),
    /// A device with a Vulkan driver, by its index: discrete GPUs first.
    Vulkan(usize),
}

impl FromStr for DeviceChoice {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        match (kind, index.parse()) {
            _ if text == "cpu" => Ok(Self::Cpu),
            ("cuda", Ok(index)) => Ok(Self::Cuda(index)),
            ("vulkan", Ok(index)) => Ok(Self::Vulkan(index)),
            _ => Err(ConfigError::new(
                "device",
                "cpu, cuda, cuda:N, vulkan or vulkan:N",
                text,
            )),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Vulkan(index) => write!(f, "vulkan:{index}"),
        }
    }
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// A GPU is asked for and the build cannot use its kind, or there is no driver or no such GPU.
    pub fn open(self) -> Result<Device, LearnerError> {
        let (index, found, feature, missing) = match self {
            Self::Cpu => return Ok(Device::flex()),
            Self::Cuda(index) => (
                index,
                cuda_devices(),
                "cuda",
                "the NVIDIA driver (libcuda.so)",
            ),
            Self::Vulkan(index) => (
                index,
                vulkan_devices(),
                "vulkan",
                "a Vulkan loader (libvulkan.so.1) with a driver",
            ),
        };
        let error = |reason| LearnerError::Device {
            device: self,
            reason,
        };
        let mut found = found.ok_or_else(|| {
            error(format!(
                "this build lacks it; build with --features {feature}"
            ))
        })?;
        let count = found.len();
        if count == 0 {
            return Err(error(format!(
                "no such device found; is {missing} installed?"
            )));
        }
        if index >= count {
            return Err(error(format!(
                "the devices found end at {feature}:{}",
                count - 1
            )));
        }
        Ok(found.swap_remove(index))
    }
}

/// The GPUs that the CUDA driver lists, none without a driver. A tensor on an absent one would panic.
/// `None` if the build cannot use any.
fn cuda_devices() -> Option<Vec<Device>> {
    #[cfg(feature = "cuda")]
    let found = Some(Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec());
    #[cfg(not(feature = "cuda"))]
    let found = None;
    found
}

/// The same of Vulkan.
fn vulkan_devices() -> Option<Vec<Device>> {
    #[cfg(feature = "vulkan")]
    let found = Some(Device::enumerate(burn::tensor::DeviceType::Vulkan).into_vec());
    #[cfg(not(feature = "vulkan"))]
    let found = None;
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for (text, device) in [
            ("cpu", DeviceChoice::Cpu),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("cuda:3", DeviceChoice::Cuda(3)),
            ("vulkan:1", DeviceChoice::Vulkan(1)),
        ] {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("vulkan".parse(), Ok(DeviceChoice::Vulkan(0)));
        for bad in ["gpu", "cuda:", "cuda:-1", "vulkan:x", "cpu:0", "CPU"] {
            let message = bad.parse::<DeviceChoice>().unwrap_err().to_string();
            assert_eq!(
                message,
                format!("device: expected cpu, cuda, cuda:N, vulkan or vulkan:N, got {bad}")
            );
        }
    }

    #[test]
    fn an_absent_gpu_is_an_error_that_says_why() {
        let cuda = (DeviceChoice::Cuda(64), cfg!(feature = "cuda"));
        let vulkan = (DeviceChoice::Vulkan(64), cfg!(feature = "vulkan"));
        for (device, built) in [cuda, vulkan] {
            let message = device.open().unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("device {device}: ")),
                "{message}"
            );
            assert_eq!(
                message.contains("build with --features"),
                !built,
                "{message}"
            );
        }
    }
}
