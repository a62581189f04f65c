//! Actors and evaluators: environments stepped with the newest policy.
//!
//! An actor's environments each have a thread: the policy's forward pass, the simulation, the
//! adder and the hand-over to a replay writer happen there, one after another ([`stepper`]). Sockets (weights,
//! reports, the writers' connections) live on tokio and reach a thread through bounded or latest-wins
//! channels. An evaluator is an actor without an adder: it acts with the mode of the policy.

pub mod adder;
pub mod bench;
pub mod canonical;
pub mod collector;
mod config;
mod description;
pub mod environment;
mod environment_loop;
mod error;
pub mod evaluator;
pub mod insertion;
mod lane;
mod membership;
pub mod metrics;
pub mod noise;
mod reports;
mod run;
pub mod run_info;
pub mod stepper;
#[cfg(test)]
mod testing;
mod threads;
mod vector_evaluation;
mod vector_stepper;
pub mod weights;

pub use canonical::{ActionScale, narrow};
pub use config::{ActorConfig, ENDLESS_EPISODE_STEPS, EvaluatorConfig};
pub use error::ActorError;
pub use evaluator::{EvaluationResult, evaluate, play};
pub use lane::Episode;
pub use run::{Addresses, run};
pub use vector_evaluation::evaluate_vector;
