//! Tests of how a configuration is put together and what is refused.

use pmpo_actor::noise::{NoiseRepeat, RepeatRule};

use super::*;

fn load(set: &[&str]) -> Result<Config> {
    let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
    Config::for_learner(Source {
        assignments: &set,
        ..Source::default()
    })
}

fn refused(set: &[&str]) -> String {
    format!("{:#}", load(set).unwrap_err())
}

#[test]
fn the_table_follows_the_windows_or_is_refused_with_both_keys() {
    let retrace = "update.targets.kind=retrace";
    let length = "update.targets.sequence_length=5";
    assert_eq!(load(&[]).unwrap().replay.table.sequence_length, 6);
    assert_eq!(
        load(&["update.n_step=2"])
            .unwrap()
            .replay
            .table
            .sequence_length,
        3
    );
    let derived = load(&[retrace, length]).unwrap();
    assert_eq!(derived.replay.table.sequence_length, 6);
    // What `config.toml` of a run says is what it is read as.
    let stored = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(stored.path(), derived.to_toml().unwrap()).unwrap();
    let source = Source {
        file: Some(stored.path()),
        ..Source::default()
    };
    assert_eq!(Config::for_learner(source).unwrap(), derived);

    assert_eq!(
        refused(&[retrace, length, "replay.table.sequence_length=4"]),
        "replay.table.sequence_length: expected 6, for windows of 5 steps and the row after them \
         (update.n_step or update.targets.sequence_length), got 4; without the key it follows"
    );
    let lambda = refused(&["update.targets.lambda=0.5"]);
    assert!(lambda.contains("unknown field"), "{lambda}");
    let by_priority = "replay.table.sampler=prioritized";
    assert_eq!(
        refused(&[by_priority]),
        "update.priorities.kind: expected td_error, for replay.table.sampler = \"prioritized\", got \
         none"
    );
    let td_error = "update.priorities.kind=td_error";
    assert!(refused(&[td_error]).contains("expected none"));
    load(&[td_error, by_priority]).unwrap();
    // Tables of other names are nobody's business here.
    let other = ["replay.table.sequence_length=4", "replay.table.name=other"];
    assert_eq!(load(&other).unwrap().replay.table.sequence_length, 4);
}

#[test]
fn what_cannot_go_together_is_refused_with_the_keys_name() {
    for (set, expected) in [
        (
            &["update.batch_size=5000"][..],
            "update.batch_size and replay.table do not go together: batch_size: expected 1 to 4096 \
             (max_batch_size), got 5000",
        ),
        (
            &["replay.table.max_batch_size=100"],
            "update.batch_size and replay.table do not go together: batch_size: expected 1 to 100 \
             (max_batch_size), got 256",
        ),
        (
            &["replay.table.error_buffer=100"],
            "expected 1 to 184 (2 * error_buffer - samples_per_insert), got 256",
        ),
        (
            &["policy.torso.hidden_sizes=[4200,4200]"],
            "policy.torso: expected weights of at most 67043328 bytes",
        ),
        (
            &[
                "update.batch_size=100000",
                "replay.table.max_batch_size=100000",
                "update.n_step=1000",
            ],
            "update.batch_size: expected batches of at most",
        ),
        (
            &["update.n_step=5000"],
            "update.n_step: expected 1 to 1000, got 5000",
        ),
        (&["run.seed=9223372036854775808"], "seed"),
    ] {
        let message = refused(set);
        assert!(message.contains(expected), "{set:?}: {message}");
    }
    load(&["update.batch_size=5000", "replay.table.max_batch_size=5000"]).unwrap();
}

