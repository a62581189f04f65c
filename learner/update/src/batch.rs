//! The input of a step of the update on its device, copied there all at once.

use burn::tensor::{Device, Tensor, TensorData};

use crate::experience::Rows;
use crate::statistics::BatchName;

/// A batch. `B` rows (of sequences: items times steps, item by item), `N` actions a state, `O`
/// observation size, `A` action size. Observations are normalised where the policy normalises them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[B, O]`.
    pub observation: Tensor<2>,
    /// `[B, A]`, canonical, as drawn.
    pub action: Tensor<2>,
    /// Scaled n-step sums of rewards, or of sequences each step's reward, `[B]`.
    pub reward: Tensor<1>,
    /// What multiplies the value of the next observation, `[B]`.
    pub discount: Tensor<1>,
    /// `[B, O]`.
    pub next_observation: Tensor<2>,
    /// What actions are drawn with in the next states, `[N, B, A]`.
    pub noise: Tensor<3>,
    /// What multiplies the critic's losses, `[B]`: where experience is drawn by priority, or rows hold
    /// no step.
    pub weights: Option<Tensor<1>>,
    /// How much each next state counts where the policy is improved, `[B]`, with a mean of 1; absent,
    /// all the same.
    pub state_weights: Option<Tensor<1>>,
    /// Of a data set's actions, `[B]`: 1 accepted, -1 rejected, 0 neither.
    pub labels: Option<Tensor<1>>,
    /// What sequences have beside.
    pub sequences: Option<Sequences>,
    /// Mean policy version of the steps.
    pub mean_policy_version: f64,
    /// What a message calls this batch.
    pub name: BatchName,
}

/// How the rows of a batch follow each other, and who acted.
#[derive(Clone, Debug)]
pub struct Sequences {
    /// Steps of each.
    pub length: usize,
    /// Logarithm of the density or probability that the acting policy gave each action, `[B]`.
    pub log_prob: Tensor<1>,
}

/// What goes into a batch besides its rows.
pub(crate) struct Extras {
    /// `[N * B * A]`, samples first.
    pub(crate) noise: Vec<f32>,
    /// `[B]`, or empty.
    pub(crate) weights: Vec<f32>,
    /// `[B]`, or empty.
    pub(crate) state_weights: Vec<f32>,
    /// `[B]`, or empty.
    pub(crate) labels: Vec<f32>,
    /// Steps of a sequence; absent where rows are not of sequences.
    pub(crate) sequence_length: Option<usize>,
    pub(crate) mean_policy_version: f64,
    pub(crate) name: BatchName,
}

impl Batch {
    /// Copies rows and extras to `device`.
    pub(crate) fn upload(rows: Rows, extras: Extras, device: &Device) -> Self {
        let count = rows.reward.len();
        let actions = rows.action.len() / count;
        let samples = extras.noise.len() / rows.action.len();
        let [
            observation,
            action,
            reward,
            discount,
            next_observation,
            log_prob,
            noise,
            weights,
            state_weights,
            labels,
        ] = upload(
            [
                &rows.observation,
                &rows.action,
                &rows.reward,
                &rows.discount,
                &rows.next_observation,
                &rows.log_prob,
                &extras.noise,
                &extras.weights,
                &extras.state_weights,
                &extras.labels,
            ],
            device,
        );
        let required = |part: Option<Tensor<1>>| part.expect("a batch has rows");
        Self {
            observation: matrix(required(observation), count),
            action: matrix(required(action), count),
            reward: required(reward),
            discount: required(discount),
            next_observation: matrix(required(next_observation), count),
            noise: required(noise).reshape([samples, count, actions]),
            weights,
            state_weights,
            labels,
            sequences: extras.sequence_length.map(|length| Sequences {
                length,
                log_prob: required(log_prob),
            }),
            mean_policy_version: extras.mean_policy_version,
            name: extras.name,
        }
    }
}

/// One transfer of one buffer to `device`, whose parts the slices are; `None` for an empty one.
fn upload<const K: usize>(parts: [&[f32]; K], device: &Device) -> [Option<Tensor<1>>; K] {
    let values = parts.concat();
    let count = values.len();
    let uploaded = Tensor::<1>::from_data(TensorData::new(values, [count]), device);
    let mut start = 0;
    parts.map(|part| {
        start += part.len();
        let range = start - part.len()..start;
        (!part.is_empty()).then(|| uploaded.clone().slice(range))
    })
}

fn matrix(values: Tensor<1>, rows: usize) -> Tensor<2> {
    let width = values.dims()[0] / rows;
    values.reshape([rows, width])
}
