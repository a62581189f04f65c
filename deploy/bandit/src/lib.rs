//! The paper's bandit experiments (section "Bandit RL: Standard Functions", Figure 1): a policy without
//! states that proposes four samples of a function's domain an iteration, sees which are better, and
//! improves by the losses of `pmpo-losses`.
//!
//! The policy is a Gaussian with a mean and a standard deviation for each coordinate, no network; its
//! reference is a copy that is refreshed every 100 iterations. The paper leaves the rest open, so:
//!
//! - each seed starts at a mean drawn uniformly from [-4, 4] in every coordinate, as in the BBOB
//!   benchmarks, with standard deviation 1; samples are not clipped;
//! - PMPO's KL is the joint one of eq. 10, with one beta for all functions and variants;
//! - the seeds are the states of one batch: nothing flows between them, and the gradient of one is
//!   what it would be alone.

mod functions;
mod report;

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Device, Tensor, TensorData};
use pmpo_losses::{
    ActionDistribution, DiagonalGaussian, DpoConfig, Improvement, JointKl, Judgement, KlPenalty,
    PmpoConfig, PolicyLoss, Preference, RankPreference,
};
use pmpo_types::ConfigError;
use pmpo_update::VectorAdam;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::Serialize;

pub use functions::Function;
pub use report::{AlgorithmReport, FunctionReport, Report};

/// Samples an iteration.
const SAMPLES: usize = 4;
/// Iterations between copies of the policy to the reference.
const REFERENCE_PERIOD: usize = 100;
/// Half the width of the interval that means start in.
const START: f64 = 4.0;
/// At most this many points of a course are kept.
const RECORDED: usize = 200;

/// How a policy is improved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// PMPO on the two best and the two worst samples.
    PmpoAr,
    /// PMPO on the two best samples.
    PmpoA,
    /// PMPO on the two worst samples.
    PmpoR,
    /// DPO on the best and the worst sample.
    Dpo,
}

impl Algorithm {
    /// All of them, in the paper's order.
    pub const ALL: [Self; 4] = [Self::PmpoAr, Self::PmpoA, Self::PmpoR, Self::Dpo];

    fn name(self) -> &'static str {
        match self {
            Self::PmpoAr => "PMPO-AR",
            Self::PmpoA => "PMPO-A",
            Self::PmpoR => "PMPO-R",
            Self::Dpo => "DPO",
        }
    }

    fn loss(self, options: &Options) -> PolicyLoss {
        let (alpha, accepted, rejected) = match self {
            Self::PmpoAr => (0.5, 2, 2),
            Self::PmpoA => (1.0, 2, 0),
            Self::PmpoR => (0.0, 0, 2),
            Self::Dpo => {
                return PolicyLoss::Dpo(DpoConfig {
                    beta: options.dpo_beta,
                });
            }
        };
        PolicyLoss::Pmpo(PmpoConfig {
            alpha,
            preference: Preference::Rank(RankPreference {
                accepted,
                rejected,
                ..RankPreference::default()
            }),
            kl: KlPenalty::Joint(JointKl { beta: options.beta }),
        })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == text.to_uppercase())
            .ok_or_else(|| ConfigError::new("algorithm", format!("one of {names}"), text))
    }
}

/// What is optimised, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The functions.
    pub functions: Vec<Function>,
    /// The algorithms that are compared.
    pub algorithms: Vec<Algorithm>,
    /// Number of coordinates.
    pub dimension: usize,
    /// Number of seeds; seed `i` starts at the same place for all algorithms.
    pub seeds: usize,
    /// Iterations, each of four samples.
    pub iterations: usize,
    /// Adam's learning rate.
    pub learning_rate: f64,
    /// Weight of PMPO's KL.
    pub beta: f64,
    /// DPO's beta.
    pub dpo_beta: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            functions: Function::ALL.to_vec(),
            algorithms: Algorithm::ALL.to_vec(),
            dimension: 10,
            seeds: 10,
            iterations: 10_000,
            learning_rate: 3e-3,
            beta: 2.0,
            dpo_beta: 1.0,
        }
    }
}

