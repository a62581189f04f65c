//! Measures one full PMPO step on this machine: `pmpo bench learner`.

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pmpo_policy::NetworkConfig;
use pmpo_types::{ColumnBatch, DType, transition};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::statistics::Statistics;
use crate::{Batch, ConfigError, DeviceChoice, LearnerConfig, LearnerError, TrainState, threads};

const WARM_UP_STEPS: u64 = 10;

/// What is measured: the sizes of a task, its batch and its networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
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

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The case.
    pub case: Case,
    /// Threads of the update.
    pub threads: usize,
    /// Steps taken.
    pub steps: u64,
    /// Steps a second of wall time.
    pub steps_per_s: f64,
    /// Milliseconds of CPU time a step, over all threads of the process.
    pub cpu_ms_per_step: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} steps/s, {:.2} CPU ms a step over {} steps",
            self.steps_per_s, self.cpu_ms_per_step, self.steps
        )
    }
}

/// Takes steps on one batch of random transitions for `duration`.
///
/// # Errors
/// The device cannot be opened, or a statistic is not finite.
pub fn run(
    case: Case,
    threads: usize,
    duration: Duration,
    device: DeviceChoice,
) -> Result<Report, LearnerError> {
    let device = device.open()?;
    let [observation_size, action_size, batch_size, width] = case.sizes();
    let config = LearnerConfig {
        batch_size,
        threads,
        ..LearnerConfig::default()
    };
    let network = NetworkConfig {
        hidden_sizes: vec![width; 2],
        ..NetworkConfig::default()
    };
    config.validate(&network.head)?;
    threads::pool(threads)?.install(|| {
        let columns = random_batch(observation_size, action_size, batch_size);
        let sizes = [observation_size, action_size];
        let mut state = TrainState::new(&network, &config, sizes, 1, &device);
        let mut statistics = Statistics::default();
        let mut step = |state: &mut TrainState| {
            let batch = Batch::new(black_box(&columns), &device);
            statistics.push(state.update(&config, &batch), batch.name.clone());
            if statistics.pending() >= config.stats_period_steps {
                statistics.read(state.step())?;
            }
            Ok::<(), LearnerError>(())
        };
        while state.step() < WARM_UP_STEPS {
            step(&mut state)?;
        }
        let (start, cpu) = (Instant::now(), cpu_time());
        while start.elapsed() < duration || state.step() == WARM_UP_STEPS {
            step(&mut state)?;
        }
        statistics.read(state.step())?;
        let steps = state.step() - WARM_UP_STEPS;
        Ok(Report {
            case,
            threads,
            steps,
            steps_per_s: steps as f64 / start.elapsed().as_secs_f64(),
            cpu_ms_per_step: (cpu_time() - cpu).as_secs_f64() * 1e3 / steps as f64,
        })
    })
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Transitions of standard normal numbers; episodes never end.
pub(crate) fn random_batch(
    observation_size: usize,
    action_size: usize,
    batch_size: usize,
) -> ColumnBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let signature = transition::signature(observation_size, action_size);
    let columns = signature.columns.iter().enumerate().map(|(index, spec)| {
        let count = spec.elements() * batch_size;
        match (spec.dtype, index) {
            (DType::I64, _) => Bytes::from(vec![0; count * 8]),
            (DType::F32, transition::DISCOUNT) => {
                (0..count).flat_map(|_| 0.95f32.to_le_bytes()).collect()
            }
            (DType::F32, _) => StandardNormal
                .sample_iter(&mut rng)
                .take(count)
                .flat_map(|value: f32| value.to_le_bytes())
                .collect(),
        }
    });
    ColumnBatch::new(&signature, batch_size, columns.collect()).expect("made to the signature")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_at_least_one_step() {
        let case: Case = "walker".parse().unwrap();
        let report = run(case, 1, Duration::ZERO, DeviceChoice::Cpu).unwrap();
        assert!(
            report.steps >= 1 && report.cpu_ms_per_step > 0.0,
            "{report}"
        );
        assert!("runner".parse::<Case>().is_err());
    }
}
