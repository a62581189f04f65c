//! The replay service's client, for plain threads: a [`Writer`] inserts items exactly once, a
//! [`Sampler`] draws batches ahead of their use.
//!
//! Each owns one task on the tokio runtime whose handle it is given; that task owns the connection
//! and renews it for ever, with backoff. The thread's side blocks on bounded queues and never touches
//! a socket.
//!
//! A table may have several shards, each a service of its own. Writers spread over them and go
//! elsewhere while theirs is away; a sampler draws from all that are there, in proportion to their
//! sizes. See [`Writer`] and [`Sampler`] for how that stays exactly once and rightly weighted. Modelled on Reverb's `TrajectoryWriter` and `Sampler`; unlike those, a lost connection
//! loses and doubles nothing (items are numbered, see `replay.proto`), and every wait ends with the
//! shutdown token.

mod balance;
mod batch;
mod config;
mod connection;
pub mod dispatch;
mod draws;
mod error;
mod lanes;
pub mod metrics;
pub mod outbox;
mod route;
mod sampler;
mod shares;
mod streams;
mod writer;

pub use batch::SampledBatch;
pub use config::{Compression, SamplerConfig, WriterConfig};
pub use connection::preference;
pub use error::ClientError;
pub use pmpo_types::{SampledItems, StepBatch, TableCounters};
pub use sampler::Sampler;
pub use writer::Writer;
