//! Language alignment, the paper's third setting: a decoder-only transformer, its preference-based update and the
//! drawing of its completions. A library of tensors and files: no sockets but those of a reward service, no plots.
//!
//! - [`checkpoint`]: models as files; [`ModelConfig`], [`Tokenizer`], [`chat`].
//! - [`Trainer`]: the update, in the paper's form and in DPO's and IPO's.
//! - [`Policy`]: a model that completes prompts.
//! - [`reward`]: what judges completions; [`data`]: what else one learns from; [`grammar`] and [`topics`]: what the
//!   examples use.

pub mod chat;
pub mod checkpoint;
mod config;
pub mod data;
mod error;
mod examples;
mod generate;
mod generator;
mod gguf;
pub mod grammar;
mod kernels;
mod made;
mod model;
mod operation;
mod parameters;
mod policy;
mod prompts;
pub mod reward;
mod session;
mod settings;
mod state_file;
mod tokenizer;
pub mod topics;
mod update;
pub mod weights;

pub use burn::tensor::Device;
pub use checkpoint::Checkpoint;
pub use config::{Family, ModelConfig, RopeScaling};
pub use error::LanguageError;
pub use generate::{Completion, Sampling};
pub use generator::{Drawn, Generator};
pub use gguf::{Gguf, GgufError, Value as GgufValue};
pub use made::over_grammar;
pub use parameters::{Parameters, Spec, specs};
pub use policy::Policy;
pub use prompts::{Prompt, PromptSource, Prompts};
pub use session::{Evaluation, Report, Sample, Session};
pub use settings::LmConfig;
pub use tokenizer::Tokenizer;
pub use update::{Group, Label, Labelled, LossType, Objective, StepStatistics, Trainer};
pub use weights::WeightsDtype;

#[cfg(test)]
mod tests;
