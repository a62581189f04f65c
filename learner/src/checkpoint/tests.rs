//! Resumption bit for bit, and damage.

use burn::tensor::Device;
use pmpo_losses::{C51Config, CriticLoss, MpoConfig, PolicyLoss};
use pmpo_policy::{CategoricalHead, GaussianHead, HeadConfig, snapshot};
use pmpo_service::security::Credentials;
use pmpo_types::{ActionSpec, EnvironmentSpec, ObservationField, transition};

use super::*;
use crate::bench::random_batch;
use crate::parameters::named_tensors;
use crate::{Batch, DeviceChoice, Limits};

fn options(run_dir: &Path) -> LearnerOptions {
    let spec = EnvironmentSpec {
        task: "test-task".to_owned(),
        observation: vec![ObservationField {
            name: "x".to_owned(),
            size: 3,
        }],
        action: ActionSpec {
            minimum: vec![-1.0; 2],
            maximum: vec![1.0; 2],
        },
        control_timestep: 0.01,
        step_limit: None,
    };
    LearnerOptions {
        run_id: "test".to_owned(),
        task: spec.task.clone(),
        seed: 4,
        spec,
        policy: NetworkConfig {
            hidden_sizes: vec![8, 8],
            ..NetworkConfig::default()
        },
        learner: LearnerConfig {
            target_period_steps: 7,
            ..LearnerConfig::default()
        },
        limits: Limits::default(),
        replay_addresses: vec!["127.0.0.1:1".to_owned()],
        credentials: Credentials::default(),
        run_dir: run_dir.to_owned(),
        resume: false,
        device: DeviceChoice::Cpu,
    }
}

fn fresh(options: &LearnerOptions, seed: u64) -> TrainState {
    TrainState::new(
        &options.policy,
        &options.learner,
        [3, 2],
        seed,
        &Device::flex(),
    )
}

fn save(checkpoints: &Checkpoints, options: &LearnerOptions, state: &TrainState) {
    let policy = snapshot::encode(&options.policy, 3, 2, &state.policy_tensors()).unwrap();
    let totals = Totals {
        learner_steps: state.step(),
        policy_version: state.step() / 10,
        environment: EnvironmentSteps {
            total: 1234,
            table_inserts: vec![200, 34],
        },
        training_seconds: 5.5,
    };
    checkpoints.save(options, state, &policy, &totals).unwrap();
}

fn advance(state: &mut TrainState, options: &LearnerOptions, steps: usize) {
    let batch = Batch::new(
        &random_batch(&transition::signature(3, 2), 16),
        &Device::flex(),
    );
    for _ in 0..steps {
        state.update(&options.learner, &batch);
    }
}

/// 50 updates after resuming, on the same batches, for every state that a loss may keep: none, dual
/// variables, a categorical head with a distributional critic.
#[test]
fn a_resumed_run_goes_on_bit_for_bit() {
    let gaussian = HeadConfig::Gaussian(GaussianHead::default());
    let categorical = HeadConfig::Categorical(CategoricalHead::default());
    let mpo = || PolicyLoss::Mpo(MpoConfig::default());
    let atoms = CriticLoss::Categorical(C51Config::default());
    for (head, policy_loss, critic_loss) in [
        (gaussian.clone(), PolicyLoss::default(), CriticLoss::Mse {}),
        (gaussian, mpo(), CriticLoss::Mse {}),
        (categorical, mpo(), atoms),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        options.policy.head = head;
        options.learner.policy_loss = policy_loss;
        options.learner.critic_loss = critic_loss;
        goes_on_bit_for_bit(&options);
    }
}

fn goes_on_bit_for_bit(options: &LearnerOptions) {
    let checkpoints = Checkpoints::create(options).unwrap();
    let mut state = fresh(options, 1);
    advance(&mut state, options, 25);
    save(&checkpoints, options, &state);

    // The state it replaces has other weights and another generator.
    let (_, mut resumed, totals) = Checkpoints::resume(options, fresh(options, 2)).unwrap();
    assert_eq!((totals.learner_steps, totals.policy_version), (25, 2));
    assert_eq!(
        totals.environment,
        EnvironmentSteps {
            total: 1234,
            table_inserts: vec![200, 34]
        }
    );
    assert_eq!(totals.training_seconds, 5.5);
    for state in [&mut state, &mut resumed] {
        advance(state, options, 50);
    }
    assert_eq!(resumed.step(), 75);
    let weights = |state: &TrainState| {
        [&state.online, &state.target].map(|networks| {
            (
                named_tensors(&networks.policy),
                named_tensors(&networks.critic),
            )
        })
    };
    assert_eq!(weights(&resumed), weights(&state));
    assert_eq!(state_file::encode(&resumed), state_file::encode(&state));
    assert_eq!(Scalars::of(&resumed), Scalars::of(&state));
}

#[test]
fn the_policy_of_a_checkpoint_acts_without_the_tensor_library() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    save(
        &Checkpoints::create(&options).unwrap(),
        &options,
        &fresh(&options, 1),
    );
    let path = newest(folder.path()).unwrap();
    assert!(
        path.ends_with("checkpoints/step-000000000"),
        "{}",
        path.display()
    );
    let snapshot = fs::read(path.join(POLICY)).unwrap();
    pmpo_policy::PolicyNetwork::from_snapshot(&snapshot).unwrap();
}

#[test]
fn damaged_checkpoints_are_passed_over_and_named_when_none_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let checkpoints = Checkpoints::create(&options).unwrap();
    let mut state = fresh(&options, 1);
    for _ in 0..3 {
        advance(&mut state, &options, 1);
        save(&checkpoints, &options, &state);
    }
    let step = |step: u64| folder.path().join(FOLDER).join(format!("step-{step:09}"));
    let mut bytes = fs::read(step(3).join(STATE)).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(step(3).join(STATE), bytes).unwrap();
    fs::remove_file(step(2).join(META)).unwrap();
    assert_eq!(newest(folder.path()).unwrap(), step(1));

    fs::write(step(1).join(META), "{}").unwrap();
    let message = newest(folder.path()).unwrap_err().to_string();
    for name in ["step-000000001", "step-000000002", "step-000000003"] {
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn only_the_newest_are_kept_and_leftovers_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let checkpoints = Checkpoints::create(&options).unwrap();
    let mut state = fresh(&options, 1);
    for _ in 0..5 {
        save(&checkpoints, &options, &state);
        advance(&mut state, &options, 1);
    }
    fs::create_dir(checkpoints.folder.join(".writing-step-000000005")).unwrap();
    Checkpoints::resume(&options, fresh(&options, 1)).unwrap();
    let mut left = names(&checkpoints.folder).unwrap();
    left.sort();
    assert_eq!(left, ["step-000000002", "step-000000003", "step-000000004"]);
}

#[test]
fn runs_are_not_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    let resume = |options: &LearnerOptions| {
        Checkpoints::resume(options, fresh(options, 1))
            .unwrap_err()
            .to_string()
    };
    let message = resume(&options);
    assert!(message.contains("no usable checkpoint"), "{message}");
    save(
        &Checkpoints::create(&options).unwrap(),
        &options,
        &fresh(&options, 1),
    );
    assert!(matches!(
        Checkpoints::create(&options),
        Err(LearnerError::NotFresh(_))
    ));
    options.policy.hidden_sizes = vec![9];
    let message = resume(&options);
    assert!(
        message.contains("policy is") && message.contains("[8, 8]"),
        "{message}"
    );
    options.task = "other-task".to_owned();
    let message = resume(&options);
    assert!(message.contains("task is test-task"), "{message}");
}
