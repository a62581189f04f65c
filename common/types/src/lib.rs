//! Domain types shared by every crate: time steps, specs, columns, identifiers and seeds.
//!
//! Nothing here does I/O or knows a tensor library, a wire format or a simulator.

mod column;
mod config_error;
mod dtype;
mod ids;
mod replay;
mod returns;
mod schema;
mod seed;
mod spec;
mod time_step;

pub use column::{ColumnBatch, ColumnError, ColumnSpec, Signature};
pub use config_error::ConfigError;
pub use dtype::DType;
pub use ids::{PolicyVersion, TraceContext, WriterId};
pub use replay::{
    ItemError, MAX_PRIORITY, SampledBatch, SampledItems, StepBatch, TableCounters, check_priorities,
};
pub use returns::{EpisodeReturns, MAX_RETURN, usable_return};
pub use schema::{step, transition};
pub use seed::{Generator, derive_seed};
pub use spec::{ActionSpec, EnvironmentSpec, ObservationField, SpecDigest};
pub use time_step::{StepType, TimeStep};
