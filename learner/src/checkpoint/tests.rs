//! Resumption bit for bit, and damage.

use pmpo_policy::{CategoricalHead, GaussianHead, HeadConfig, TorsoConfig};
use pmpo_types::{ActionSpec, ObservationField};
use pmpo_update::{C51Config, CriticLoss, MpoConfig, PolicyLoss};
use pmpo_update::{DeviceChoice, Discount, random_windows};

use super::*;
use crate::encode_policy;

fn identity() -> Identity {
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
        action_repeat: 1,
    };
    let mut agent = AgentConfig::default();
    agent.policy.torso = TorsoConfig::hidden(&[8, 8]);
    agent.critic.torso = TorsoConfig::hidden(&[8, 8]);
    agent.update.target_period_steps = 7;
    Identity {
        run_id: "test".to_owned(),
        task: spec.task.clone(),
        seed: 4,
        spec,
        agent,
    }
}

fn create(run_dir: &Path, identity: &Identity) -> Result<Checkpoints, LearnerError> {
    Checkpoints::create(run_dir, identity.clone(), 3)
}

fn resume(run_dir: &Path, identity: &Identity) -> Result<(Checkpoints, Resumed), LearnerError> {
    Checkpoints::resume(run_dir, identity.clone(), 3, fresh(identity, 2))
}

fn fresh(identity: &Identity, seed: u64) -> TrainState {
    let device = DeviceChoice::Cpu.open().unwrap();
    TrainState::new(&identity.agent, [3, 2], seed, &device).unwrap()
}

fn save(checkpoints: &Checkpoints, identity: &Identity, state: &TrainState) {
    let policy = encode_policy(&identity.agent.policy, &identity.spec, state).unwrap();
    let totals = Totals {
        learner_steps: state.step(),
        policy_version: state.step() / 10,
        environment: EnvironmentSteps {
            total: 1234,
            table_inserts: vec![200, 34],
        },
        training_seconds: 5.5,
    };
    let written = checkpoints.save(state, &policy, &totals, &[("more.bin", vec![1, 2])]);
    assert!(written.unwrap());
}

fn advance(state: &mut TrainState, steps: usize) {
    let window = state.config().window();
    let windows = random_windows([3, 2], 16, window, 7);
    for _ in 0..steps {
        let batch = state.prepare(&windows, 1.0);
        state.update(&batch);
    }
}

/// 50 updates after resuming, on the same batches, for every state that an update may keep: dual variables,
/// a categorical head with two distributional critics, running statistics.
#[test]
fn a_resumed_run_goes_on_bit_for_bit() {
    let gaussian = HeadConfig::Gaussian(GaussianHead::default());
    let categorical = HeadConfig::Categorical(CategoricalHead::default());
    let mpo = || PolicyLoss::Mpo(MpoConfig::default());
    let atoms = CriticLoss::Categorical(C51Config::default());
    for (head, policy_loss, critic_loss, count) in [
        (
            gaussian.clone(),
            PolicyLoss::default(),
            CriticLoss::Mse {},
            1,
        ),
        (gaussian, mpo(), CriticLoss::Mse {}, 1),
        (categorical, mpo(), atoms, 2),
    ] {
        let mut identity = identity();
        identity.agent.policy.head = head;
        identity.agent.policy.normalise_observations = count == 2;
        identity.agent.update.policy_loss = policy_loss;
        identity.agent.critic.loss = critic_loss;
        identity.agent.critic.count = count;
        goes_on_bit_for_bit(&identity);
    }
}

fn goes_on_bit_for_bit(identity: &Identity) {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = create(folder.path(), identity).unwrap();
    let mut state = fresh(identity, 1);
    advance(&mut state, 25);
    save(&checkpoints, identity, &state);

    // The state it replaces has other weights and another generator.
    let (_, resumed) = resume(folder.path(), identity).unwrap();
    let totals = &resumed.totals;
    assert_eq!((totals.learner_steps, totals.policy_version), (25, 2));
    assert_eq!(
        totals.environment,
        EnvironmentSteps {
            total: 1234,
            table_inserts: vec![200, 34]
        }
    );
    assert_eq!(totals.training_seconds, 5.5);
    assert_eq!(fs::read(resumed.path.join("more.bin")).unwrap(), [1, 2]);
    let mut resumed = resumed.state;
    for state in [&mut state, &mut resumed] {
        advance(state, 50);
    }
    assert_eq!(resumed.step(), 75);
    assert!(resumed.to_file() == state.to_file(), "other weights");
    assert_eq!(resumed.scalars(), state.scalars());
}

#[test]
fn a_checkpoint_says_what_it_is_of_and_acts_without_the_tensor_library() {
    let folder = tempfile::tempdir().unwrap();
    let identity = identity();
    let checkpoints = create(folder.path(), &identity).unwrap();
    save(&checkpoints, &identity, &fresh(&identity, 1));
    let (path, subject) = newest(folder.path()).unwrap();
    assert!(
        path.ends_with("checkpoints/step-000000000"),
        "{}",
        path.display()
    );
    assert_eq!(subject, identity.subject());
    let snapshot = fs::read(path.join(POLICY)).unwrap();
    pmpo_policy::PolicyNetwork::from_snapshot(&snapshot).unwrap();

    assert_eq!(of_step(folder.path(), 0).unwrap(), (path, subject));
    let message = of_step(folder.path(), 7).unwrap_err().to_string();
    assert!(
        message.ends_with("no checkpoint of learner step 7; there are 0"),
        "{message}"
    );
}

