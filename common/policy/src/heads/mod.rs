//! Heads: the distributions over actions that a policy network can end in.
//!
//! A new head is a file here, a variant of [`HeadConfig`](crate::HeadConfig), and its tensors in
//! [`expected_tensors`](crate::snapshot::expected_tensors).

mod gaussian;

pub(crate) use gaussian::GaussianNetwork;
pub use gaussian::{GaussianHead, GaussianOutput};