impl Options {
    fn validate(&self) -> Result<(), ConfigError> {
        for (field, count, least) in [
            ("dim", self.dimension, 2),
            ("seeds", self.seeds, 1),
            ("iterations", self.iterations, 1),
        ] {
            if count < least {
                return Err(ConfigError::new(field, format!("at least {least}"), count));
            }
        }
        for (field, value, allowed) in [
            (
                "learning_rate",
                self.learning_rate,
                self.learning_rate > 0.0,
            ),
            ("beta", self.beta, self.beta >= 0.0),
            ("dpo_beta", self.dpo_beta, self.dpo_beta > 0.0),
        ] {
            if !(allowed && value.is_finite()) {
                return Err(ConfigError::new(field, "a finite, positive number", value));
            }
        }
        Ok(())
    }
}

/// Optimises every function with every algorithm.
///
/// # Errors
/// An option cannot be used.
pub fn run(options: &Options) -> Result<Report, ConfigError> {
    options.validate()?;
    let report = |&function: &Function| {
        let course = |&algorithm: &Algorithm| (algorithm, optimise(options, function, algorithm));
        FunctionReport::new(function, options.algorithms.iter().map(course))
    };
    Ok(Report {
        dimension: options.dimension,
        seeds: options.seeds,
        iterations: options.iterations,
        functions: options.functions.iter().map(report).collect(),
    })
}

/// The best value so far of every seed after some iterations.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recorded {
    pub(crate) iteration: usize,
    pub(crate) best: Vec<f64>,
}

/// Optimises one function with one algorithm, with all seeds at once.
fn optimise(options: &Options, function: Function, algorithm: Algorithm) -> Vec<Recorded> {
    let loss = algorithm.loss(options);
    let mut generators: Vec<ChaCha8Rng> = (0..options.seeds as u64)
        .map(ChaCha8Rng::seed_from_u64)
        .collect();
    let mut policy = Policy::new(&mut generators, options.dimension);
    let mut reference = policy.distribution().detach();
    let mut best = vec![f64::INFINITY; options.seeds];
    let every = options.iterations.div_ceil(RECORDED);
    let mut course = Vec::new();
    for iteration in 0..options.iterations {
        if iteration % REFERENCE_PERIOD == 0 {
            reference = policy.distribution().detach();
        }
        let noise = noise(&mut generators, options.dimension);
        let actions = reference.sample(noise);
        let values = evaluate(function, &actions, options.dimension, &mut best);
        policy.improve(&loss, &reference, (actions, values), options.learning_rate);
        if iteration % every == 0 || iteration + 1 == options.iterations {
            course.push(Recorded {
                iteration: iteration + 1,
                best: best.clone(),
            });
        }
    }
    course
}

/// Standard normal numbers `[SAMPLES, B, A]`, those of each seed from its own generator.
fn noise(generators: &mut [ChaCha8Rng], dimension: usize) -> Tensor<3> {
    let mut values = Vec::with_capacity(SAMPLES * generators.len() * dimension);
    for _ in 0..SAMPLES {
        for generator in &mut *generators {
            values.extend((0..dimension).map(|_| generator.sample::<f32, _>(StandardNormal)));
        }
    }
    tensor(values, [SAMPLES, generators.len(), dimension])
}

/// The values to maximise, `[SAMPLES, B]`: minus the function's. Keeps the best of each seed.
fn evaluate(
    function: Function,
    actions: &Tensor<3>,
    dimension: usize,
    best: &mut [f64],
) -> Tensor<2> {
    let actions: Vec<f32> = actions
        .clone()
        .into_data()
        .try_into_vec()
        .expect("f32 tensors");
    let mut values = Vec::with_capacity(SAMPLES * best.len());
    for (row, action) in actions.chunks_exact(dimension).enumerate() {
        let action: Vec<f64> = action.iter().map(|&x| f64::from(x)).collect();
        let value = function.value(&action);
        let seed = row % best.len();
        best[seed] = best[seed].min(value);
        values.push(-value as f32);
    }
    tensor(values, [SAMPLES, best.len()])
}

fn tensor<const D: usize>(values: Vec<f32>, dims: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, dims), &Device::flex())
}

