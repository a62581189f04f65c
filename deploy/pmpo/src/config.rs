//! The whole configuration: a section a crate, and `run` for what belongs to all of them.

use std::path::PathBuf;

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
use crate::data::DataConfig;
use crate::environments;
use crate::failure::Usage;
use crate::watch;

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
    pub(crate) data: DataConfig,
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
    /// Learning from the labels of a data set, for `pmpo offline`.
    Offline,
}

impl Preset {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Efficient => "efficient",
            Self::Offline => "offline",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Fast => include_str!("presets/fast.toml"),
            Self::Efficient => include_str!("presets/efficient.toml"),
            Self::Offline => include_str!("presets/offline.toml"),
        }
    }
}

/// What a run is, and when it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RunConfig {
    /// Task, as `domain-task`, or an environment in Python: `gymnasium:ID`, `dm_control:domain-task` or
    /// `python:module:function`.
    pub(crate) task: String,
    /// Control steps for which an action is carried out. What counts steps of the policy (discount, n-step,
    /// the table's items and ratio) counts fewer then; environment steps are control steps always.
    pub(crate) action_repeat: usize,
    /// Every generator of the run is seeded from this.
    pub(crate) seed: u64,
    /// Interpreter that runs an environment in Python; not set: the one that runs this command, or
    /// python3.
    pub(crate) python: Option<String>,
    /// Folder of a run whose newest networks this one begins with. In lockstep only.
    pub(crate) from: Option<PathBuf>,
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
    /// Where the page to watch the run is served, as `HOST:PORT`: port 0 lets the system choose, and nothing
    /// means no page. Whoever reaches it may read this run and those beside it.
    pub(crate) dashboard_listen: String,
    /// Whether TensorBoard's event files are written into the run's folder. What the page shows beside the
    /// curve is read from them.
    pub(crate) tensorboard: bool,
}

/// Most control steps for one action.
const MAX_ACTION_REPEAT: usize = 100;

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            task: "cartpole-swingup".to_owned(),
            action_repeat: 1,
            seed: 0,
            python: None,
            from: None,
            actors: 1,
            replay_shards: 1,
            device: "cpu".to_owned(),
            env_steps: None,
            learner_steps: None,
            max_minutes: None,
            stop_at_return: None,
            shutdown_grace_s: 20.0,
            dashboard_listen: watch::LISTEN.to_owned(),
            tensorboard: true,
        }
    }
}

/// Where keys were before; those that are gone are nowhere now.
const MOVED: &[Move] = &[
    (
        "security.max_requests_per_second_per_peer",
        &["security.max_requests_per_second_per_connection"],
    ),
    ("security.handshake_timeout_s", &[]),
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
        let mut config = Self::read(Source {
            preset: args.preset,
            file: args.config.as_deref(),
            assignments: &assignments,
        })?;
        if let Discount::Rule(_) = config.update.discount {
            // The learner's number comes with the run; a replay has no physics to ask for an episode's length.
            config.update.discount = Discount::default();
        }
        config.validate().map_err(Usage::new)?;
        Ok(config)
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

    /// Resolves all layers above the defaults, and rules into what they say for the task.
    pub(crate) fn resolve(source: Source<'_>) -> Result<Self> {
        let mut config = Self::read(source)?;
        config.resolve_discount()?;
        config.validate().map_err(Usage::new)?;
        Ok(config)
    }

    fn read(source: Source<'_>) -> Result<Self> {
        let layers = Layers {
            preset: source.preset.map(|preset| (preset.name(), preset.text())),
            file: source.file,
            assignments: source.assignments,
            moved: MOVED,
        };
        let mut config: Self = pmpo_service::config::load(layers).map_err(Usage::new)?;
        config.derive_sequence_length();
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
            let described = environments::describe(&self.run)?;
            let resolved = self.update.discount.resolved(&described.spec);
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

    pub(crate) fn validate(&self) -> Result<()> {
        self.run.validate().context("run")?;
        self.agent().validate()?;
        self.learner.validate(&self.update).context("learner")?;
        self.replay.validate().context("replay")?;
        self.actor.validate().context("actor")?;
        self.evaluator.validate().context("evaluator")?;
        self.data.validate(&self.update).context("data")?;
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
        watch::check(&self.dashboard_listen).context("dashboard_listen")?;
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
mod tests;