#[test]
fn damaged_checkpoints_are_passed_over_and_named_when_none_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let identity = identity();
    let checkpoints = create(folder.path(), &identity).unwrap();
    let mut state = fresh(&identity, 1);
    for _ in 0..3 {
        advance(&mut state, 1);
        save(&checkpoints, &identity, &state);
    }
    let step = |step: u64| folder.path().join(FOLDER).join(format!("step-{step:09}"));
    let mut bytes = fs::read(step(3).join(STATE)).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(step(3).join(STATE), bytes).unwrap();
    fs::remove_file(step(2).join(META)).unwrap();
    assert_eq!(newest(folder.path()).unwrap().0, step(1));
    // Written again, it is whole.
    save(&checkpoints, &identity, &state);
    assert_eq!(newest(folder.path()).unwrap().0, step(3));
    fs::remove_dir_all(step(3)).unwrap();

    fs::write(step(1).join(META), "{}").unwrap();
    let message = newest(folder.path()).unwrap_err().to_string();
    for name in ["step-000000001", "step-000000002"] {
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn only_the_newest_are_kept_and_leftovers_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let identity = identity();
    let checkpoints = create(folder.path(), &identity).unwrap();
    let mut state = fresh(&identity, 1);
    for _ in 0..5 {
        save(&checkpoints, &identity, &state);
        advance(&mut state, 1);
    }
    fs::create_dir(checkpoints.folder.join(".writing-step-000000005")).unwrap();
    resume(folder.path(), &identity).unwrap();
    let mut left = names(&checkpoints.folder).unwrap();
    left.sort();
    assert_eq!(left, ["step-000000002", "step-000000003", "step-000000004"]);
}

/// A step's checkpoint is written once, unless its policy is another.
#[test]
fn the_same_step_is_written_again_for_another_policy_alone() {
    let folder = tempfile::tempdir().unwrap();
    let identity = identity();
    let checkpoints = create(folder.path(), &identity).unwrap();
    let state = fresh(&identity, 1);
    save(&checkpoints, &identity, &state);
    let again = |policy: &TrainState| {
        let policy = encode_policy(&identity.agent.policy, &identity.spec, policy).unwrap();
        let totals = Totals::default();
        checkpoints.save(&state, &policy, &totals, &[]).unwrap()
    };
    assert!(!again(&state));
    assert!(again(&fresh(&identity, 9)));
}

#[test]
fn runs_are_not_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let mut other = identity();
    let refused = |identity: &Identity| resume(folder.path(), identity).unwrap_err().to_string();
    let message = refused(&other);
    assert!(message.contains("no usable checkpoint"), "{message}");
    let checkpoints = create(folder.path(), &other).unwrap();
    save(&checkpoints, &other, &fresh(&other, 1));
    assert!(matches!(
        create(folder.path(), &other),
        Err(LearnerError::NotFresh(_))
    ));
    other.agent.policy.torso.hidden_sizes = vec![9];
    let message = refused(&other);
    assert!(
        message.ends_with("policy.torso.hidden_sizes is [8,8], the configuration says [9]"),
        "{message}"
    );
    other = identity();
    other.agent.update.policy_loss = PolicyLoss::Mpo(MpoConfig::default());
    let message = refused(&other);
    assert!(
        message.ends_with("update.policy_loss.kind is pmpo, the configuration says mpo"),
        "{message}"
    );
    other = identity();
    other.task = "other-task".to_owned();
    let message = refused(&other);
    assert!(message.contains("task is test-task"), "{message}");
}

#[test]
fn settings_that_differ_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut other = identity();
    let checkpoints = create(folder.path(), &other).unwrap();
    save(&checkpoints, &other, &fresh(&other, 1));
    assert_eq!(Checkpoints::check(folder.path(), &other).unwrap(), [""; 0]);
    other.seed = 5;
    other.agent.update.discount = Discount::Fixed(0.9);
    other.agent.update.critic.weight_decay = 0.01;
    assert_eq!(
        Checkpoints::check(folder.path(), &other).unwrap(),
        [
            "update.critic.weight_decay: 0.0 -> 0.01",
            "update.discount: 0.995 -> 0.9",
            "run.seed: 4 -> 5",
        ]
    );
}

/// What a later version adds or renames must not make an older checkpoint damaged.
#[test]
fn keys_that_are_unknown_are_read_over() {
    let folder = tempfile::tempdir().unwrap();
    let identity = identity();
    let checkpoints = create(folder.path(), &identity).unwrap();
    save(&checkpoints, &identity, &fresh(&identity, 1));
    let path = checkpoints.path_of(0).join(META);
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace("\"discount\"", "\"gamma\"");
    fs::write(&path, text.replacen('{', "{\"later\": 1,", 1)).unwrap();
    resume(folder.path(), &identity).unwrap();
    assert_eq!(
        Checkpoints::check(folder.path(), &identity).unwrap(),
        [
            "update.discount: not set -> 0.995",
            "update.gamma: 0.995 -> not set"
        ]
    );
}
