//! `pmpo data export --replay`: what a run has stored, as a data set.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use pmpo_actor::canonical::{ActionScale, narrow};
use pmpo_data::{About, Episode, Writer};
use pmpo_learner::checkpoint;
use pmpo_types::{ColumnBatch, EnvironmentSpec, StepType, step};

use crate::config::{Config, Source};
use crate::failure::Usage;
use crate::lockstep;
use crate::run_folder;

/// Windows that are copied at a time.
const WINDOWS: usize = 4096;

/// Writes the episodes that a run in lockstep has in its table, the oldest first. The first and the last may
/// be parts: the table has forgotten where it began, or it is under way.
pub(super) fn export(run: &Path, out: &Path) -> Result<()> {
    let (folder, subject) = checkpoint::newest(run).map_err(Usage::new)?;
    let spec = subject.spec.with_context(|| {
        let folder = folder.display();
        format!("{folder}: does not say what its observations are: it is of an older version")
    })?;
    let config = Config::for_learner(Source {
        file: Some(&run.join(run_folder::CONFIG)),
        ..Source::default()
    })?;
    let window = config.update.window();
    ensure!(
        window.period == 1,
        Usage::new(anyhow::anyhow!(
            "{}: expected a window for each step, got one for {} (update.targets)",
            run.display(),
            window.period
        ))
    );
    let table = lockstep::table(&config, &folder, &spec).map_err(Usage::new)?;
    let about = About {
        algorithm: "PMPO".to_owned(),
        description: format!("the table of the run {}", subject.run_id),
        ..About::default()
    };
    let mut writer = Writer::create(out, &spec, &about).map_err(super::failed)?;
    let mut parts = Parts::new(&spec);
    let (mut episodes, mut steps) = (0, 0u64);
    let mut push = |episode: Episode| {
        steps += episode.steps() as u64;
        episodes += 1;
        writer.push(&episode).map_err(super::failed)
    };
    for windows in table.oldest_first(WINDOWS) {
        parts
            .take(&windows, window.rows())
            .into_iter()
            .try_for_each(&mut push)?;
    }
    parts.cut().map_or(Ok(()), push)?;
    writer.finish().map_err(super::failed)?;
    super::written(episodes, steps, out)
}

/// Episodes from windows that follow each other by a step.
struct Parts {
    scale: ActionScale,
    sizes: [usize; 2],
    episode: Episode,
    /// The state after its last step.
    next: Vec<f32>,
}

impl Parts {
    fn new(spec: &EnvironmentSpec) -> Self {
        Self {
            scale: ActionScale::new(&spec.action),
            sizes: [spec.observation_size(), spec.action_size()],
            episode: Episode::default(),
            next: Vec::new(),
        }
    }

    /// The episode that has begun, as far as it goes.
    fn cut(&mut self) -> Option<Episode> {
        let mut episode = std::mem::take(&mut self.episode);
        episode.observations.append(&mut self.next);
        (episode.steps() > 0).then_some(episode)
    }

    /// The episodes that end in these windows, of `rows` rows each. What has begun is kept for the next ones.
    fn take(&mut self, windows: &ColumnBatch, rows: usize) -> Vec<Episode> {
        let columns = windows.columns();
        let floats =
            |column: usize| -> Vec<f32> { bytemuck::pod_collect_to_vec(&columns[column][..]) };
        let (observation, action) = (floats(step::OBSERVATION), floats(step::ACTION));
        let (reward, discount) = (floats(step::REWARD), floats(step::DISCOUNT));
        let step_type: Vec<i64> = bytemuck::pod_collect_to_vec(&columns[step::STEP_TYPE][..]);
        let [states, actions] = self.sizes;
        let mut ended = Vec::new();
        for first in (0..windows.len()).step_by(rows) {
            if step_type[first] == StepType::First.number() {
                ended.extend(self.cut());
            }
            let episode = &mut self.episode;
            let state = |row: usize| &observation[row * states..(row + 1) * states];
            episode.observations.extend_from_slice(state(first));
            let mut drawn = action[first * actions..(first + 1) * actions].to_vec();
            pmpo_policy::clip(&mut drawn);
            let mut carried_out = Vec::new();
            narrow(self.scale.scale(&drawn), &mut carried_out);
            episode.actions.extend(carried_out);
            episode.rewards.push(f64::from(reward[first]));
            self.next = state(first + 1).to_vec();
            if step_type[first + 1] == StepType::Last.number() {
                episode.terminated = discount[first] == 0.0;
                ended.extend(self.cut());
            }
        }
        ended
    }
}
