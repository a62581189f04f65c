//! The policy network as both sides see it: its configuration, its snapshots, and inference on the
//! actor's CPU.
//!
//! The learner trains a module of its tensor library whose tensors have the names and shapes of
//! [`snapshot::expected_tensors`], and publishes them with [`snapshot::encode`]. Actors decode a
//! snapshot into a [`PolicyNetwork`], plain `f32` Rust without a tensor library. Its vectorised
//! functions, [`math`] and [`simd`], also serve the learner's fused layers.

mod config;
mod error;
pub mod heads;
mod linear;
pub mod math;
mod network;
pub mod simd;
pub mod snapshot;
pub mod torso;

pub use config::{Activation, HeadConfig, NetworkConfig};
pub use error::{ConfigError, SnapshotError};
pub use heads::{CategoricalHead, CategoricalOutput, GaussianHead, GaussianOutput, HeadOutput};
pub use network::{PolicyNetwork, clip};
pub use snapshot::{NamedTensor, PolicySnapshot, PolicyWeights};
