//! The whole configuration: a section a crate, and `run` for what belongs to all of them.

use anyhow::{Context, Result};
use pmpo_actor::{ActorConfig, EvaluatorConfig};
use pmpo_learner::{LearnerConfig, Limits};
use pmpo_policy::NetworkConfig;
use pmpo_replay::{ReplayConfig, SelectorKind, TableConfig};
use pmpo_service::config::{Layers, Move};
use pmpo_service::security::{Credentials, Role, SecurityConfig};
use pmpo_update::{AgentConfig, CriticConfig, DeviceChoice, Discount, Priorities, UpdateConfig};
use serde::{Deserialize, Serialize};

use crate::agreement;
use crate::cli::{ConfigArgs, SecurityArgs};
use crate::failure::Usage;

/// Every setting of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) run: RunConfig,
    pub(crate) policy: NetworkConfig,
    pub(crate) critic: CriticConfig,
    pub(crate) update: UpdateConfig,
    pub(crate) learner: LearnerConfig,
    pub(crate) replay: ReplayConfig,
    pub(crate) actor: ActorConfig,
    pub(crate) evaluator: EvaluatorConfig,
    pub(crate) security: SecurityConfig,
}

/// What a configuration is resolved from, above the defaults and with the environment between file and
/// assignments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Source<'a> {
    pub(crate) preset: Option<Preset>,
    pub(crate) file: Option<&'a std::path::Path>,
    pub(crate) assignments: &'a [String],
}

/// A named set of ordinary keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Preset {
    /// The best return per second where environment steps are nearly free.
    Fast,
    /// The best return per environment step that two cores allow.
    Efficient,
}

impl Preset {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Efficient => "efficient",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Fast => include_str!("presets/fast.toml"),
            Self::Efficient => include_str!("presets/efficient.toml"),
        }
    }
}

/// What a run is, and when it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RunConfig {
    /// Task, as `domain-task`.
    pub(crate) task: String,
    /// Control steps for which an action is carried out. What counts steps of the policy (discount, n-step,
    /// the table's items and ratio) counts fewer then; environment steps are control steps always.
    pub(crate) action_repeat: usize,
    /// Every generator of the run is seeded from this.
    pub(crate) seed: u64,
    /// Actor processes that `train` starts.
    pub(crate) actors: u64,
    /// Replay processes that `train` starts; the table's bounds hold for each.
    pub(crate) replay_shards: u64,
    /// Device of the learner: cpu, cuda, cuda:N, vulkan or vulkan:N.
    pub(crate) device: String,
    /// End after this many environment steps.
    pub(crate) env_steps: Option<u64>,
    /// End after this many learner steps.
    pub(crate) learner_steps: Option<u64>,
    /// End after this many minutes of training.
    pub(crate) max_minutes: Option<f64>,
    /// End when an evaluation's mean return reaches this.
    pub(crate) stop_at_return: Option<f64>,
    /// Seconds that `train` gives each role to end after SIGTERM before it kills it.
    pub(crate) shutdown_grace_s: f64,
}

/// Most control steps for one action.
const MAX_ACTION_REPEAT: usize = 100;

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            task: "cartpole-swingup".to_owned(),
            action_repeat: 1,
            seed: 0,
            actors: 1,
            replay_shards: 1,
            device: "cpu".to_owned(),
            env_steps: None,
            learner_steps: None,
            max_minutes: None,
            stop_at_return: None,
            shutdown_grace_s: 20.0,
        }
    }
}

