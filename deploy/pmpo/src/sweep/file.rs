//! The file of a sweep.
//!
//! ```toml
//! figure = "curves.svg"              # or .png
//!
//! [defaults]                         # for configurations that do not say otherwise
//! task = "cartpole-swingup"
//! seeds = [1, 2, 3]
//! env_steps = 100000
//! preset = "efficient"               # below base and set
//! lockstep = true                    # one process a run: the same seed, the same curve
//! set = ["update.threads=1"]         # those of a configuration come after these
//!
//! [[configuration]]
//! name = "ar"                        # its folder
//! label = "PMPO-AR"                  # in the legend; default: the name
//! panel = "cartpole swingup"         # one chart for each panel
//! set = ["update.policy_loss.alpha=0.5"]
//!
//! [[configuration]]
//! name = "a"
//! config = { update = { policy_loss = { alpha = 1.0 } } }
//! ```
//!
//! Unknown keys are refused with their line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::job::Job;
use crate::config::{Config, Preset, Source};
use crate::environments;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SweepFile {
    /// Folder of the runs and results.
    pub(crate) out: Option<PathBuf>,
    /// Configuration file below all others; relative to this file's folder.
    base: Option<PathBuf>,
    /// Name of the figure of learning curves, in `out`.
    #[serde(default = "default_figure")]
    pub(crate) figure: PathBuf,
    /// Panels side by side.
    #[serde(default = "default_columns")]
    pub(crate) columns: usize,
    #[serde(default)]
    pub(crate) spread: Spread,
    /// Newest evaluations of a run whose mean is its final return.
    #[serde(default = "default_final_evaluations")]
    pub(crate) final_evaluations: usize,
    pub(crate) summary: Option<Summary>,
    #[serde(default)]
    defaults: Defaults,
    #[serde(rename = "configuration")]
    pub(crate) configurations: Vec<Configuration>,
}

fn default_figure() -> PathBuf {
    "curves.svg".into()
}

fn default_columns() -> usize {
    3
}

fn default_final_evaluations() -> usize {
    3
}

/// What the bands around the mean over seeds are.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Spread {
    /// One standard deviation to each side, of the sample (`n - 1`).
    #[default]
    Std,
    /// From the least to the greatest.
    MinMax,
}

/// A second figure: final return against one label, with a line for each value of another.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    /// Label on the horizontal axis.
    pub(crate) x: String,
    /// Label that tells lines apart.
    pub(crate) series: String,
    /// Name of the figure, in `out`.
    #[serde(default = "default_summary")]
    pub(crate) figure: PathBuf,
}

