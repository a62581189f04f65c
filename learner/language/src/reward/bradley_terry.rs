//! A reward that is learnt from pairs: of two completions of a prompt the better one gets more (Bradley and Terry 1952;
//! Christiano et al. 2017).
//!
//! A language model whose last hidden states, averaged over a completion's tokens, make one number. Model and head are
//! trained together to maximise `ln sigmoid(r(x, better) - r(x, worse))`; then rewards are shifted and scaled so that those
//! of the completions learnt from have mean 0 and standard deviation 1.

use std::path::Path;

use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{RewardError, Sample, Scorer};
use crate::chat::ChatTemplate;
use crate::data::{self, Example, Text};
use crate::model::{Model, Tokens};
use crate::parameters::{Adam, AdamSettings, Parameters, trained};
use crate::prompts::{held_out, numbered, order, prompt};
use crate::{Checkpoint, LanguageError};

/// What is in a reward's folder beside the model's files.
const FILE: &str = "reward.json";
/// Tokens of a text at most; what is longer is judged by its beginning.
const MOST_TOKENS: usize = 2048;
/// Texts that are judged at once.
const AT_ONCE: usize = 32;

/// How a reward is learnt.
#[derive(Clone, Copy, Debug)]
pub struct PairTraining {
    /// Steps of the update.
    pub steps: u64,
    /// Pairs of a step.
    pub pairs_per_step: usize,
    /// Adam's learning rate.
    pub learning_rate: f64,
    /// Layers that are trained, the last ones; 0: all, and the embedding.
    pub train_last_layers: usize,
    /// Seeds the order of the pairs.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairReport {
    /// Pairs that were learnt from.
    pub pairs: usize,
    /// Mean `-ln p` of the better one's being better, over the last tenth of the steps.
    pub loss: f64,
    /// Share of the pairs learnt from in which the better one gets more.
    pub accuracy: f64,
    /// The same share of the file's last tenth, at most 100 pairs, which are not learnt from.
    pub held_out_accuracy: Option<f64>,
}

/// What makes a reward of hidden states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// One for each hidden number.
    weights: Vec<f32>,
    /// What is taken from the sum, and what it is divided by.
    shift: f32,
    scale: f32,
}

/// A prompt and a completion.
type Pair = [Vec<u32>; 2];

/// Judges by a reward that was learnt from pairs.
pub struct BradleyTerry {
    /// Without its numbers.
    checkpoint: Checkpoint,
    model: Model,
    parameters: Parameters,
    head: Head,
    device: Device,
}

