//! A step of AdamW in one pass over a parameter's values (Kingma and Ba 2015, algorithm 1, with the
//! decoupled weight decay of Loshchilov and Hutter 2019).

use rayon::prelude::*;

use crate::simd::{Kernel, dispatch_widest, multiply_add};

/// Values to a task at least, so that small networks stay on one thread.
const TASK: usize = 1 << 15;

/// The numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamFactors {
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Learning rate over the first moment's bias correction.
    pub rate: f64,
    /// Square root of the second moment's bias correction.
    pub root: f64,
    /// Share of each value that is taken away: learning rate times weight decay.
    pub decay: f64,
}

/// One parameter's tensors, all of one length.
#[derive(Debug)]
pub struct AdamStep<'a> {
    /// The parameter; moved.
    pub values: &'a mut [f32],
    /// Exponential mean of its gradients; moved.
    pub first: &'a mut [f32],
    /// Exponential mean of their squares; moved.
    pub second: &'a mut [f32],
    /// The gradient.
    pub gradient: &'a [f32],
}

impl AdamStep<'_> {
    /// Takes the step, shared among the threads of the pool it is called in. The result does not
    /// depend on their number.
    pub fn take(self, factors: AdamFactors) {
        let moments = self
            .first
            .par_chunks_mut(TASK)
            .zip(self.second.par_chunks_mut(TASK));
        let values = self
            .values
            .par_chunks_mut(TASK)
            .zip(self.gradient.par_chunks(TASK));
        values
            .zip(moments)
            .for_each(|((values, gradient), (first, second))| {
                let step = AdamStep {
                    values,
                    first,
                    second,
                    gradient,
                };
                dispatch_widest(Part { step, factors });
            });
    }
}

struct Part<'a> {
    step: AdamStep<'a>,
    factors: AdamFactors,
}

impl Kernel for Part<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { step, factors } = self;
        let [beta_1, beta_2] = [factors.beta_1, factors.beta_2];
        let [new_1, new_2] = [(1.0 - beta_1) as f32, (1.0 - beta_2) as f32];
        let [beta_1, beta_2] = [beta_1 as f32, beta_2 as f32];
        let (rate, epsilon) = (factors.rate as f32, factors.epsilon as f32);
        let inverse_root = (1.0 / factors.root) as f32;
        let kept = (1.0 - factors.decay) as f32;
        let moments = step.first.iter_mut().zip(step.second);
        let values = step.values.iter_mut().zip(step.gradient);
        for ((value, &gradient), (m, v)) in values.zip(moments) {
            *m = multiply_add::<FMA>(beta_1, *m, new_1 * gradient);
            *v = multiply_add::<FMA>(beta_2, *v, new_2 * gradient * gradient);
            let change = rate * *m / multiply_add::<FMA>(v.sqrt(), inverse_root, epsilon);
            *value = kept * *value - change;
        }
    }
}
