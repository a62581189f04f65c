//! What can go wrong with an update.

use thiserror::Error;

use crate::{BatchName, DeviceChoice};

/// A loss, a gradient norm or another statistic is NaN or infinite.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("learner step {step}: {statistic} is {value}; its batch: {batch}")]
pub struct NotFinite {
    /// The first step it was seen at.
    pub step: u64,
    /// What is not finite.
    pub statistic: &'static str,
    /// Its value.
    pub value: f32,
    /// The batch of that step.
    pub batch: BatchName,
}

/// A device that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("device {device}: {reason}")]
pub struct DeviceError {
    /// The device asked for.
    pub device: DeviceChoice,
    /// What is missing.
    pub reason: String,
}
