//! Where the update runs.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use pmpo_types::ConfigError;

use crate::DeviceError;

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
    pub fn open(self) -> Result<Device, DeviceError> {
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
        let error = |reason| DeviceError {
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
