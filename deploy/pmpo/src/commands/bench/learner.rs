//! Measures one full PMPO step on this machine: `pmpo bench learner`.

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::Result;
use pmpo_kernels::matrix::{Matrix, multiply};
use pmpo_policy::TorsoConfig;
use pmpo_types::ConfigError;
use pmpo_update::{
    AgentConfig, BatchSource, DeviceChoice, Drawn, Learning, TrainState, random_windows, threads,
};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

const WARM_UP_STEPS: u64 = 10;

/// What is measured: the sizes of a task, its batch and its networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Case {
    /// 24 observations, 6 actions, batch 256, layers 256 and 256.
    Walker,
    /// 67 observations, 21 actions, batch 256, layers 256 and 256.
    Humanoid,
    /// 67 observations, 21 actions, batch 1024, layers 1024 and 1024.
    Large,
}

impl Case {
    /// Observation size, action size, batch size, width of the layers.
    fn sizes(self) -> [usize; 4] {
        match self {
            Self::Walker => [24, 6, 256, 256],
            Self::Humanoid => [67, 21, 256, 256],
            Self::Large => [67, 21, 1024, 1024],
        }
    }
}

impl FromStr for Case {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "walker" => Ok(Self::Walker),
            "humanoid" => Ok(Self::Humanoid),
            "large" => Ok(Self::Large),
            _ => Err(ConfigError::new("case", "walker, humanoid or large", text)),
        }
    }
}

/// Floating-point operations of the matrix products of one step. A product of a row with a matrix
/// takes two for each of the matrix's elements; the backward pass takes as many for the matrix's
/// gradient, and as many for the input's, which the first layer does not need.
fn product_flop(case: Case, actions_per_state: usize) -> usize {
    let [observation_size, action_size, batch_size, width] = case.sizes();
    let rest = |outputs| width * width + width * outputs;
    let forward = |inputs, outputs| inputs * width + rest(outputs);
    let train = |inputs, outputs| 2 * forward(inputs, outputs) + rest(outputs);
    let policy = (observation_size, 2 * action_size);
    let critic = (observation_size + action_size, 1);
    let row = forward(policy.0, policy.1)
        + actions_per_state * forward(critic.0, critic.1)
        + train(policy.0, policy.1)
        + train(critic.0, critic.1);
    2 * batch_size * row
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// The case.
    pub(crate) case: Case,
    /// Threads of the update.
    pub(crate) threads: usize,
    /// Steps taken.
    pub(crate) steps: u64,
    /// Steps a second of wall time.
    pub(crate) steps_per_s: f64,
    /// Milliseconds of CPU time a step, over all threads of the process.
    pub(crate) cpu_ms_per_step: f64,
    /// Floating-point operations of a step's matrix products, in millions.
    pub(crate) product_mflop_per_step: f64,
    /// Billions of them a second of one thread, in a large product on this machine's CPU, measured
    /// in the same run.
    pub(crate) sgemm_gflop_per_s: f64,
    /// Milliseconds of CPU time that the products alone take at that rate: no step is faster.
    pub(crate) floor_cpu_ms_per_step: f64,
    /// `cpu_ms_per_step` over the floor.
    pub(crate) cpu_over_floor: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} steps/s, {:.2} CPU ms a step over {} steps: {:.2} times the {:.2} ms of its {:.0} \
             MFLOP of matrix products at {:.0} GFLOP/s",
            self.steps_per_s,
            self.cpu_ms_per_step,
            self.steps,
            self.cpu_over_floor,
            self.floor_cpu_ms_per_step,
            self.product_mflop_per_step,
            self.sgemm_gflop_per_s
        )
    }
}

/// Steps between readings of the statistics, as a learner's default.
const STATS_PERIOD: u64 = 100;

