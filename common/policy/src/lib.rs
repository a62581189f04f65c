//! The policy network as both sides see it: its description, its snapshots, and inference on the
//! actor's CPU.
//!
//! A network is described once, as a list of layers ([`layers`]); a [`Plan`] of it says which tensors
//! there are and what is computed with them. The learner trains the plan's tensors and publishes them
//! with [`snapshot::encode`]. Actors decode a snapshot into a [`PolicyNetwork`], which runs the same plan
//! in plain `f32` Rust without a tensor library.

mod config;
mod error;
pub mod heads;
pub mod layers;
mod linear;
mod network;
pub mod snapshot;
mod torso;

pub use config::{Activation, HeadConfig, HeadPlan, NetworkConfig, PolicyPlan, TorsoConfig};
pub use error::SnapshotError;
pub use heads::{CategoricalHead, CategoricalOutput, GaussianHead, GaussianOutput, HeadOutput};
pub use layers::{Init, Layer, LinearOp, Op, Plan, TensorSpec};
pub use network::{PolicyNetwork, Rows, clip};
pub use snapshot::{NamedTensor, PolicySnapshot, PolicyWeights};
pub use torso::{NORMALISER_EPSILON, NORMALISER_LIMIT, normalised, normaliser_scale};