impl BradleyTerry {
    /// Reads the folder of a reward.
    ///
    /// # Errors
    /// A file is missing or is none of a reward.
    pub fn open(folder: &Path) -> Result<Self, LanguageError> {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| LanguageError::Io {
            path: path.clone(),
            error,
        })?;
        let broken = |why: String| LanguageError::File {
            path: path.clone(),
            why,
        };
        let head: Head =
            serde_json::from_str(&text).map_err(|error| broken(format!("no reward: {error}")))?;
        let (got, checkpoint) = (head.weights.len(), Checkpoint::open(folder)?);
        let width = checkpoint.config.hidden_size;
        if got != width {
            return Err(broken(format!(
                "it has {got} weights; the model has {width} hidden numbers"
            )));
        }
        Ok(Self::new(checkpoint, head))
    }

    /// A reward of nothing yet.
    fn new(mut checkpoint: Checkpoint, head: Head) -> Self {
        let device = Device::flex();
        let config = checkpoint.model_config();
        let values = std::mem::take(&mut checkpoint.values);
        let positions = config.max_position_embeddings.min(MOST_TOKENS);
        Self {
            model: Model::new(&config, positions, &device),
            parameters: Parameters::from_values(&config, values, &device),
            checkpoint,
            head,
            device,
        }
    }

    /// The tokens of a prompt and of a completion.
    fn tokens(&self, asked: &str, completion: &str) -> Result<Pair, LanguageError> {
        let most = self.model.positions();
        let text = match self.checkpoint.template {
            ChatTemplate::Plain => Text::Plain(asked.to_owned()),
            _ => Text::said(asked),
        };
        let mut given = prompt(&text, &self.checkpoint, usize::MAX)?.tokens;
        given.truncate(most / 2);
        let mut tokens = self.checkpoint.tokenizer.encode(completion)?;
        tokens.truncate(most - given.len());
        Ok([given, tokens])
    }

    /// The sum that rewards are made of, `[N, 1]`, by these weights of the model and the head. An empty completion is
    /// judged by the end of its prompt.
    fn sums(&self, parameters: &Parameters, head: &Tensor<2>, texts: &[&Pair]) -> Tensor<2> {
        let length = texts.iter().map(|text| text[0].len() + text[1].len()).max();
        let length = length.unwrap_or(0).max(1);
        let mut ids = Vec::with_capacity(length * texts.len());
        // What each hidden state counts for each text.
        let mut shares = vec![0.0; texts.len() * texts.len() * length];
        for (row, [given, completion]) in texts.iter().enumerate() {
            ids.extend(given.iter().chain(completion));
            ids.resize((row + 1) * length, 0);
            let end = (given.len() + completion.len()).max(1);
            let begin = given.len().min(end - 1);
            let first = row * texts.len() * length + row * length;
            shares[first + begin..first + end].fill(1.0 / (end - begin) as f32);
        }
        let shares = TensorData::new(shares, [texts.len(), texts.len() * length]);
        let hidden = self.model.hidden(parameters, &Tokens { ids, length }, None);
        let means = Tensor::<2>::from_data(shares, &self.device).matmul(hidden);
        means.matmul(head.clone().transpose())
    }

    fn raw(&self, texts: &[Pair]) -> Vec<f32> {
        let head = head(&self.head.weights, &self.device);
        let head = head.reader().matrix().clone();
        let parts = texts.chunks(AT_ONCE).flat_map(|part| {
            let part: Vec<&Pair> = part.iter().collect();
            let sums = self.sums(&self.parameters, &head, &part).into_data();
            sums.try_into_vec::<f32>().expect("f32")
        });
        parts.collect()
    }
}

impl Scorer for BradleyTerry {
    fn score(&mut self, samples: &[Sample<'_>]) -> Result<Vec<f32>, RewardError> {
        let texts = samples
            .iter()
            .map(|sample| self.tokens(sample.prompt, sample.completion))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| RewardError::Model(Box::new(error)))?;
        let raw = self.raw(&texts).into_iter();
        Ok(raw
            .map(|sum| (sum - self.head.shift) / self.head.scale)
            .collect())
    }
}

fn head(weights: &[f32], device: &Device) -> Parameters {
    let shape = [1, weights.len()];
    Parameters::of_shapes([(weights.to_vec(), &shape[..])].into_iter(), device)
}