/// Takes steps on one batch of random windows for `duration`.
///
/// # Errors
/// The device cannot be opened, or a statistic is not finite.
pub(crate) fn run(
    case: Case,
    threads: usize,
    duration: Duration,
    device: DeviceChoice,
) -> Result<Report> {
    let [observation_size, action_size, batch_size, width] = case.sizes();
    let mut config = AgentConfig::default();
    config.policy.torso = TorsoConfig::hidden(&[width, width]);
    config.critic.torso = TorsoConfig::hidden(&[width, width]);
    config.update.batch_size = batch_size;
    config.update.n_step = 1;
    config.update.threads = threads;
    threads::pool(threads)?.install(|| {
        let device = device.open()?;
        let sizes = [observation_size, action_size];
        let mut source = Repeating(Drawn {
            batch: random_windows(sizes, batch_size, config.update.window(), 7),
            origin: 0,
            weight: 1.0,
            trace: None,
        });
        let mut learning = Learning::new(TrainState::new(&config, sizes, 1, &device)?);
        let mut step = |learning: &mut Learning| -> Result<()> {
            let drawn = black_box(source.0.clone());
            learning.step(&drawn, &mut source)?;
            if learning.unread_steps() >= STATS_PERIOD {
                learning.read_statistics()?;
            }
            Ok(())
        };
        while learning.state().step() < WARM_UP_STEPS {
            step(&mut learning)?;
        }
        let (start, cpu) = (Instant::now(), cpu_time());
        while start.elapsed() < duration || learning.state().step() == WARM_UP_STEPS {
            step(&mut learning)?;
        }
        learning.read_statistics()?;
        let (elapsed, cpu) = (start.elapsed(), cpu_time() - cpu);
        let steps = learning.state().step() - WARM_UP_STEPS;
        let cpu_ms_per_step = cpu.as_secs_f64() * 1e3 / steps as f64;
        let flop = product_flop(case, config.update.actions_per_state) as f64;
        let flop_per_s = sgemm_flop_per_s();
        let floor_cpu_ms_per_step = flop / flop_per_s * 1e3;
        Ok(Report {
            case,
            threads,
            steps,
            steps_per_s: steps as f64 / elapsed.as_secs_f64(),
            cpu_ms_per_step,
            product_mflop_per_step: flop * 1e-6,
            sgemm_gflop_per_s: flop_per_s * 1e-9,
            floor_cpu_ms_per_step,
            cpu_over_floor: cpu_ms_per_step / floor_cpu_ms_per_step,
        })
    })
}

/// Floating-point operations a second of one thread of the CPU in a product of 512x512 matrices, at
/// which size the product is at its fastest: the median of a few repetitions.
fn sgemm_flop_per_s() -> f64 {
    const SIZE: usize = 512;
    let matrix = vec![0.5; SIZE * SIZE];
    let mut output = Box::new_uninit_slice(SIZE * SIZE);
    let mut seconds: Vec<f64> = (0..15)
        .map(|_| {
            let start = cpu_time();
            let matrix = Matrix::new(black_box(&matrix), SIZE);
            black_box(multiply(matrix, matrix, &mut output));
            (cpu_time() - start).as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    2.0 * SIZE.pow(3) as f64 / seconds[seconds.len() / 2]
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The same batch again and again.
struct Repeating(Drawn);

impl BatchSource for Repeating {
    type Error = std::convert::Infallible;

    fn next_batch(&mut self, _: Duration) -> Result<Option<Drawn>, Self::Error> {
        Ok(Some(self.0.clone()))
    }

    fn update_priorities(&mut self, _: usize, _: &[u64], _: &[f64]) -> Result<(), Self::Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, in millions of multiply-adds: the target policy 256 x 74,752, the target critic
    /// 1024 x 73,472; the online policy 256 x (2 x 74,752 + 68,608), the online critic
    /// 256 x (2 x 73,472 + 65,792).
    #[test]
    fn products_of_the_walker_case() {
        assert_eq!(product_flop(Case::Walker, 4), 2 * 204_668_928);
    }

    #[test]
    fn measures_at_least_one_step() {
        let case: Case = "walker".parse().unwrap();
        let report = run(case, 1, Duration::ZERO, DeviceChoice::Cpu).unwrap();
        assert!(report.steps >= 1 && report.cpu_over_floor > 0.0, "{report}");
        assert!("runner".parse::<Case>().is_err());
    }
}
