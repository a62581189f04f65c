//! What every task must keep, over the whole registry. After dm_control's `suite_test.py`.

use pmpo_suite::{Environment, SuiteError, TaskInfo, load, tasks};
use pmpo_types::StepType;

/// Uniform actions within the bounds, or within [-1, 1] where there are none, from a small
/// generator of the test's own (xorshift).
struct Actions {
    state: u64,
    bounds: Vec<[f64; 2]>,
    action: Vec<f64>,
}

impl Actions {
    fn new(environment: &Environment, seed: u64) -> Self {
        let spec = &environment.spec().action;
        let bounds = spec.minimum.iter().zip(&spec.maximum);
        let bounds: Vec<[f64; 2]> = bounds
            .map(|(low, high)| [low.max(-1.0), high.min(1.0)])
            .collect();
        Self {
            state: seed.wrapping_mul(2) + 1,
            action: vec![0.0; bounds.len()],
            bounds,
        }
    }

    fn next(&mut self) -> &[f64] {
        for ([low, high], value) in self.bounds.iter().zip(&mut self.action) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            *value = low + (high - low) * ((self.state >> 11) as f64 / (1_u64 << 53) as f64);
        }
        &self.action
    }
}

fn for_each_task(check: impl Fn(&TaskInfo) + Sync) {
    let half = tasks().len() / 2;
    std::thread::scope(|scope| {
        for part in [&tasks()[..half], &tasks()[half..]] {
            scope.spawn(|| part.iter().for_each(&check));
        }
    });
}

fn open(info: &TaskInfo, seed: u64) -> Environment {
    load(info.name, seed).unwrap_or_else(|error| panic!("{}: {error}", info.name))
}

#[test]
fn the_registry_is_dm_controls() {
    assert_eq!(tasks().len(), 51);
    assert_eq!(tasks().iter().filter(|info| info.benchmarking).count(), 28);
    let mut names: Vec<&str> = tasks().iter().map(|info| info.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 51);
}

#[test]
fn specs_describe_what_is_returned() {
    for_each_task(|info| {
        let mut environment = open(info, 1);
        let spec = environment.spec().clone();
        assert_eq!(spec.task, info.name);
        assert!(
            spec.action_size() > 0 && spec.observation_size() > 0,
            "{}",
            info.name
        );
        assert!(
            spec.observation.iter().all(|field| field.size > 0),
            "{}",
            info.name
        );
        assert!(spec.control_timestep > 0.0);
        // Only lqr has no time limit. All benchmarking tasks have 1000 steps.
        assert_eq!(
            spec.step_limit.is_none(),
            info.name.starts_with("lqr"),
            "{}",
            info.name
        );
        assert!(
            !info.benchmarking || spec.step_limit == Some(1000),
            "{}",
            info.name
        );
        for (low, high) in spec.action.minimum.iter().zip(&spec.action.maximum) {
            assert!(
                low.is_finite() && high.is_finite() && low < high,
                "{}",
                info.name
            );
        }
        let step = environment.reset().unwrap();
        assert_eq!(step.observation.len(), spec.observation_size());
        assert_eq!(
            (step.step_type, step.reward, step.discount),
            (StepType::First, None, None)
        );
    });
}

#[test]
fn values_are_finite_rewards_within_range_and_episodes_as_long_as_promised() {
    for_each_task(|info| {
        let mut environment = open(info, 2);
        let limit = environment.spec().step_limit;
        let quadratic_cost = info.name.starts_with("lqr");
        let mut actions = Actions::new(&environment, 2);
        environment.reset().unwrap();
        for count in 1..=limit.unwrap_or(1000) {
            let step = environment.step(actions.next()).unwrap();
            assert!(
                step.observation.iter().all(|value| value.is_finite()),
                "{}",
                info.name
            );
            let reward = step.reward.unwrap();
            assert!(
                reward <= 1.0 && (reward >= 0.0 || quadratic_cost),
                "{} {reward}",
                info.name
            );
            assert_eq!(step.discount, Some(1.0));
            assert_eq!(
                step.is_last(),
                Some(count) == limit,
                "{} {count}",
                info.name
            );
        }
        if limit.is_some() {
            let step = environment.step(actions.next()).unwrap();
            assert_eq!(step.step_type, StepType::First, "{}", info.name);
        }
    });
}

#[test]
fn the_same_seed_gives_the_same_episodes_and_another_seed_others() {
    for_each_task(|info| {
        let [mut a, mut b, mut other] = [7, 7, 8].map(|seed| open(info, seed));
        let mut actions = Actions::new(&a, 3);
        for _ in 0..2 {
            let first = a.reset().unwrap().observation.to_vec();
            assert_eq!(first, b.reset().unwrap().observation);
            assert_ne!(first, other.reset().unwrap().observation, "{}", info.name);
            for _ in 0..20 {
                let action = actions.next();
                assert_eq!(
                    a.step(action).unwrap(),
                    b.step(action).unwrap(),
                    "{}",
                    info.name
                );
            }
        }
    });
}

#[test]
fn starts_are_randomised() {
    for_each_task(|info| {
        let mut environment = open(info, 4);
        let first = environment.reset().unwrap().observation.to_vec();
        assert_ne!(
            first,
            environment.reset().unwrap().observation,
            "{}",
            info.name
        );
    });
}

#[test]
fn instances_share_nothing() {
    for_each_task(|info| {
        let [mut a, mut b, mut reference] = [5, 5, 5].map(|seed| open(info, seed));
        let mut actions = Actions::new(&a, 5);
        b.reset().unwrap();
        reference.reset().unwrap();
        let action = actions.next().to_vec();
        // Another instance's resets, which edit its model, and steps must leave no mark here.
        for _ in 0..3 {
            a.reset().unwrap();
            for _ in 0..5 {
                a.step(actions.next()).unwrap();
            }
        }
        for _ in 0..5 {
            let expected = reference.step(&action).unwrap();
            assert_eq!(b.step(&action).unwrap(), expected, "{}", info.name);
        }
    });
}

#[test]
fn bad_actions_are_refused_and_leave_the_state_alone() {
    for_each_task(|info| {
        let [mut a, mut reference] = [6, 6].map(|seed| open(info, seed));
        a.reset().unwrap();
        reference.reset().unwrap();
        let action = Actions::new(&a, 6).next().to_vec();
        let beyond = a.spec().action.maximum[0] * 1.01;
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, beyond] {
            let mut broken = action.clone();
            broken[0] = bad;
            assert!(matches!(
                a.step(&broken),
                Err(SuiteError::ActionValue { index: 0, .. })
            ));
        }
        assert!(matches!(
            a.step(&action[1..]),
            Err(SuiteError::ActionSize { .. })
        ));
        assert_eq!(
            a.step(&action).unwrap(),
            reference.step(&action).unwrap(),
            "{}",
            info.name
        );
    });
}
