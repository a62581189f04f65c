//! The update: networks, critics, optimiser, batch, and all state that a learner step changes.
//!
//! [`TrainState::prepare`] makes a [`Batch`] of sampled windows of raw steps, [`TrainState::update`] takes
//! a step on it ([`Learning`] does both, and reads back what steps found), and [`TrainState::to_file`] and [`TrainState::restored`] are its checkpoint. Windows come
//! from a [`BatchSource`]. Nothing here knows sockets, processes, a clock or the run's files: a service, a
//! run in one process and a test use the same.
//!
//! ```text
//! SampledBatch --prepare--> Batch --update--> UpdateStatistics
//!              normalise            judge:    actions of the reference policy and what the target critics say
//!              fold n steps         learn:    each critic towards its target
//!              scale rewards        improve:  the policy towards what is preferred
//! ```

mod batch;
mod candidates;
mod config;
mod critic;
mod device;
mod discount;
mod error;
mod experience;
mod learning;
mod network;
mod noise;
mod normaliser;
mod optimizer;
mod policy;
mod priorities;
mod random;
mod reward_scale;
mod source;
mod state;
mod state_file;
mod statistics;
mod targets;
pub mod threads;

#[cfg(all(test, feature = "vulkan"))]
mod device_tests;

pub use batch::{Batch, Sequences};
pub use candidates::{Candidates, DataCandidates, RefinedCandidates, Rejected};
pub use config::{AgentConfig, UpdateConfig};
pub use critic::CriticConfig;
pub use device::DeviceChoice;
pub use discount::{Discount, DiscountRule};
pub use error::{DeviceError, NotFinite};
pub use learning::{Acted, Learning};
pub use optimizer::{OptimizerConfig, VectorAdam};
pub use pmpo_losses::{C51Config, CriticLoss, MpoConfig, PolicyLoss};
pub use priorities::{Priorities, PriorityUpdates, TdErrorPriorities};
pub use random::random_windows;
pub use reward_scale::{RewardScaleConfig, RunningScale};
pub use source::{BatchSource, Drawn};
pub use state::TrainState;
pub use state_file::Scalars;
pub use statistics::{BatchName, Statistics, UpdateStatistics};
pub use targets::{RetraceTargets, Targets, Window};
