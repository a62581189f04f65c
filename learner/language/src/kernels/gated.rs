//! The gate of a feed-forward block: `y = f(gate) up`, where `f` is SiLU (Shazeer 2020, SwiGLU) or the tanh form of
//! GELU (GeGLU). Element by element.

use pmpo_kernels::math::{exp, tanh};
use pmpo_kernels::simd::{Kernel, dispatch_widest};
use rayon::prelude::*;

/// Numbers of a task.
const BLOCK: usize = 1 << 14;

/// What the gate goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// `x / (1 + e^-x)`.
    Silu,
    /// `x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2`.
    GeluTanh,
}

/// `sqrt(2 / pi)`.
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBE: f32 = 0.044_715;

impl Gate {
    /// The value, and the slope.
    #[inline(always)]
    fn at<const FMA: bool>(self, x: f32) -> (f32, f32) {
        match self {
            Self::Silu => {
                let s = 1.0 / (1.0 + exp::<FMA>(-x));
                (x * s, s * (1.0 + x * (1.0 - s)))
            }
            Self::GeluTanh => {
                let t = tanh::<FMA>(GELU_SCALE * (x + GELU_CUBE * x * x * x));
                let inner = GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x * x);
                let slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner;
                (0.5 * x * (1.0 + t), slope)
            }
        }
    }
}

/// `f(gate) up`.
pub(crate) fn forward(kind: Gate, gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut output = vec![0.0; gate.len()];
    let inputs = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK));
    let parts = output.par_chunks_mut(BLOCK).zip(inputs);
    parts.for_each(|(output, (gate, up))| {
        dispatch_widest(Forward {
            kind,
            gate,
            up,
            output,
        });
    });
    output
}

struct Forward<'a> {
    kind: Gate,
    gate: &'a [f32],
    up: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for ((y, &gate), up) in self.output.iter_mut().zip(self.gate).zip(self.up) {
            *y = self.kind.at::<FMA>(gate).0 * up;
        }
    }
}

/// The gradients of gate and up; that of the output, `gradient`, becomes up's.
pub(crate) fn backward(kind: Gate, gate: &[f32], up: &[f32], gradient: &mut [f32]) -> Vec<f32> {
    let mut gates = vec![0.0; gate.len()];
    let inputs = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK));
    let outputs = gates.par_chunks_mut(BLOCK);
    let outputs = outputs.zip(gradient.par_chunks_mut(BLOCK));
    outputs
        .zip(inputs)
        .for_each(|((gates, gradient), (gate, up))| {
            dispatch_widest(Backward {
                kind,
                gate,
                up,
                gates,
                gradient,
            });
        });
    gates
}

struct Backward<'a> {
    kind: Gate,
    gate: &'a [f32],
    up: &'a [f32],
    gates: &'a mut [f32],
    gradient: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let inputs = self.gate.iter().zip(self.up);
        let outputs = self.gates.iter_mut().zip(self.gradient);
        for ((gate_gradient, dy), (&gate, up)) in outputs.zip(inputs) {
            let (value, slope) = self.kind.at::<FMA>(gate);
            *gate_gradient = *dy * up * slope;
            *dy *= value;
        }
    }
}
