//! The random numbers of the update: what actions are drawn with.
//!
//! On the CPU they come from the run's own generator, so that a checkpoint restores them and a resumed
//! run draws what the uninterrupted one would have. Elsewhere the device draws them itself, so that
//! nothing is uploaded but the batch: its generator is seeded anew for every step, from the run's
//! generator as it was at the start and the step's number, to the same end.

use burn::tensor::{Device, Distribution as DeviceDistribution, Tensor, TensorData};
use pmpo_losses::Family;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// The generator, and where its numbers are made.
#[derive(Clone, Debug)]
pub(crate) struct Noise {
    pub(crate) rng: ChaCha8Rng,
    family: Family,
    device: Device,
    on_host: bool,
}

impl Noise {
    pub(crate) fn new(rng: ChaCha8Rng, family: Family, device: &Device) -> Self {
        Self {
            rng,
            family,
            device: device.clone(),
            on_host: *device == Device::flex(),
        }
    }

    /// The same with another generator.
    pub(crate) fn with_rng(self, rng: ChaCha8Rng) -> Self {
        Self { rng, ..self }
    }

    /// Draws on the host whatever the device, so that devices can be compared.
    #[cfg(all(test, feature = "vulkan"))]
    pub(crate) fn on_host(&mut self) {
        self.on_host = true;
    }

    /// What [`ActionDistribution::sample`](pmpo_losses::ActionDistribution::sample) wants, for the
    /// step of this number.
    pub(crate) fn draw(&mut self, step: u64, shape: [usize; 3]) -> Tensor<3> {
        if self.on_host {
            return self.draw_on_host(shape);
        }
        let mut seeds = self.rng.clone();
        seeds.set_stream(step);
        self.device.seed(seeds.random());
        let distribution = match self.family {
            Family::Gaussian => DeviceDistribution::Normal(0.0, 1.0),
            Family::Categorical => DeviceDistribution::Uniform(0.0, 1.0),
        };
        Tensor::random(shape, distribution, &self.device)
    }

    fn draw_on_host(&mut self, shape: [usize; 3]) -> Tensor<3> {
        let count = shape.iter().product();
        let values: Vec<f32> = match self.family {
            Family::Gaussian => StandardNormal
                .sample_iter(&mut self.rng)
                .take(count)
                .collect(),
            Family::Categorical => (0..count).map(|_| self.rng.random()).collect(),
        };
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }
}