fn default_summary() -> PathBuf {
    "summary.svg".into()
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Defaults {
    preset: Option<Preset>,
    lockstep: Option<bool>,
    task: Option<String>,
    seeds: Option<Vec<u64>>,
    env_steps: Option<u64>,
    learner_steps: Option<u64>,
    max_minutes: Option<f64>,
    stop_at_return: Option<f64>,
    actors: Option<u64>,
    set: Vec<String>,
    config: toml::Table,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Configuration {
    pub(crate) name: String,
    label: Option<String>,
    #[serde(default)]
    pub(crate) panel: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, Label>,
    preset: Option<Preset>,
    lockstep: Option<bool>,
    task: Option<String>,
    seeds: Option<Vec<u64>>,
    env_steps: Option<u64>,
    learner_steps: Option<u64>,
    max_minutes: Option<f64>,
    stop_at_return: Option<f64>,
    actors: Option<u64>,
    #[serde(default)]
    set: Vec<String>,
    #[serde(default)]
    config: toml::Table,
}

/// The value of a label.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub(crate) enum Label {
    Number(f64),
    Text(String),
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Configuration {
    /// Its name in figures.
    pub(crate) fn label(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.name)
    }
}

impl SweepFile {
    /// Reads a file and refuses contradictions.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let place = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(place)?;
        let mut file: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| {
                1 + text[..span.start].bytes().filter(|&b| b == b'\n').count()
            });
            anyhow::anyhow!("{}, line {line}: {}", path.display(), error.message())
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        file.base = file.base.map(|base| folder.join(base));
        file.validate().with_context(place)?;
        Ok(file)
    }

    fn validate(&self) -> Result<()> {
        ensure!(self.columns > 0, "columns: expected at least 1, got 0");
        ensure!(
            self.final_evaluations > 0,
            "final_evaluations: expected at least 1, got 0"
        );
        ensure!(
            !self.configurations.is_empty(),
            "configuration: expected at least one"
        );
        let mut names = BTreeSet::new();
        for Configuration { name, labels, .. } in &self.configurations {
            // The name becomes a folder.
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.=+".contains(c);
            ensure!(
                !name.is_empty() && !name.starts_with('.') && name.chars().all(plain),
                "name: expected letters, digits and any of -_.=+ (it becomes a folder), got {name:?}"
            );
            ensure!(names.insert(name), "name: {name} is there twice");
            for label in self.summary.iter().flat_map(|s| [&s.x, &s.series]) {
                ensure!(
                    labels.contains_key(label),
                    "configuration {name}: labels.{label} is missing, which the summary needs"
                );
            }
        }
        Ok(())
    }

    /// All runs, in the order of the file: configurations, then seeds.
    pub(crate) fn jobs(&self, out: &Path) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for configuration in &self.configurations {
            let Configuration { name, .. } = configuration;
            let of = || format!("configuration {name}");
            let seeds = configuration
                .seeds
                .as_ref()
                .or(self.defaults.seeds.as_ref());
            let seeds = seeds
                .filter(|seeds| !seeds.is_empty())
                .context("seeds: expected at least one")
                .with_context(of)?;
            let mut seen = BTreeSet::new();
            for &seed in seeds {
                ensure!(seen.insert(seed), "{}: seed {seed} is there twice", of());
                let set = self.assignments(configuration, seed).with_context(of)?;
                let preset = configuration.preset.or(self.defaults.preset);
                let lockstep = configuration.lockstep.or(self.defaults.lockstep);
                let config = Config::resolve(Source {
                    preset,
                    file: self.base.as_deref(),
                    assignments: &set,
                })
                .with_context(of)?;
                environments::describe(&config.run).with_context(of)?;
                if config.run.limits() == pmpo_learner::Limits::default() {
                    bail!(
                        "{}: has no limit, for example env_steps, and would not end",
                        of()
                    );
                }
                let mut arguments = arguments(self.base.as_deref(), &set);
                if let Some(preset) = preset {
                    arguments.extend(["--preset".to_owned(), preset.name().to_owned()]);
                }
                if lockstep.unwrap_or_default() {
                    arguments.push("--lockstep".to_owned());
                }
                jobs.push(Job::new((name, seed), out, arguments, config));
            }
        }
        Ok(jobs)
    }

    /// `key=value` for `--set`: first the tables, then the lists, then what has a key of its own.
    fn assignments(&self, own: &Configuration, seed: u64) -> Result<Vec<String>> {
        let defaults = &self.defaults;
        let mut set = Vec::new();
        flatten("", &defaults.config, &mut set);
        flatten("", &own.config, &mut set);
        set.extend(defaults.set.iter().chain(&own.set).cloned());
        let text = |value: Option<&String>| value.map(|value| format!("{value:?}"));
        let number = |value: Option<f64>| value.map(|value| format!("{value:?}"));
        let count = |value: Option<u64>| value.map(|value| value.to_string());
        let keys = [
            ("task", text(own.task.as_ref().or(defaults.task.as_ref()))),
            ("env_steps", count(own.env_steps.or(defaults.env_steps))),
            (
                "learner_steps",
                count(own.learner_steps.or(defaults.learner_steps)),
            ),
            (
                "max_minutes",
                number(own.max_minutes.or(defaults.max_minutes)),
            ),
            (
                "stop_at_return",
                number(own.stop_at_return.or(defaults.stop_at_return)),
            ),
            ("actors", count(own.actors.or(defaults.actors))),
            ("seed", Some(seed.to_string())),
        ];
        let keys = keys
            .into_iter()
            .filter_map(|(key, value)| Some(format!("run.{key}={}", value?)));
        set.extend(keys);
        // `pmpo watch` shows all of them together.
        set.push("run.dashboard_listen=\"\"".to_owned());
        Ok(set)
    }
}

/// The leaves of a table as `a.b.c=value`.
fn flatten(prefix: &str, table: &toml::Table, set: &mut Vec<String>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => flatten(&format!("{prefix}{key}."), inner, set),
            leaf => set.push(format!("{prefix}{key}={leaf}")),
        }
    }
}

fn arguments(base: Option<&Path>, set: &[String]) -> Vec<String> {
    let base = base.map(|base| ["--config".to_owned(), base.display().to_string()]);
    let set = set.iter().map(|set| ["--set".to_owned(), set.clone()]);
    base.into_iter().chain(set).flatten().collect()
}
