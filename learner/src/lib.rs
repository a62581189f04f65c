//! The learner: takes batches of transitions out of the replay service, improves policy and critic,
//! and publishes the policy.
//!
//! One thread, `trainer`, owns the networks and does nothing but steps; samples come to it through
//! the replay client's bounded queue, policies leave it through a channel that keeps the newest. What
//! others may ask about the run is on the `board`; evaluations are written by the thread of
//! `records`. Everything that a step changes is in [`TrainState`], and everything in it is in a
//! [`checkpoint`].

mod adam;
pub mod bandit;
mod batch;
pub mod bench;
mod board;
mod broadcast;
pub mod broadcast_bench;
pub mod checkpoint;
mod config;
pub mod curve;
#[cfg(all(test, feature = "vulkan"))]
mod device_tests;
mod error;
pub mod figure;
mod fused;
mod host;
mod members;
pub mod metrics;
mod networks;
mod noise;
mod options;
mod parameters;
mod priorities;
pub mod progress;
mod publisher;
mod records;
mod run;
mod service;
mod state_file;
pub mod statistics;
mod stops;
mod table;
mod targets;
mod threads;
mod trainer;
mod update;
mod versions;

pub use batch::Batch;
pub use config::{ConfigError, LearnerConfig};
pub use error::LearnerError;
pub use options::{DeviceChoice, EndReason, LearnerOptions, Limits, RunOutcome};
pub use pmpo_losses::PolicyLoss;
pub use priorities::{Priorities, TdErrorPriorities};
pub use run::run;
pub use targets::{RetraceTargets, Targets};
pub use update::TrainState;
