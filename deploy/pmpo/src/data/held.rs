//! Episodes of a data set as rows of windows, `pmpo_types::step`.

use pmpo_actor::canonical::ActionScale;
use pmpo_data::Episode;
use pmpo_types::StepType;

/// An episode in memory, of `T` steps.
pub(super) struct Held {
    /// `[(T + 1) * O]`.
    observations: Vec<f32>,
    /// `[T * A]`, canonical.
    actions: Vec<f32>,
    /// `[T]` each; labels are 1, -1 or 0.
    pub(super) rewards: Vec<f32>,
    labels: Vec<f32>,
    terminated: bool,
}

/// Rows as they become the columns of a batch.
#[derive(Default)]
pub(super) struct Columns {
    pub(super) observation: Vec<f32>,
    pub(super) action: Vec<f32>,
    pub(super) reward: Vec<f32>,
    pub(super) discount: Vec<f32>,
    pub(super) step_type: Vec<i64>,
    pub(super) label: Vec<f32>,
}

impl Held {
    pub(super) fn new(episode: Episode, scale: &ActionScale) -> Self {
        let label = |label: &Option<bool>| match label {
            Some(true) => 1.0,
            Some(false) => -1.0,
            None => 0.0,
        };
        let mut labels: Vec<f32> = episode.labels.iter().map(label).collect();
        labels.resize(episode.steps(), 0.0);
        Self {
            actions: scale.canonical(&episode.actions),
            rewards: episode
                .rewards
                .iter()
                .map(|&reward| reward as f32)
                .collect(),
            labels,
            observations: episode.observations,
            terminated: episode.terminated,
        }
    }

    pub(super) fn steps(&self) -> usize {
        self.rewards.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        let floats = self.observations.len() + self.actions.len() + 2 * self.rewards.len();
        (size_of::<f32>() * floats) as u64
    }

    pub(super) fn rejected(&self) -> usize {
        self.labels.iter().filter(|&&label| label < 0.0).count()
    }

    /// Each step's reward and discount.
    pub(super) fn outcomes(&self) -> Vec<(f64, f64)> {
        let steps = 0..self.steps();
        steps
            .map(|step| {
                (
                    f64::from(self.rewards[step]),
                    f64::from(self.discount(step)),
                )
            })
            .collect()
    }

    fn discount(&self, step: usize) -> f32 {
        if self.terminated && step + 1 == self.steps() {
            0.0
        } else {
            1.0
        }
    }

    /// Appends the window of `rows` rows that begins with a step. Behind the episode's end each row is its last
    /// state, in which nothing was done.
    pub(super) fn window(&self, first: usize, rows: usize, to: &mut Columns) {
        let steps = self.steps();
        let (states, actions) = (
            self.observations.len() / (steps + 1),
            self.actions.len() / steps,
        );
        for row in first..first + rows {
            let state = row.min(steps) * states;
            to.observation
                .extend_from_slice(&self.observations[state..state + states]);
            if row < steps {
                to.action
                    .extend_from_slice(&self.actions[row * actions..(row + 1) * actions]);
                to.reward.push(self.rewards[row]);
                to.discount.push(self.discount(row));
                to.label.push(self.labels[row]);
            } else {
                to.action.resize(to.action.len() + actions, 0.0);
                to.reward.push(0.0);
                to.discount.push(0.0);
                to.label.push(0.0);
            }
            let step_type = match row {
                row if row >= steps => StepType::Last,
                0 => StepType::First,
                _ => StepType::Mid,
            };
            to.step_type.push(step_type.number());
        }
    }
}
