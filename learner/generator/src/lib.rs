//! Language models' runs over many processes. The learner serves the model and each set of weights; generators
//! complete prompts, have the completions judged and write groups of them into a queue of the replay, where the
//! learner takes each once.
//!
//! - [`Publisher`], [`GroupQueue`]: the learner's side.
//! - [`run`]: a generator.

mod error;
mod generator;
mod layout;
pub mod metrics;
mod parts;
mod queue;
mod service;

pub use error::GeneratorError;
pub use generator::{Options, run};
pub use layout::Layout;
pub use queue::{GroupQueue, TABLE, create_tables};
pub use service::{Described, Publisher, RunFile};
