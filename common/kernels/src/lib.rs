//! The hand-written arithmetic of the networks: what compilers and the tensor library leave slow.
//!
//! - [`math`]: `exp`, `tanh`, `ELU` and `softplus` that vectorise, and [`simd`], which compiles a loop
//!   for the widest vectors at hand and chooses when the program runs. Actors use these alone.
//! - [`layer`]: a linear layer with its normalisation and activation as one pass, forward and
//!   backward, on plain slices; [`softmax`] with its cross-entropy; [`adam`]: an optimiser's step as one pass; [`matrix`]: products.
//! - `fused`, with the feature `burn`: the same as operations of the tensor library, with the composed
//!   formula wherever the kernels do not apply.
//!
//! # When the tensor library is upgraded
//! `fused::primitive`, and the backward passes built on it, here and in the language models, alone use what the
//! library does not promise: `burn::backend::autodiff::{ops, grads, checkpoint}` (how an operation with its own
//! backward pass is registered), `FlexTensor`'s layout and storage, and `Tensor::{from_primitive, try_into_primitive}`. The version is pinned to the
//! patch for that reason. On an upgrade: make them compile, then run this crate's tests, which
//! hold every fused form to the composed one, values and gradients. If an upgrade cannot be followed,
//! have the functions of `fused` answer with the composed form: the
//! numbers stay the same within rounding, and a step takes about two and a half times as long.

pub mod adam;
#[cfg(feature = "burn")]
pub mod fused;
pub mod layer;
pub mod math;
pub mod matrix;
mod rows;
pub mod simd;
pub mod softmax;

pub use rows::{LAYER_NORM_EPSILON, Nonlinearity, normalise};
