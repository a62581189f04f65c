//! Adam (Kingma and Ba 2015, algorithm 1) over a network's parameters as one vector, which makes a
//! step a dozen operations whatever the number of layers, and its state two tensors in a checkpoint.

use burn::tensor::{Device, Tensor};

use crate::fused::{AdamFactors, adam_step};

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Adam's state for one network.
#[derive(Clone, Debug)]
pub(crate) struct Adam {
    /// Exponential mean of the gradients, `[parameters]`.
    pub(crate) first: Tensor<1>,
    /// Exponential mean of their squares, `[parameters]`.
    pub(crate) second: Tensor<1>,
    /// Steps taken.
    pub(crate) steps: u64,
}

impl Adam {
    pub(crate) fn new(parameters: usize, device: &Device) -> Self {
        Self {
            first: Tensor::zeros([parameters], device),
            second: Tensor::zeros([parameters], device),
            steps: 0,
        }
    }

    /// Takes a gradient in; returns what to subtract from the parameters.
    pub(crate) fn step(&mut self, gradient: Tensor<1>, learning_rate: f64) -> Tensor<1> {
        let factors = self.next(learning_rate);
        adam_step(&mut self.first, &mut self.second, &gradient, factors)
            .unwrap_or_else(|| self.composed(gradient, factors))
    }

    /// The numbers of the next step, which is counted.
    fn next(&mut self, learning_rate: f64) -> AdamFactors {
        self.steps += 1;
        let steps = self.steps as f64;
        AdamFactors {
            beta_1: BETA_1,
            beta_2: BETA_2,
            epsilon: EPSILON,
            rate: learning_rate / (1.0 - BETA_1.powf(steps)),
            root: (1.0 - BETA_2.powf(steps)).sqrt(),
        }
    }

    /// The step in the tensor library's operations, for every device.
    fn composed(&mut self, gradient: Tensor<1>, factors: AdamFactors) -> Tensor<1> {
        self.first
            .inplace(|m| m * BETA_1 + gradient.clone() * (1.0 - BETA_1));
        self.second
            .inplace(|v| v * BETA_2 + gradient.square() * (1.0 - BETA_2));
        let width = self.second.clone().sqrt() / factors.root + EPSILON;
        self.first.clone() * factors.rate / width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Algorithm 1 by hand in f64, against both forms.
    #[test]
    fn follows_the_algorithm_step_by_step() {
        type Form = fn(&mut Adam, Tensor<1>) -> Tensor<1>;
        let forms: [Form; 2] = [
            |adam, gradient| adam.step(gradient, 0.01),
            |adam, gradient| {
                let factors = adam.next(0.01);
                adam.composed(gradient, factors)
            },
        ];
        for form in forms {
            let device = Device::flex();
            let mut adam = Adam::new(2, &device);
            let (mut m, mut v) = ([0.0; 2], [0.0; 2]);
            for (t, gradient) in [[0.5, -2.0], [-0.1, 0.0], [3.0, 1e-6]]
                .into_iter()
                .enumerate()
            {
                let change = form(&mut adam, Tensor::from_floats(gradient, &device));
                let change: Vec<f32> = change.into_data().try_into_vec().unwrap();
                let t = t as i32 + 1;
                for i in 0..2 {
                    let g: f64 = gradient[i];
                    m[i] = BETA_1 * m[i] + (1.0 - BETA_1) * g;
                    v[i] = BETA_2 * v[i] + (1.0 - BETA_2) * g * g;
                    let m_hat = m[i] / (1.0 - BETA_1.powi(t));
                    let v_hat: f64 = v[i] / (1.0 - BETA_2.powi(t));
                    let expected = 0.01 * m_hat / (v_hat.sqrt() + EPSILON);
                    let got = f64::from(change[i]);
                    assert!(
                        (got - expected).abs() < 1e-6,
                        "step {t}: {got} against {expected}"
                    );
                }
            }
        }
    }

    /// As many parameters as several tasks have, and a rest; a clone of the state must not move along.
    #[test]
    fn the_fused_step_is_the_composed_one() {
        let device = Device::flex();
        device.seed(3);
        let count = 70_001;
        let (mut fused, mut composed) = (Adam::new(count, &device), Adam::new(count, &device));
        let untouched = fused.clone();
        for _ in 0..3 {
            let distribution = burn::tensor::Distribution::Normal(0.0, 1.0);
            let gradient = Tensor::<1>::random([count], distribution, &device);
            let got = fused.step(gradient.clone(), 1e-3);
            let factors = composed.next(1e-3);
            let difference = (got - composed.composed(gradient, factors)).max_abs();
            assert!(difference.into_scalar::<f32>() < 1e-8);
        }
        let difference = (fused.second - composed.second).max_abs();
        assert!(difference.into_scalar::<f32>() < 1e-8);
        assert_eq!(untouched.first.max_abs().into_scalar::<f32>(), 0.0);
    }
}
