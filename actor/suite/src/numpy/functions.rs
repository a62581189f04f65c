//! NumPy's elementary functions, where the suite's observations and initial states use them.

/// `np.log1p(x)`.
pub(crate) fn log1p(x: f64) -> f64 {
    x.ln_1p()
}

/// `np.arcsinh(x)`.
pub(crate) fn arcsinh(x: f64) -> f64 {
    x.asinh()
}

/// `np.tanh(x)`.
pub(crate) fn tanh(x: f64) -> f64 {
    x.tanh()
}

/// `np.arctan2(y, x)`.
pub(crate) fn arctan2(y: f64, x: f64) -> f64 {
    y.atan2(x)
}