/// Means and logarithms of standard deviations, one after the other, and their optimiser.
struct Policy {
    parameters: Tensor<1>,
    adam: VectorAdam,
    dims: [usize; 2],
}

impl Policy {
    fn new(generators: &mut [ChaCha8Rng], dimension: usize) -> Self {
        let dims = [generators.len(), dimension];
        let count = dims[0] * dims[1];
        let mut start = |generator: &mut ChaCha8Rng| -> Vec<f32> {
            let mean = |_| generator.random_range(-START..START) as f32;
            (0..dimension).map(mean).collect()
        };
        let mut parameters: Vec<f32> = generators.iter_mut().flat_map(&mut start).collect();
        parameters.resize(2 * count, 0.0);
        Self {
            parameters: tensor(parameters, [2 * count]),
            adam: VectorAdam::new(2 * count, &Device::flex()),
            dims,
        }
    }

    fn distribution(&self) -> ActionDistribution {
        distribution(&self.parameters, self.dims)
    }

    /// One step on the loss. The loss is a mean over states, which are seeds here; the sum gives each
    /// the gradient that it would have alone.
    fn improve(
        &mut self,
        loss: &PolicyLoss,
        reference: &ActionDistribution,
        (actions, values): (Tensor<3>, Tensor<2>),
        learning_rate: f64,
    ) {
        let leaf = self.parameters.clone().autodiff().require_grad();
        let improvement = Improvement {
            policy: &distribution(&leaf, self.dims),
            reference,
            actions,
            judgement: Judgement::Values(values),
            state_weights: None,
        };
        let sum = loss.loss(&improvement, None).loss * self.dims[0] as f64;
        let gradients = sum.backward();
        let gradient = leaf.grad(&gradients).expect("the policy takes part");
        let parameters = self.parameters.clone();
        self.parameters = self.adam.step(parameters, gradient, learning_rate);
    }
}

fn distribution(parameters: &Tensor<1>, dims: [usize; 2]) -> ActionDistribution {
    let count = dims[0] * dims[1];
    ActionDistribution::Gaussian(DiagonalGaussian {
        mean: parameters.clone().slice(0..count).reshape(dims),
        std: parameters
            .clone()
            .slice(count..2 * count)
            .reshape(dims)
            .exp(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            functions: vec![Function::Sphere],
            dimension: 5,
            seeds: 2,
            iterations: 1500,
            learning_rate: 1e-2,
            ..Options::default()
        }
    }

    /// As many samples of a policy that does not move fall to a sixth of the start at best.
    #[test]
    fn every_algorithm_makes_progress_on_the_sphere() {
        let report = run(&options()).unwrap();
        for algorithm in &report.functions[0].algorithms {
            let AlgorithmReport {
                algorithm,
                start_median,
                best_by_seed,
                ..
            } = algorithm;
            for best in best_by_seed {
                let reached = *best < 0.1 * start_median;
                assert!(reached, "{algorithm}: {best} from {start_median}");
            }
        }
    }

    #[test]
    fn a_seed_s_course_is_its_own_and_repeats() {
        let both = optimise(&options(), Function::Sphere, Algorithm::PmpoAr);
        let alone = Options {
            seeds: 1,
            ..options()
        };
        let alone = optimise(&alone, Function::Sphere, Algorithm::PmpoAr);
        let (first, last) = (both[0].best[0], both[both.len() - 1].best[0]);
        assert_eq!(first, alone[0].best[0]);
        // Vectorised sums of one and of two states may round differently.
        let ratio = last / alone[alone.len() - 1].best[0];
        assert!((0.5..2.0).contains(&ratio), "{ratio}");
        assert_eq!(
            both,
            optimise(&options(), Function::Sphere, Algorithm::PmpoAr)
        );
    }

    #[test]
    fn options_that_cannot_be_are_refused() {
        let refused = |change: fn(&mut Options)| {
            let mut options = options();
            change(&mut options);
            run(&options).unwrap_err().to_string()
        };
        assert_eq!(
            refused(|o| o.dimension = 1),
            "dim: expected at least 2, got 1"
        );
        assert_eq!(
            refused(|o| o.beta = f64::NAN),
            "beta: expected a finite, positive number, got NaN"
        );
    }
}
