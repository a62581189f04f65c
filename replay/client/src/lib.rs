//! The replay service's client, for plain threads: a [`Writer`] inserts items exactly once, a
//! [`Sampler`] draws batches ahead of their use.
//!
//! Each owns one task on the tokio runtime whose handle it is given; that task owns the connection
//! and renews it for ever, with backoff. The thread's side blocks on bounded queues and never touches
//! a socket. Modelled on Reverb's `TrajectoryWriter` and `Sampler`; unlike those, a lost connection
//! loses and doubles nothing (items are numbered, see `replay.proto`), and every wait ends with the
//! shutdown token.

mod config;
mod connection;
mod error;
pub mod metrics;
mod outbox;
mod sampler;
mod writer;

pub use config::{ConfigError, SamplerConfig, WriterConfig};
pub use error::ClientError;
pub use pmpo_types::{SampledBatch, TableCounters};
pub use sampler::Sampler;
pub use writer::Writer;