/// Learns a reward from the pairs of a file, beginning with a model, and writes its folder.
///
/// # Errors
/// The model or the file cannot be read, the file has no pairs, a gradient is not finite, or the folder cannot be
/// written.
pub fn learn_from_pairs(
    checkpoint: Checkpoint,
    pairs: &Path,
    training: PairTraining,
    folder: &Path,
) -> Result<PairReport, LanguageError> {
    let config = checkpoint.model_config();
    let weights = vec![0.0; config.hidden_size];
    let nothing = Head {
        weights,
        shift: 0.0,
        scale: 1.0,
    };
    let mut reward = BradleyTerry::new(checkpoint, nothing);
    let examples = data::read(pairs)?.into_iter().enumerate();
    let texts = examples
        .map(|(i, example)| two(&example, &reward).map_err(|error| numbered(i, error)))
        .collect::<Result<Vec<_>, _>>()?;
    let count = texts.len() - held_out(texts.len());
    let texts: Vec<Pair> = texts.into_iter().flatten().collect();

    let settings = AdamSettings {
        learning_rate: training.learning_rate,
        betas: [0.9, 0.99],
        weight_decay: 0.0,
        max_grad_norm: 1.0,
    };
    let trained = trained(&config, training.train_last_layers);
    let mut parameters = reward.parameters.clone();
    let mut head_now = head(&reward.head.weights, &reward.device);
    let mut adam = Adam::new(&parameters, &trained);
    let mut adam_of_head = Adam::new(&head_now, &[true]);
    let last_tenth = training.steps - training.steps.div_ceil(10);
    let mut losses = Vec::new();
    for step in 0..training.steps {
        let chosen = order(step, training.pairs_per_step, count, training.seed);
        let pairs = chosen.len();
        let both: Vec<&Pair> = [0, 1]
            .into_iter()
            .flat_map(|which| chosen.iter().map(move |pair| 2 * pair + which))
            .map(|place| &texts[place])
            .collect();
        let leaves = parameters.tracked(&trained);
        let leaf = head_now.tracked(&[true]);
        let sums = reward.sums(&leaves, leaf.reader().matrix(), &both);
        let margin = sums.clone().narrow(0, 0, pairs) - sums.narrow(0, pairs, pairs);
        let loss = log_sigmoid(margin).mean().neg();
        if step >= last_tenth {
            losses.push(f64::from(loss.clone().into_scalar::<f32>()));
        }
        let mut gradients = loss.backward();
        let norms = [
            adam_of_head.step(&mut head_now, &leaf, &mut gradients, settings),
            adam.step(&mut parameters, &leaves, &mut gradients, settings),
        ];
        if let Some(norm) = norms.into_iter().find(|norm| !norm.is_finite()) {
            return Err(LanguageError::NotFinite { step, norm });
        }
    }
    reward.parameters = parameters;
    reward.head.weights = head_now.values().flatten().collect();
    let raw = reward.raw(&texts);
    (reward.head.shift, reward.head.scale) = moments(&raw[..2 * count]);
    reward.save(folder)?;
    let accuracy = |raw: &[f32]| {
        let pairs = raw.chunks_exact(2);
        let count = pairs.len();
        let right = pairs.filter(|pair| pair[0] > pair[1]).count();
        (count > 0).then(|| right as f64 / count as f64)
    };
    Ok(PairReport {
        pairs: count,
        loss: losses.iter().sum::<f64>() / losses.len().max(1) as f64,
        accuracy: accuracy(&raw[..2 * count]).unwrap_or(0.0),
        held_out_accuracy: accuracy(&raw[2 * count..]),
    })
}

impl BradleyTerry {
    fn save(&self, folder: &Path) -> Result<(), LanguageError> {
        let whole = Checkpoint {
            values: self.parameters.values().collect(),
            ..self.checkpoint.clone()
        };
        whole.save(folder)?;
        let path = folder.join(FILE);
        let text = serde_json::to_string(&self.head).expect("plain values");
        std::fs::write(&path, text).map_err(|error| LanguageError::Io { path, error })
    }
}

/// The better and the worse of a pair.
fn two(example: &Example, reward: &BradleyTerry) -> Result<[Pair; 2], LanguageError> {
    let Example::Preference {
        prompt,
        chosen,
        rejected,
    } = example
    else {
        let kind = example.kind();
        return Err(LanguageError::Text(format!(
            "it is {kind}; expected chosen and rejected"
        )));
    };
    let asked = prompt.said_alone();
    let tokens = |text: &Text| reward.tokens(&asked, &text.said_alone());
    Ok([tokens(chosen)?, tokens(rejected)?])
}

/// Mean and standard deviation, which is at least a millionth.
fn moments(values: &[f32]) -> (f32, f32) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let squares = values.iter().map(|x| (f64::from(*x) - mean).powi(2));
    let std = (squares.sum::<f64>() / count).sqrt();
    (mean as f32, std.max(1e-6) as f32)
}
