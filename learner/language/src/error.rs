//! What can go wrong with models, their files and their texts.

use std::path::PathBuf;

use pmpo_types::ConfigError;

/// Why a model could not be read, trained or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LanguageError {
    /// A model's description that is not known here, or contradicts itself.
    #[error("{0}")]
    Config(String),
    /// A configuration's value.
    #[error(transparent)]
    Setting(#[from] ConfigError),
    /// A file that could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file of weights or of a tokenizer that is not what it should be.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        why: String,
    },
    /// A text that the tokenizer cannot take, or that is too long.
    #[error("{0}")]
    Text(String),
    /// A file of texts.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// Completions that could not be judged.
    #[error(transparent)]
    Reward(#[from] crate::reward::RewardError),
    /// A training step whose gradient is not finite.
    #[error("step {step}: the gradient's norm is {norm}; the model is as it was before")]
    NotFinite {
        /// The step.
        step: u64,
        /// The norm.
        norm: f32,
    },
}
