//! The suite's tasks by name: one line each, in the order of dm_control's `suite.ALL_TASKS`.

use crate::environment::Environment;
use crate::error::SuiteError;
use crate::numpy::RandomState;
use crate::task::Setup;
use crate::tasks::{
    acrobot, ball_in_cup, cartpole, cheetah, dog, finger, fish, hopper, humanoid, humanoid_cmu,
    lqr, manipulator, pendulum, point_mass, quadruped, reacher, stacker, swimmer, walker,
};

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
    TaskInfo::benchmark("acrobot-swingup", |_| acrobot::swingup()),
    TaskInfo::benchmark("acrobot-swingup-sparse", |_| acrobot::swingup_sparse()),
    TaskInfo::benchmark("ball-in-cup-catch", |_| ball_in_cup::catch()),
    TaskInfo::benchmark("cartpole-balance", |_| cartpole::balance()),
    TaskInfo::benchmark("cartpole-balance-sparse", |_| cartpole::balance_sparse()),
    TaskInfo::benchmark("cartpole-swingup", |_| cartpole::swingup()),
    TaskInfo::benchmark("cartpole-swingup-sparse", |_| cartpole::swingup_sparse()),
    TaskInfo::extra("cartpole-two-poles", |_| cartpole::two_poles()),
    TaskInfo::extra("cartpole-three-poles", |_| cartpole::three_poles()),
    TaskInfo::benchmark("cheetah-run", |_| cheetah::run()),
    TaskInfo::extra("dog-stand", |_| dog::stand()),
    TaskInfo::extra("dog-walk", |_| dog::walk()),
    TaskInfo::extra("dog-trot", |_| dog::trot()),
    TaskInfo::extra("dog-run", |_| dog::run()),
    TaskInfo::extra("dog-fetch", |_| dog::fetch()),
    TaskInfo::benchmark("finger-spin", |_| finger::spin()),
    TaskInfo::benchmark("finger-turn-easy", |_| finger::turn_easy()),
    TaskInfo::benchmark("finger-turn-hard", |_| finger::turn_hard()),
    TaskInfo::benchmark("fish-upright", |_| fish::upright()),
    TaskInfo::benchmark("fish-swim", |_| fish::swim()),
    TaskInfo::benchmark("hopper-stand", |_| hopper::stand()),
    TaskInfo::benchmark("hopper-hop", |_| hopper::hop()),
    TaskInfo::benchmark("humanoid-stand", |_| humanoid::stand()),
    TaskInfo::benchmark("humanoid-walk", |_| humanoid::walk()),
    TaskInfo::benchmark("humanoid-run", |_| humanoid::run()),
    TaskInfo::extra("humanoid-run-pure-state", |_| humanoid::run_pure_state()),
    TaskInfo::extra("humanoid-CMU-stand", |_| humanoid_cmu::stand()),
    TaskInfo::extra("humanoid-CMU-walk", |_| humanoid_cmu::walk()),
    TaskInfo::extra("humanoid-CMU-run", |_| humanoid_cmu::run()),
    TaskInfo::extra("lqr-lqr-2-1", lqr::lqr_2_1),
    TaskInfo::extra("lqr-lqr-6-2", lqr::lqr_6_2),
    TaskInfo::benchmark("manipulator-bring-ball", |_| manipulator::bring_ball()),
    TaskInfo::extra("manipulator-bring-peg", |_| manipulator::bring_peg()),
    TaskInfo::extra("manipulator-insert-ball", |_| manipulator::insert_ball()),
    TaskInfo::extra("manipulator-insert-peg", |_| manipulator::insert_peg()),
    TaskInfo::benchmark("pendulum-swingup", |_| pendulum::swingup()),
    TaskInfo::benchmark("point-mass-easy", |_| point_mass::easy()),
    TaskInfo::extra("point-mass-hard", |_| point_mass::hard()),
    TaskInfo::extra("quadruped-walk", |_| quadruped::walk()),
    TaskInfo::extra("quadruped-run", |_| quadruped::run()),
    TaskInfo::extra("quadruped-escape", |_| quadruped::escape()),
    TaskInfo::extra("quadruped-fetch", |_| quadruped::fetch()),
    TaskInfo::benchmark("reacher-easy", |_| reacher::easy()),
    TaskInfo::benchmark("reacher-hard", |_| reacher::hard()),
    TaskInfo::extra("stacker-stack-2", |_| stacker::stack_2()),
    TaskInfo::extra("stacker-stack-4", |_| stacker::stack_4()),
    TaskInfo::benchmark("swimmer-swimmer6", |_| swimmer::swimmer6()),
    TaskInfo::benchmark("swimmer-swimmer15", |_| swimmer::swimmer15()),
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
