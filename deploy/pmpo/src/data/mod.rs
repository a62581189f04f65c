//! Learning from data sets: what is to be learned from, and the batches that come of it.

mod config;
mod critic;
mod held;
mod source;

pub(crate) use config::DataConfig;
pub(crate) use critic::Critic;
pub(crate) use source::{DataSource, DataState};
