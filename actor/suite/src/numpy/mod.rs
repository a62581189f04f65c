//! The parts of NumPy that the suite's episodes depend on, to the last bit.

mod functions;
mod hyperbolic;
mod linalg;
mod platform;
mod random;
mod spline;
#[cfg(target_arch = "x86_64")]
mod svml;

pub(crate) use functions::{arcsinh, arctan2, log1p, tanh};
pub(crate) use linalg::{dot, into_frame, mean, norm, rows_into_frame, sum};
pub(crate) use random::RandomState;
pub(crate) use spline::zoom;
