//! How fast the suite steps, beside bare `mj_step` on the same models in the same run.
//!
//! Every thread alternates between slices of the suite and slices of bare stepping, so that both
//! see the same machine. The bare loop sets the controls and calls `mj_step`, nothing else; it gets
//! the same models, initial states and actions, because the cost of a step depends on its contacts.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::environment::Environment;
use crate::error::SuiteError;
use crate::numpy::RandomState;

/// Time a thread spends on one kind of stepping before it changes to the other.
const SLICE: Duration = Duration::from_millis(100);
/// Distinct random actions each thread cycles through.
const ACTIONS: usize = 1009;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The task's name.
    pub task: String,
    /// Number of environments, at least one; they are dealt out to the threads.
    pub environments: usize,
    /// Number of threads, at least one and at most one an environment.
    pub threads: usize,
    /// How long to measure.
    pub duration: Duration,
}

/// Control steps a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Of the suite, by the clock, all threads together.
    pub steps_per_s: f64,
    /// Of the suite, for each second of CPU.
    pub steps_per_cpu_s: f64,
    /// Of bare `mj_step`, by the clock, all threads together.
    pub raw_steps_per_s: f64,
    /// Of bare `mj_step`, for each second of CPU.
    pub raw_steps_per_cpu_s: f64,
}

/// Measures random-action stepping, resets included.
///
/// # Errors
/// Those of [`crate::load`]. Diverging simulations only start a new episode.
pub fn run(options: &Options) -> Result<Report, SuiteError> {
    let threads = options.threads.clamp(1, options.environments.max(1));
    let mut workers = Vec::new();
    for thread in 0..threads {
        let seeds = (thread..options.environments.max(1)).step_by(threads);
        workers.push(Worker::new(&options.task, seeds)?);
    }
    let worked: Vec<[Work; 2]> = std::thread::scope(|scope| {
        let running: Vec<_> = workers
            .into_iter()
            .map(|mut worker| scope.spawn(move || worker.run(options.duration)))
            .collect();
        running
            .into_iter()
            .map(|handle| handle.join().expect("workers do not panic"))
            .collect()
    });
    let per_s = |kind: usize| worked.iter().map(|work| work[kind].steps_per_s()).sum();
    let per_cpu_s = |kind: usize| {
        let steps: f64 = worked.iter().map(|work| work[kind].steps as f64).sum();
        steps
            / worked
                .iter()
                .map(|work| work[kind].cpu.as_secs_f64())
                .sum::<f64>()
    };
    Ok(Report {
        steps_per_s: per_s(0),
        steps_per_cpu_s: per_cpu_s(0),
        raw_steps_per_s: per_s(1),
        raw_steps_per_cpu_s: per_cpu_s(1),
    })
}

/// Bare `mj_step` on one task's model, a slice of time at a time, for others to compare themselves
/// with in the same run.
pub struct BareStepper {
    worker: Worker,
    cursor: usize,
    work: Work,
}

impl BareStepper {
    /// A stepper of one environment.
    ///
    /// # Errors
    /// Those of [`crate::load`].
    pub fn new(task: &str) -> Result<Self, SuiteError> {
        Ok(Self {
            worker: Worker::new(task, std::iter::once(0))?,
            cursor: 0,
            work: Work::default(),
        })
    }

    /// Steps for a tenth of a second with random actions.
    pub fn slice(&mut self) {
        slice(
            &mut self.worker.bare,
            &self.worker.actions,
            &mut self.cursor,
            &mut self.work,
            Environment::step_bare,
        );
    }

    /// What all slices came to.
    pub fn work(&self) -> Work {
        self.work
    }
}

/// Control steps, and the time they took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Control steps.
    pub steps: u64,
    /// By the clock.
    pub wall: Duration,
    /// Of the stepping thread's CPU.
    pub cpu: Duration,
}

impl Work {
    fn steps_per_s(&self) -> f64 {
        self.steps as f64 / self.wall.as_secs_f64()
    }
}

/// The environments of one thread, twice: for the suite's steps and for bare ones.
struct Worker {
    suite: Vec<Environment>,
    bare: Vec<Environment>,
    actions: Vec<Vec<f64>>,
}

impl Worker {
    fn new(task: &str, seeds: impl Iterator<Item = usize> + Clone) -> Result<Self, SuiteError> {
        let load = |seed| {
            let mut environment = crate::load(task, seed as u64)?;
            environment.reset()?;
            Ok(environment)
        };
        let suite: Vec<Environment> = seeds.clone().map(load).collect::<Result<_, SuiteError>>()?;
        let bare = seeds.clone().map(load).collect::<Result<_, SuiteError>>()?;
        let mut random = RandomState::new(seeds.sum::<usize>() as u64);
        let bounds = &suite[0].spec().action;
        // Tasks without bounds would only diverge.
        let draw = |(low, high): (&f64, &f64), random: &mut RandomState| {
            random.uniform(low.max(-1.0), high.min(1.0))
        };
        let actions = (0..ACTIONS)
            .map(|_| {
                let bounds = bounds.minimum.iter().zip(&bounds.maximum);
                bounds.map(|bound| draw(bound, &mut random)).collect()
            })
            .collect();
        Ok(Self {
            suite,
            bare,
            actions,
        })
    }

    fn run(&mut self, duration: Duration) -> [Work; 2] {
        let mut work = [Work::default(); 2];
        let mut cursors = [0; 2];
        let begin = Instant::now();
        while begin.elapsed() < duration {
            let (suite, bare) = (&mut self.suite, &mut self.bare);
            slice(
                suite,
                &self.actions,
                &mut cursors[0],
                &mut work[0],
                |environment, action| environment.step(action).map(drop),
            );
            slice(
                bare,
                &self.actions,
                &mut cursors[1],
                &mut work[1],
                Environment::step_bare,
            );
        }
        work
    }
}

/// Steps all environments in turn until the slice is over.
fn slice(
    environments: &mut [Environment],
    actions: &[Vec<f64>],
    cursor: &mut usize,
    work: &mut Work,
    step: impl Fn(&mut Environment, &[f64]) -> Result<(), SuiteError>,
) {
    let (begin, cpu) = (Instant::now(), thread_cpu());
    while begin.elapsed() < SLICE {
        for environment in &mut *environments {
            // A diverged step is void and not counted; the next one starts another episode.
            work.steps += u64::from(step(environment, &actions[*cursor]).is_ok());
            *cursor = (*cursor + 1) % actions.len();
        }
    }
    work.wall += begin.elapsed();
    work.cpu += thread_cpu() - cpu;
}

fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rates_are_measured() {
        let options = Options {
            task: "cartpole-swingup".to_owned(),
            environments: 3,
            threads: 2,
            duration: Duration::from_millis(300),
        };
        let report = run(&options).unwrap();
        for rate in [
            report.steps_per_s,
            report.steps_per_cpu_s,
            report.raw_steps_per_s,
            report.raw_steps_per_cpu_s,
        ] {
            assert!(rate > 100.0, "{report:?}");
        }
    }
}
