//! The wire protocol: generated messages and services, and the only code that converts between wire
//! and domain types. Conversions from the wire validate; their errors name the field and what was
//! expected, and become `INVALID_ARGUMENT` through [`WireError`]'s conversion into [`tonic::Status`].

mod compression;
mod convert;
mod error;
mod frame;
pub mod replay;
mod sampled;
mod trace;

pub use compression::compress;
pub use convert::{
    batch_from_wire, batch_to_wire, digest_from_wire, signature_from_wire, signature_to_wire,
};
pub use error::{ERROR_DOMAIN, WireError};
pub use frame::frame;
pub use replay::{
    counters_from_wire, counters_to_wire, steps_from_wire, steps_to_wire, writer_id_from_wire,
    writer_id_to_wire,
};
pub use sampled::{BatchShape, SampledParts, least_part_bytes, sampled_to_wire};
pub use trace::{trace_from_wire, trace_to_wire};

/// Generated from `proto/pmpo/v1/*.proto`: what a run's own processes say to each other.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("pmpo.v1");
}

/// The protocol itself, as an encoded `FileDescriptorSet`: for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Largest gRPC message that either side accepts, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Largest batch that a sampler may ask for, in bytes of its columns.
pub const MAX_BATCH_BYTES: usize = MAX_MESSAGE_BYTES - (64 << 10);

/// Largest message that gRPC's libraries accept unless told otherwise, in bytes.
pub const STOCK_MESSAGE_BYTES: usize = 4 << 20;
