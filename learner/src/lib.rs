//! The learner as a service: takes batches of experience out of the replay service, has the update
//! (`pmpo-update`) learn from them, publishes the policy, and keeps the run's record.
//!
//! One thread, `trainer`, owns the update's state and does nothing but steps; samples come to it through
//! a [`BatchSource`](pmpo_update::BatchSource)'s bounded queue, policies leave it through a channel that
//! keeps the newest. What others may ask about the run is on the `board`; evaluations are written by the
//! thread of `records`. Everything that a step changes is in the update's state, and everything in it is
//! in a [`checkpoint`].

pub mod best;
mod board;
mod broadcast;
pub mod broadcaster;
pub mod checkpoint;
mod config;
pub mod description;
mod disk_space;
mod error;
mod leases;
pub mod metrics;
mod options;
pub mod progress;
mod publisher;
mod records;
mod replay_source;
mod run;
mod service;
mod stops;
mod table;
mod trainer;
mod versions;

pub use config::LearnerConfig;
pub use error::LearnerError;
pub use options::{EndReason, LearnerOptions, Limits, RunOutcome};
pub use publisher::encode as encode_policy;
pub use run::run;
