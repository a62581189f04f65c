//! The environment loop. Source: dm_control's `rl/control.py`.
//!
//! Differs from it where an error would otherwise pass silently: actions are checked against their
//! bounds, and after a [`PhysicsError`](crate::PhysicsError) the next step starts a new episode.

use std::fmt;

use mujoco_rs::mujoco_c::mjMAXVAL;
use pmpo_types::{ActionSpec, EnvironmentSpec, StepType, TimeStep};

use crate::error::SuiteError;
use crate::numpy::RandomState;
use crate::observation::Observation;
use crate::physics::Physics;
use crate::task::{Setup, Task};

/// One task of the suite, with its simulation and its random generator.
pub struct Environment {
    pub(crate) physics: Physics,
    task: Box<dyn Task>,
    random: RandomState,
    observation: Observation,
    spec: EnvironmentSpec,
    substeps: usize,
    /// Control steps until the time limit; infinite for none. Not always whole: see
    /// [`EnvironmentSpec::step_limit`].
    step_limit: f64,
    step_count: usize,
    reset_next_step: bool,
}

impl Environment {
    pub(crate) fn new(
        name: &'static str,
        setup: Setup,
        random: RandomState,
    ) -> Result<Self, SuiteError> {
        let Setup {
            mut physics,
            task,
            timing,
        } = setup;
        let timestep = physics.timestep();
        let substeps = match timing.control_timestep {
            Some(control) => (control / timestep).round() as usize,
            None => 1,
        };
        let control_timestep = timestep * substeps as f64;
        let step_limit = timing.time_limit / control_timestep;
        physics.reset().unwrap_or_default();
        let spec = EnvironmentSpec {
            task: name.to_owned(),
            observation: Vec::new(),
            action: action_spec(&physics),
            control_timestep,
            step_limit: step_limit.is_finite().then(|| step_limit.ceil() as usize),
            action_repeat: 1,
        };
        let observation = Observation::default();
        let mut environment = Self {
            physics,
            task,
            random,
            observation,
            spec,
            substeps,
            step_limit,
            step_count: 0,
            reset_next_step: true,
        };
        environment.observe();
        environment.spec.observation = environment.observation.fields().to_vec();
        Ok(environment)
    }

    /// From now on a step carries its action out for so many control steps, or to the episode's end, and its
    /// reward is their sum (`acme/wrappers/action_repeat.py`).
    ///
    /// # Panics
    /// If it is 0.
    #[must_use]
    pub fn with_action_repeat(mut self, control_steps: usize) -> Self {
        assert!(control_steps > 0, "an action is carried out");
        self.spec.action_repeat = control_steps;
        self
    }

    /// What the environment promises about its observations and actions.
    pub fn spec(&self) -> &EnvironmentSpec {
        &self.spec
    }

    /// Starts the random generator again, as `RandomState(seed)`; the next step starts a new episode with
    /// it. What the task drew when it was loaded stays.
    pub fn reseed(&mut self, seed: u64) {
        self.random = RandomState::new(seed);
        self.reset_next_step = true;
    }

    /// Starts a new episode.
    ///
    /// # Errors
    /// [`SuiteError::Physics`] if the initial state is invalid; another reset draws another one.
    pub fn reset(&mut self) -> Result<TimeStep<'_>, SuiteError> {
        self.reset_next_step = true;
        // This forward pass only prepares the task's initialisation: dm_control, too, ignores what
        // MuJoCo warns of here.
        self.physics.reset().unwrap_or_default();
        self.task
            .initialize_episode(&mut self.physics, &mut self.random)?;
        self.physics.after_reset()?;
        self.reset_next_step = false;
        self.step_count = 0;
        self.observe();
        let observation = self.observation.values();
        Ok(TimeStep {
            step_type: StepType::First,
            reward: None,
            discount: None,
            observation,
        })
    }

    /// Advances by one control step, or as many as actions are repeated; after the last step of an episode, starts the next episode
    /// and ignores the action.
    ///
    /// # Errors
    /// [`SuiteError::ActionSize`] and [`SuiteError::ActionValue`] leave the state as it was.
    /// [`SuiteError::Physics`] voids the episode: the next step, or a reset, starts another.
    pub fn step(&mut self, action: &[f64]) -> Result<TimeStep<'_>, SuiteError> {
        if self.reset_next_step {
            return self.reset();
        }
        self.check(action)?;
        let (mut reward, mut end) = self.control_step(action)?;
        for _ in 1..self.spec.action_repeat {
            if end.is_some() {
                break;
            }
            let (more, ended) = self.control_step(action)?;
            (reward, end) = (reward + more, ended);
        }
        self.reset_next_step = end.is_some();
        self.observe();
        Ok(TimeStep {
            step_type: if end.is_some() {
                StepType::Last
            } else {
                StepType::Mid
            },
            reward: Some(reward),
            discount: Some(end.unwrap_or(1.0)),
            observation: self.observation.values(),
        })
    }

    /// One control step: its reward, and the discount with which the episode ended, if it did.
    fn control_step(&mut self, action: &[f64]) -> Result<(f64, Option<f64>), SuiteError> {
        self.physics.ctrl_mut().copy_from_slice(action);
        if let Err(error) = self.physics.step(self.substeps) {
            self.reset_next_step = true;
            return Err(error.into());
        }
        self.step_count += 1;
        let reward = self.task.reward(&self.physics);
        let end = if self.step_count as f64 >= self.step_limit {
            Some(1.0)
        } else {
            self.task.termination(&self.physics)
        };
        Ok((reward, end))
    }

    /// Sets the controls and calls `mj_step`, without rewards, observations or checks: what the
    /// suite's speed is measured against.
    pub(crate) fn step_bare(&mut self, action: &[f64]) -> Result<(), SuiteError> {
        self.physics.ctrl_mut().copy_from_slice(action);
        self.physics.step_bare(self.substeps);
        self.step_count += 1;
        if self.step_count as f64 >= self.step_limit {
            self.reset().map(drop)
        } else {
            Ok(())
        }
    }

    /// Refuses an action that the task does not take.
    pub(crate) fn check(&self, action: &[f64]) -> Result<(), SuiteError> {
        let ActionSpec { minimum, maximum } = &self.spec.action;
        let (found, expected) = (action.len(), minimum.len());
        if found != expected {
            return Err(SuiteError::ActionSize { found, expected });
        }
        let bounds = minimum.iter().zip(maximum);
        for (index, (&value, (&minimum, &maximum))) in action.iter().zip(bounds).enumerate() {
            if !(minimum <= value && value <= maximum) {
                return Err(SuiteError::ActionValue {
                    index,
                    value,
                    minimum,
                    maximum,
                });
            }
        }
        Ok(())
    }

    fn observe(&mut self) {
        let Self {
            physics,
            task,
            observation,
            ..
        } = self;
        observation.rewrite(|observation| task.observe(physics, observation));
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("task", &self.spec.task)
            .field("step_count", &self.step_count)
            .finish_non_exhaustive()
    }
}