/// Where keys were before the update had sections of its own.
const MOVED: &[Move] = &[
    (
        "policy.hidden_sizes",
        &["policy.torso.hidden_sizes", "critic.torso.hidden_sizes"],
    ),
    (
        "policy.activation",
        &["policy.torso.activation", "critic.torso.activation"],
    ),
    ("learner.batch_size", &["update.batch_size"]),
    ("learner.actions_per_state", &["update.actions_per_state"]),
    (
        "learner.policy_learning_rate",
        &["update.policy.learning_rate"],
    ),
    (
        "learner.critic_learning_rate",
        &["update.critic.learning_rate"],
    ),
    (
        "learner.max_gradient_norm",
        &[
            "update.policy.max_gradient_norm",
            "update.critic.max_gradient_norm",
        ],
    ),
    ("learner.discount", &["update.discount"]),
    ("learner.reward_scale", &["update.reward_scale"]),
    ("learner.n_step", &["update.n_step"]),
    ("learner.targets", &["update.targets"]),
    (
        "learner.target_period_steps",
        &[
            "update.target_period_steps",
            "update.reference_period_steps",
        ],
    ),
    ("learner.policy_loss", &["update.policy_loss"]),
    ("learner.critic_loss", &["critic.loss"]),
    ("learner.priorities", &["update.priorities"]),
    ("learner.threads", &["update.threads"]),
];

impl Config {
    /// Resolves all layers and refuses contradictions, as a run does.
    pub(crate) fn of_run(args: &ConfigArgs) -> Result<Self> {
        Self::for_learner(Source {
            preset: args.preset,
            file: args.config.as_deref(),
            assignments: &args.set,
        })
    }

    /// As [`Config::of_run`], for a role that is told who it is.
    pub(crate) fn of_role(args: &ConfigArgs, security: &SecurityArgs) -> Result<Self> {
        let assignments: Vec<_> = args
            .set
            .iter()
            .cloned()
            .chain(security.assignments())
            .collect();
        Self::resolve(Source {
            preset: args.preset,
            file: args.config.as_deref(),
            assignments: &assignments,
        })
    }

    /// As [`Config::of_run`], for a tool that asks a running service.
    pub(crate) fn of_tool(security: &SecurityArgs) -> Result<Self> {
        Self::resolve(Source {
            assignments: &security.assignments().collect::<Vec<_>>(),
            ..Source::default()
        })
    }

    /// Networks and update.
    pub(crate) fn agent(&self) -> AgentConfig {
        AgentConfig {
            policy: self.policy.clone(),
            critic: self.critic.clone(),
            update: self.update.clone(),
        }
    }

    /// What a process of this role shows and asks for.
    pub(crate) fn credentials(&self, role: Role) -> Result<Credentials> {
        Ok(Credentials::load(&self.security, role).map_err(Usage::new)?)
    }

    /// Resolves all layers above the defaults.
    pub(crate) fn resolve(source: Source<'_>) -> Result<Self> {
        let layers = Layers {
            preset: source.preset.map(|preset| (preset.name(), preset.text())),
            file: source.file,
            assignments: source.assignments,
            moved: MOVED,
        };
        let mut config: Self = pmpo_service::config::load(layers).map_err(Usage::new)?;
        config.derive_sequence_length();
        config.resolve_discount()?;
        config.validate().map_err(Usage::new)?;
        Ok(config)
    }

    /// As [`Config::resolve`], for a run with a learner: its table must hold what it wants.
    pub(crate) fn for_learner(source: Source<'_>) -> Result<Self> {
        let mut config = Self::resolve(source)?;
        config.check_sequence_length().map_err(Usage::new)?;
        config.check_priorities().map_err(Usage::new)?;
        agreement::check(&config).map_err(Usage::new)?;
        Ok(config)
    }

    /// The learner's table holds windows as long as the update wants, unless it says other.
    fn derive_sequence_length(&mut self) {
        let rows = self.update.window().rows();
        if let Some((_, table)) = self.learner_table()
            && table.sequence_length == TableConfig::default().sequence_length
        {
            table.sequence_length = rows;
        }
    }

    /// From here on gamma is a number, whatever rule it comes from.
    fn resolve_discount(&mut self) -> Result<()> {
        if let Discount::Rule(_) = self.update.discount {
            self.run.validate().context("run").map_err(Usage::new)?;
            let task = pmpo_suite::load(&self.run.task, self.run.seed).map_err(Usage::new)?;
            let task = task.with_action_repeat(self.run.action_repeat);
            let resolved = self.update.discount.resolved(task.spec());
            self.update.discount = resolved.map_err(Usage::new)?;
        }
        Ok(())
    }

