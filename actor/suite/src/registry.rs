//! The suite's tasks by name: one line each, in the order of dm_control's `suite.ALL_TASKS`.

use crate::environment::Environment;
use crate::error::SuiteError;
use crate::numpy::RandomState;
use crate::task::Setup;
use crate::tasks::{cartpole, cheetah, pendulum, point_mass, reacher, walker};

/// What builds a task. The generator is the one that later draws its initial states: some tasks
/// draw their model from it.
type Build = fn(&mut RandomState) -> Result<Setup, SuiteError>;

/// One registered task.
#[derive(Clone, Copy, Debug)]
pub struct TaskInfo {
    /// `domain-task`, with dashes for underscores.
    pub name: &'static str,
    /// Whether it belongs to the suite's benchmark (`suite.BENCHMARKING`).
    pub benchmarking: bool,
    build: Build,
}

impl TaskInfo {
    const fn benchmark(name: &'static str, build: Build) -> Self {
        Self {
            name,
            benchmarking: true,
            build,
        }
    }

    const fn extra(name: &'static str, build: Build) -> Self {
        Self {
            name,
            benchmarking: false,
            build,
        }
    }
}

static TASKS: &[TaskInfo] = &[
    TaskInfo::benchmark("cartpole-balance", |_| cartpole::balance()),
    TaskInfo::benchmark("cartpole-balance-sparse", |_| cartpole::balance_sparse()),
    TaskInfo::benchmark("cartpole-swingup", |_| cartpole::swingup()),
    TaskInfo::benchmark("cartpole-swingup-sparse", |_| cartpole::swingup_sparse()),
    TaskInfo::extra("cartpole-two-poles", |_| cartpole::two_poles()),
    TaskInfo::extra("cartpole-three-poles", |_| cartpole::three_poles()),
    TaskInfo::benchmark("cheetah-run", |_| cheetah::run()),
    TaskInfo::benchmark("pendulum-swingup", |_| pendulum::swingup()),
    TaskInfo::benchmark("point-mass-easy", |_| point_mass::easy()),
    TaskInfo::extra("point-mass-hard", |_| point_mass::hard()),
    TaskInfo::benchmark("reacher-easy", |_| reacher::easy()),
    TaskInfo::benchmark("reacher-hard", |_| reacher::hard()),
    TaskInfo::benchmark("walker-stand", |_| walker::stand()),
    TaskInfo::benchmark("walker-walk", |_| walker::walk()),
    TaskInfo::benchmark("walker-run", |_| walker::run()),
];

/// All tasks of the suite.
pub fn tasks() -> &'static [TaskInfo] {
    TASKS
}

/// Loads the task `name` so that it plays the episodes of `suite.load(domain, task,
/// task_kwargs={'random': seed})`. Seeds above 32 bits stand for NumPy's array seeds, low word
/// first.
///
/// # Errors
/// [`SuiteError::UnknownTask`] names similar tasks; the others say what is missing.
pub fn load(name: &str, seed: u64) -> Result<Environment, SuiteError> {
    let Some(info) = TASKS.iter().find(|info| info.name == name) else {
        return Err(SuiteError::UnknownTask {
            name: name.to_owned(),
            near_misses: near_misses(name),
        });
    };
    let mut random = RandomState::new(seed);
    let setup = (info.build)(&mut random)?;
    Environment::new(info.name, setup, random)
}

/// Up to three registered names that resemble `name`, the nearest first.
fn near_misses(name: &str) -> Vec<&'static str> {
    const SIMILAR: f64 = 0.8;
    let spelled = name.replace('_', "-");
    let mut scored: Vec<(f64, &'static str)> = TASKS
        .iter()
        .map(|info| (strsim::jaro_winkler(&spelled, info.name), info.name))
        .filter(|(score, _)| *score >= SIMILAR)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}
