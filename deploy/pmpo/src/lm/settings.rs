//! The configuration of a language model's run.

use std::path::Path;

use anyhow::{Result, anyhow};
use pmpo_language::LmConfig;
use pmpo_service::config::Layers;
use pmpo_service::security::{Credentials, Role, SecurityConfig};
use serde::{Deserialize, Serialize};

use crate::failure::Usage;
use crate::run_folder::CONFIG;

/// A run's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    pub(super) run: RunSettings,
    pub(super) lm: LmConfig,
    pub(super) security: SecurityConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RunSettings {
    /// What is trained.
    pub(super) model: String,
    /// What is completed.
    pub(super) prompts: String,
    /// What is learnt from in place of completions of its own.
    pub(super) data: Option<String>,
    /// Where.
    pub(super) device: String,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            model: "smollm2".to_owned(),
            prompts: "topics".to_owned(),
            data: None,
            device: "cpu".to_owned(),
        }
    }
}

/// Defaults, file, environment and assignments, one over the other.
pub(super) fn settings(file: Option<&Path>, assignments: &[String]) -> Result<Settings> {
    let layers = Layers {
        preset: None,
        file,
        assignments,
        moved: &[],
    };
    let settings: Settings = pmpo_service::config::load(layers).map_err(Usage::new)?;
    let checked = settings.lm.validate();
    checked.map_err(|error| Usage::new(anyhow!("lm.{error}")))?;
    settings.security.validate().map_err(Usage::new)?;
    Ok(settings)
}

impl RunSettings {
    /// The same files from wherever the run goes on.
    pub(super) fn absolute(&mut self) -> Result<()> {
        let data = self.data.as_mut().map(|data| (data, &[][..]));
        let others = [
            (&mut self.model, &["smollm2"][..]),
            (&mut self.prompts, &["grammar", "topics"]),
        ];
        for (text, names) in others.into_iter().chain(data) {
            if !names.contains(&text.as_str()) {
                let path = Path::new(text.as_str()).canonicalize();
                let path = path.map_err(|error| Usage::new(anyhow!("{text}: {error}")))?;
                let path = path.into_os_string().into_string();
                *text = path.map_err(|path| Usage::new(anyhow!("{path:?}: expected UTF-8")))?;
            }
        }
        Ok(())
    }
}

impl Settings {
    /// What a process of this role shows and asks for.
    pub(super) fn credentials(&self, role: Role) -> Result<Credentials> {
        Ok(Credentials::load(&self.security, role).map_err(Usage::new)?)
    }

    /// Refuses to go on with another model, prompts, or what the state depends on.
    pub(super) fn agree_with(&self, run_dir: &Path) -> Result<()> {
        let stored = settings(Some(&run_dir.join(CONFIG)), &[])?;
        for (key, now, before) in [
            ("run.model", Some(&self.run.model), Some(&stored.run.model)),
            (
                "run.prompts",
                Some(&self.run.prompts),
                Some(&stored.run.prompts),
            ),
            ("run.data", self.run.data.as_ref(), stored.run.data.as_ref()),
        ] {
            if now != before {
                let [now, before] = [now, before].map(|text| text.map_or("none", String::as_str));
                let error = anyhow!("{key}: the run has {before}; it cannot go on with {now}");
                return Err(Usage::new(error).into());
            }
        }
        let (now, before) = (&self.lm, &stored.lm);
        if (now.seed, now.train_last_layers) != (before.seed, before.train_last_layers) {
            let error = anyhow!(
                "lm.seed and lm.train_last_layers: the run has {} and {}; it cannot go on with {} and {}",
                before.seed,
                before.train_last_layers,
                now.seed,
                now.train_last_layers
            );
            return Err(Usage::new(error).into());
        }
        Ok(())
    }
}
