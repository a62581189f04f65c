//! Batches of a data set. All of it is in memory where it fits; else episodes come and go, so that in a pass
//! over the data each step is drawn once in the mean. Which, and in what order, is drawn from one generator.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use pmpo_actor::canonical::ActionScale;
use pmpo_data::{DataSet, Episode};
use pmpo_types::{
    ColumnBatch, EnvironmentSpec, EpisodeReturns, Generator, SampledBatch, SampledItems,
    TableCounters, derive_seed, step,
};
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::held::{Columns, Held};
use crate::config::Config;
use crate::failure::Usage;

/// A data set as a source of windows.
pub(crate) struct DataSource {
    set: DataSet,
    scale: ActionScale,
    sizes: [usize; 2],
    /// Rows of a window.
    rows: usize,
    held: Vec<Held>,
    /// Steps in all episodes up to each, as they are held.
    ends: Vec<usize>,
    state: DataState,
}

/// What a checkpoint holds of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DataState {
    rng: ChaCha8Rng,
    /// The episodes in memory, by their numbers.
    held: Vec<usize>,
    /// Which of them goes next, by its place.
    oldest: usize,
    /// The episodes that are yet to come in this pass, the next one last.
    coming: Vec<usize>,
    /// Windows drawn since one came.
    drawn: usize,
}

impl DataState {
    /// Before anything is drawn of `episodes` episodes.
    fn new(seed: u64, episodes: usize) -> Self {
        let mut state = Self {
            rng: ChaCha8Rng::seed_from_u64(derive_seed(seed, Generator::Data, 0)),
            held: Vec::new(),
            oldest: 0,
            coming: Vec::new(),
            drawn: 0,
        };
        state.begin_pass(episodes);
        state
    }

    fn begin_pass(&mut self, episodes: usize) {
        self.coming = (0..episodes).collect();
        self.coming.shuffle(&mut self.rng);
    }
}

impl DataSource {
    /// Opens the data set of a run, which must be of the run's environment; goes on from `saved`.
    pub(crate) fn open(
        config: &Config,
        spec: &EnvironmentSpec,
        saved: Option<DataState>,
    ) -> Result<Option<Self>> {
        let Some(set) = Self::check(config, spec)? else {
            return Ok(None);
        };
        let episodes = set.len();
        let mut source = Self {
            scale: ActionScale::new(&spec.action),
            sizes: [spec.observation_size(), spec.action_size()],
            rows: config.update.window().rows(),
            held: Vec::new(),
            ends: Vec::new(),
            state: DataState::new(config.run.seed, episodes),
            set,
        };
        match saved {
            Some(saved) => {
                let numbers = || saved.held.iter().chain(&saved.coming);
                ensure!(
                    numbers().all(|&number| number < episodes) && !saved.held.is_empty(),
                    "data.path: expected the data set that the checkpoint was learned from, got one of \
                     {episodes} episodes"
                );
                for &number in &saved.held {
                    source.hold(number)?;
                }
                source.state = saved;
            }
            None => source.fill(config.data.memory_bytes)?,
        }
        source.count();
        Ok(Some(source))
    }

    /// Opens the data set of a run, if it has one; refuses what cannot be learned from in this environment.
    pub(crate) fn check(config: &Config, spec: &EnvironmentSpec) -> Result<Option<DataSet>> {
        let Some(path) = &config.data.path else {
            return Ok(None);
        };
        let set = DataSet::open(path)
            .map_err(Usage::new)
            .context("data.path")?;
        check(&set, spec).map_err(Usage::new).context("data.path")?;
        Ok(Some(set))
    }

    /// What a checkpoint is to hold.
    pub(crate) fn state(&self) -> &DataState {
        &self.state
    }

    /// The discounted returns of the episodes in memory.
    pub(crate) fn returns(&self, gamma: f64) -> impl Iterator<Item = EpisodeReturns> {
        self.held
            .iter()
            .map(move |held| EpisodeReturns::new(&held.outcomes(), gamma))
    }

    /// The share of the steps in memory that are rejected.
    pub(crate) fn rejected(&self) -> f64 {
        let rejected: usize = self.held.iter().map(Held::rejected).sum();
        rejected as f64 / self.ends.last().copied().unwrap_or(0).max(1) as f64
    }

    /// Reads episodes in the order of the pass until they take so many bytes.
    fn fill(&mut self, memory_bytes: u64) -> Result<()> {
        let mut bytes = 0;
        while bytes < memory_bytes
            && let Some(number) = self.state.coming.pop()
        {
            self.hold(number)?;
            bytes += self.held.last().map_or(0, Held::bytes);
            self.state.held.push(number);
        }
        Ok(())
    }

    fn hold(&mut self, number: usize) -> Result<()> {
        let episode = self
            .set
            .read(number)
            .map_err(Usage::new)
            .context("data.path")?;
        self.held.push(Held::new(episode, &self.scale));
        Ok(())
    }

    fn count(&mut self) {
        self.ends.clear();
        let mut steps = 0;
        for held in &self.held {
            steps += held.steps();
            self.ends.push(steps);
        }
    }