#[test]
fn a_discount_by_the_episodes_length_is_a_number_from_the_start() {
    let rule = "update.discount=episode_length";
    for (set, gamma) in [
        (&[rule][..], 0.995),
        (&[rule, "run.action_repeat=2"], 0.99),
        (
            &[rule, "run.task=quadruped-run", "run.action_repeat=4"],
            0.98,
        ),
    ] {
        let config = load(set).unwrap();
        assert_eq!(config.update.discount, Discount::Fixed(gamma), "{set:?}");
        // What a distributional critic's support is derived from.
        let same = format!("update.discount={gamma}");
        let number = load(&[&set[1..], &[&same]].concat()).unwrap();
        assert_eq!(config, number);
    }
    let endless = refused(&[rule, "run.task=lqr-lqr-2-1"]);
    assert!(endless.contains("has no time limit"), "{endless}");
    let unknown = refused(&["update.discount=episode"]);
    assert!(unknown.contains("update"), "{unknown}");
    load(&[rule, "run.task=nowhere-run"]).unwrap_err();
}

#[test]
fn noise_is_repeated_for_a_number_of_steps_or_by_a_rule() {
    let repeat = |value: &str| load(&[&format!("actor.noise_repeat={value}")]);
    for (value, expected) in [
        ("3", NoiseRepeat::Fixed(3)),
        ("zeta", NoiseRepeat::Drawn(RepeatRule::Zeta)),
    ] {
        assert_eq!(repeat(value).unwrap().actor.noise_repeat, expected);
    }
    for value in ["pink", "0", "1.5"] {
        let message = format!("{:#}", repeat(value).unwrap_err());
        assert!(message.contains("noise_repeat"), "{message}");
    }
}

#[test]
fn samples_steps_and_critics_go_together_in_any_number() {
    for (samples, accepted, rejected) in [(4, 1, 3), (8, 2, 2), (16, 4, 4), (16, 1, 15)] {
        for n_step in [1, 3, 5] {
            for (critics, combination) in [(1, "mean"), (2, "minimum"), (5, "mean")] {
                let set = [
                    format!("update.actions_per_state={samples}"),
                    format!("update.policy_loss.preference.accepted={accepted}"),
                    format!("update.policy_loss.preference.rejected={rejected}"),
                    format!("update.n_step={n_step}"),
                    format!("critic.count={critics}"),
                    format!("critic.combination={combination}"),
                    "update.critic.weight_decay=0.01".to_owned(),
                ];
                let set: Vec<&str> = set.iter().map(String::as_str).collect();
                let mut config = load(&set).unwrap();
                let (_, table) = config.learner_table().unwrap();
                assert_eq!(table.sequence_length, n_step + 1);
            }
        }
    }
    let more = refused(&[
        "update.actions_per_state=16",
        "update.policy_loss.preference.accepted=15",
    ]);
    assert!(more.contains("at most the 16 actions per state"), "{more}");
}

#[test]
fn keys_are_read_where_they_were_before() {
    let config = load(&[
        "policy.hidden_sizes=[256,256]",
        "learner.policy_learning_rate=3e-4",
        "learner.target_period_steps=50",
        "learner.critic_loss.kind=huber",
        "learner.critic_loss.delta=2.0",
        "learner.reward_scale=1",
    ])
    .unwrap();
    assert_eq!(config.policy.torso.hidden_sizes, [256, 256]);
    assert_eq!(config.critic.torso.hidden_sizes, [256, 256]);
    assert_eq!(config.update.policy.learning_rate, 3e-4);
    let update = &config.update;
    assert_eq!(
        (update.target_period_steps, update.reference_period_steps),
        (50, 50)
    );
    assert_eq!(
        config.critic.loss,
        pmpo_update::CriticLoss::Huber { delta: 2.0 }
    );
}

#[test]
fn every_preset_resolves_and_is_below_what_is_said() {
    for preset in [Preset::Fast, Preset::Efficient] {
        let set = ["update.batch_size=77".to_owned()];
        let config = Config::for_learner(Source {
            preset: Some(preset),
            assignments: &set,
            ..Source::default()
        });
        assert_eq!(config.unwrap().update.batch_size, 77, "{}", preset.name());
    }
}