/// Bounds of the controls; MuJoCo's largest value stands for none, as in dm_control.
fn action_spec(physics: &Physics) -> ActionSpec {
    let model = physics.model();
    let bounds = model
        .actuator_ctrlrange()
        .iter()
        .zip(model.actuator_ctrllimited());
    let unlimited = [-mjMAXVAL, mjMAXVAL];
    let bounds: Vec<[f64; 2]> = bounds
        .map(|(range, limited)| if *limited { *range } else { unlimited })
        .collect();
    ActionSpec {
        minimum: bounds.iter().map(|bound| bound[0]).collect(),
        maximum: bounds.iter().map(|bound| bound[1]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// dm_control raises PhysicsError on a new MuJoCo warning; here the episode is void and the
    /// next step begins another one.
    #[test]
    fn a_diverged_simulation_voids_the_episode_and_the_next_step_begins_another() {
        let mut environment = crate::load("walker-walk", 1).unwrap();
        let action = [0.0; 6];
        environment.reset().unwrap();
        environment.step(&action).unwrap();
        environment.physics.qvel_mut()[0] = f64::NAN;
        let error = environment.step(&action).unwrap_err();
        assert!(matches!(error, SuiteError::Physics(_)));
        assert!(error.to_string().contains("mjWARN_BADQ"), "{error}");
        assert_eq!(
            environment.step(&action).unwrap().step_type,
            StepType::First
        );
        assert_eq!(environment.step(&action).unwrap().step_type, StepType::Mid);
    }

    /// Only lqr ends by itself: at rest at the origin, with discount 0.
    #[test]
    fn a_repeated_action_is_as_many_steps_with_it() {
        let load = || crate::load("cartpole-swingup", 3).unwrap();
        let (mut once, mut repeated) = (load(), load().with_action_repeat(3));
        assert_ne!(once.spec().digest(), repeated.spec().digest());
        once.reset().unwrap();
        repeated.reset().unwrap();
        // 1000 control steps: 333 times three, and one more.
        for decision in 0..334 {
            let action = [(f64::from(decision) * 0.7).sin()];
            let mut expected = 0.0;
            let mut last = false;
            for _ in 0..3 {
                let step = once.step(&action).unwrap();
                expected += step.reward.unwrap();
                last = step.is_last();
                if last {
                    break;
                }
            }
            let observation = once.observation.values().to_vec();
            let step = repeated.step(&action).unwrap();
            assert_eq!((step.reward, step.is_last()), (Some(expected), last));
            assert_eq!(step.observation, observation);
            assert_eq!(last, decision == 333);
        }
    }

    #[test]
    fn lqr_terminates_at_the_origin() {
        let mut environment = crate::load("lqr-lqr-2-1", 1).unwrap();
        environment.reset().unwrap();
        environment.physics.qpos_mut().fill(0.0);
        environment.physics.qvel_mut().fill(0.0);
        environment.physics.after_reset().unwrap();
        let step = environment.step(&[0.0]).unwrap();
        assert_eq!((step.step_type, step.discount), (StepType::Last, Some(0.0)));
    }

    #[test]
    fn no_log_file_is_written() {
        let mut environment = crate::load("walker-walk", 1).unwrap();
        environment.reset().unwrap();
        environment.physics.qpos_mut()[1] = f64::INFINITY;
        assert!(environment.step(&[0.0; 6]).is_err());
        assert!(!std::path::Path::new("MUJOCO_LOG.TXT").exists());
    }
}