    /// In the place of the oldest episode comes the next one, once as many windows were drawn as it has steps.
    fn come_and_go(&mut self) -> Result<()> {
        if self.held.len() == self.set.len() {
            return Ok(());
        }
        let mut changed = false;
        loop {
            let place = self.state.oldest % self.held.len();
            let steps = self.held[place].steps();
            if self.state.drawn < steps {
                break;
            }
            self.state.drawn -= steps;
            if self.state.coming.is_empty() {
                self.state.begin_pass(self.set.len());
            }
            let number = self.state.coming.pop().expect("a pass has episodes");
            self.hold(number)?;
            self.held.swap_remove(place);
            self.state.held[place] = number;
            self.state.oldest = (place + 1) % self.held.len();
            changed = true;
        }
        if changed {
            self.count();
        }
        Ok(())
    }

    /// Draws windows, each step as likely as any other to be its window's first.
    pub(crate) fn draw(&mut self, windows: usize) -> Result<SampledBatch> {
        self.come_and_go()?;
        let steps = self.ends.last().copied().unwrap_or(0);
        let mut columns = Columns::default();
        for _ in 0..windows {
            let step = self.state.rng.random_range(0..steps);
            let place = self.ends.partition_point(|&end| end <= step);
            let held = &self.held[place];
            let first = step + held.steps() - self.ends[place];
            held.window(first, self.rows, &mut columns);
        }
        self.state.drawn += windows;
        Ok(self.batch(windows, &columns))
    }

    /// A batch of the table's, with windows of the data set in the place of its first ones.
    pub(crate) fn mix_into(&mut self, batch: SampledBatch, windows: usize) -> Result<SampledBatch> {
        let data = self.draw(windows)?;
        let ours = windows * self.rows;
        let [observations, actions] = self.sizes;
        let signature = step::labelled_signature(observations, actions);
        // Of what actors bring, nobody has labelled anything.
        let unlabelled = Bytes::from(vec![0; size_of::<f32>() * batch.columns.len()]);
        let theirs = batch.columns.columns().iter().chain([&unlabelled]);
        let columns = data.columns.columns().iter().zip(theirs);
        let columns = columns.map(|(data, table)| {
            let bytes_of_row = table.len() / batch.columns.len();
            [&data[..], &table[ours * bytes_of_row..]].concat().into()
        });
        let count = batch.columns.len();
        let columns = ColumnBatch::new(&signature, count, columns.collect());
        Ok(SampledBatch {
            columns: columns.expect("columns of one length"),
            ..batch
        })
    }

    /// The windows of all steps of an episode, in their order.
    pub(crate) fn windows(&self, episode: Episode) -> SampledBatch {
        let held = Held::new(episode, &self.scale);
        let mut columns = Columns::default();
        for first in 0..held.steps() {
            held.window(first, self.rows, &mut columns);
        }
        self.batch(held.steps(), &columns)
    }

    fn batch(&self, windows: usize, columns: &Columns) -> SampledBatch {
        let count = columns.reward.len();
        let (log_prob, version) = (vec![0.0f32; count], vec![0i64; count]);
        let columns = vec![
            bytes(&columns.observation),
            bytes(&columns.action),
            bytes(&columns.reward),
            bytes(&columns.discount),
            bytes(&log_prob),
            bytes(&version),
            bytes(&columns.step_type),
            bytes(&columns.label),
        ];
        let [observations, actions] = self.sizes;
        let signature = step::labelled_signature(observations, actions);
        let probability = 1.0 / self.ends.last().copied().unwrap_or(1).max(1) as f64;
        SampledBatch {
            columns: ColumnBatch::new(&signature, count, columns).expect("columns of one length"),
            counters: TableCounters {
                size: self.set.steps(),
                ..TableCounters::default()
            },
            items: SampledItems {
                keys: vec![0; windows],
                probabilities: vec![probability; windows],
                ..SampledItems::default()
            },
        }
    }
}

fn bytes<T: bytemuck::NoUninit>(values: &[T]) -> Bytes {
    Bytes::copy_from_slice(bytemuck::cast_slice(values))
}

/// Refuses a data set without steps, or of another environment.
fn check(set: &DataSet, spec: &EnvironmentSpec) -> Result<()> {
    let found = set.spec();
    ensure!(set.steps() > 0, "expected a data set with steps, got none");
    let sizes = |spec: &EnvironmentSpec| (spec.observation_size(), spec.action_size());
    let (expected, got) = (sizes(spec), sizes(found));
    ensure!(
        expected == got,
        "expected observations and actions of {expected:?} numbers, as {} has, got {got:?} of {}",
        spec.task,
        found.task
    );
    let repeat = |spec: &EnvironmentSpec| spec.action_repeat;
    ensure!(
        repeat(spec) == repeat(found),
        "expected run.action_repeat = {}, as the data set was collected with, got {}",
        repeat(found),
        repeat(spec)
    );
    Ok(())
}