    fn check_sequence_length(&mut self) -> Result<()> {
        let rows = self.update.window().rows();
        if let Some((place, table)) = self.learner_table() {
            let got = table.sequence_length;
            anyhow::ensure!(
                got == rows,
                "{place}.sequence_length: expected {rows}, for windows of {} steps and the row after \
                 them (update.n_step or update.targets.sequence_length), got {got}; without the key it \
                 follows",
                rows - 1
            );
        }
        Ok(())
    }

    /// Priorities that nobody sets would draw as if there were none, and priorities that nobody uses
    /// would be refused by the table.
    fn check_priorities(&mut self) -> Result<()> {
        let sets = matches!(self.update.priorities, Priorities::TdError(_));
        if let Some((place, table)) = self.learner_table() {
            let draws = table.sampler == SelectorKind::Prioritized;
            let (expected, got) = if draws {
                ("td_error", "none")
            } else {
                ("none", "td_error")
            };
            anyhow::ensure!(
                sets == draws,
                "update.priorities.kind: expected {expected}, for {place}.sampler = {:?}, got {got}",
                table.sampler.as_str()
            );
        }
        Ok(())
    }

    /// The table that the learner draws from, if it is among those configured here, and its section.
    pub(crate) fn learner_table(&mut self) -> Option<(String, &mut TableConfig)> {
        let Self {
            learner, replay, ..
        } = self;
        if replay.table.name == learner.table {
            return Some(("replay.table".to_owned(), &mut replay.table));
        }
        let tables = replay.tables.iter_mut().enumerate();
        let mut named = tables.filter(|(_, table)| table.name == learner.table);
        let (i, table) = named.next()?;
        Some((format!("replay.tables[{i}]"), table))
    }

    fn validate(&self) -> Result<()> {
        self.run.validate().context("run")?;
        self.agent().validate()?;
        self.learner.validate(&self.update).context("learner")?;
        self.replay.validate().context("replay")?;
        self.actor.validate().context("actor")?;
        self.evaluator.validate().context("evaluator")?;
        self.security.validate()?;
        Ok(())
    }

    /// TOML with every key; the keys without a value are listed in comments.
    pub(crate) fn to_toml(&self) -> Result<String> {
        let mut text = toml::to_string(self)?;
        let json = serde_json::to_value(self)?;
        for (section, keys) in json.as_object().into_iter().flatten() {
            for (key, _) in keys
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(_, value)| value.is_null())
            {
                text.push_str(&format!("# {section}.{key} is not set\n"));
            }
        }
        Ok(text)
    }
}

impl RunConfig {
    fn validate(&self) -> Result<()> {
        anyhow::ensure!(self.actors > 0, "actors: expected at least 1, got 0");
        // TOML has no larger whole numbers, and the run's folder is to hold it.
        anyhow::ensure!(
            i64::try_from(self.seed).is_ok(),
            "seed: expected 0 to {}, got {}",
            i64::MAX,
            self.seed
        );
        anyhow::ensure!(
            self.replay_shards > 0,
            "replay_shards: expected at least 1, got 0"
        );
        anyhow::ensure!(
            (1..=MAX_ACTION_REPEAT).contains(&self.action_repeat),
            "action_repeat: expected 1 to {MAX_ACTION_REPEAT}, got {}",
            self.action_repeat
        );
        let minutes = self.max_minutes.unwrap_or(1.0);
        anyhow::ensure!(
            minutes > 0.0,
            "max_minutes: expected more than 0, got {minutes}"
        );
        let grace = self.shutdown_grace_s;
        anyhow::ensure!(
            (0.0..=3600.0).contains(&grace),
            "shutdown_grace_s: expected 0 to 3600 seconds, got {grace}"
        );
        let stop = self.stop_at_return.unwrap_or(0.0);
        anyhow::ensure!(
            stop.is_finite(),
            "stop_at_return: expected a finite number, got {stop}"
        );
        self.device()?;
        Ok(())
    }

    pub(crate) fn device(&self) -> Result<DeviceChoice> {
        self.device.parse().context("device")
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            env_steps: self.env_steps,
            learner_steps: self.learner_steps,
            max_minutes: self.max_minutes,
            stop_at_return: self.stop_at_return,
        }
    }
}

#[cfg(test)]
mod tests {
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
}
