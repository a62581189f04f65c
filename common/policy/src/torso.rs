//! The torso: `Linear, LayerNorm, activation, [Linear, activation]*` (Acme's `LayerNormMLP`).

/// Added to the variance by the layer normalisation; the variance is the biased one (over `n`).
pub const LAYER_NORM_EPSILON: f64 = 1e-5;
