//! A step of preference optimisation on texts: from groups of completions with rewards, from completions with
//! labels, or from texts to be imitated, to the model's next weights.
//!
//! The paper's equation 10 with `y` a completion and `x` its prompt, log-probabilities summed over a completion's
//! tokens:
//!
//!   maximise  alpha E_accepted[ln p(y|x)] - (1 - alpha) E_rejected[ln p(y|x)] - beta E[KL(reference || p)]
//!
//! where the KL is exact, over the vocabulary at each position of a completion, and summed over positions
//! (equation 20). DPO (Rafailov et al. 2023) and IPO (Azar et al. 2024) compare the best of a group with the worst.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::kernels::tokens::Rows;
use crate::model::{Model, Tokens};
use crate::operation::{Logits, Measured, measure_tokens, token_loss};
use crate::parameters::{Adam, AdamSettings, Parameters, trained};
use crate::{Completion, LanguageError};

/// What the policy is moved by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// The paper's.
    #[default]
    Pmpo,
    /// Direct preference optimisation, of the best and the worst of a group.
    Dpo,
    /// Its identity form.
    Ipo,
}

/// What is minimised, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// What the policy is moved by.
    pub loss_type: LossType,
    /// Share of accepted completions in the objective; the rest is the rejected ones'.
    pub alpha: f64,
    /// Weight of the KL to the reference; of DPO and IPO their own beta.
    pub beta: f64,
    /// Best completions of a group that are accepted.
    pub num_accepted: usize,
    /// Worst completions of a group that are rejected.
    pub num_rejected: usize,
    /// Steps after which the reference becomes a copy of the policy; 0: it stays what it was.
    pub ref_model_sync_steps: u64,
    /// Layers that are trained, the last ones; 0: all, and the embedding.
    pub train_last_layers: usize,
    /// Adam's learning rate.
    pub learning_rate: f64,
    /// Adam's decays.
    pub betas: [f64; 2],
    /// What matrices lose of themselves in a step, over the learning rate.
    pub weight_decay: f64,
    /// Longest gradient; 0: any.
    pub max_grad_norm: f64,
}

impl Default for Objective {
    fn default() -> Self {
        Self {
            loss_type: LossType::Pmpo,
            alpha: 0.5,
            beta: 1.0,
            num_accepted: 2,
            num_rejected: 2,
            ref_model_sync_steps: 0,
            train_last_layers: 0,
            learning_rate: 5e-5,
            betas: [0.9, 0.99],
            weight_decay: 0.0,
            max_grad_norm: 1.0,
        }
    }
}

impl Objective {
    fn adam(&self) -> AdamSettings {
        AdamSettings {
            learning_rate: self.learning_rate,
            betas: self.betas,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
        }
    }
}

/// What a completion is to the objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// To become likelier.
    Accepted,
    /// To become less likely.
    Rejected,
    /// Neither; the KL counts it.
    None,
}

/// A prompt and a completion, as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// The prompt; at least one token.
    pub prompt: Vec<u32>,
    /// The completion; at least one token.
    pub completion: Vec<u32>,
    /// What it is to the objective.
    pub label: Label,
}

/// A prompt's completions with their rewards.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// The completions, drawn by one policy.
    pub completions: Vec<Completion>,
    /// One reward each; finite.
    pub rewards: Vec<f32>,
}

/// What a step has seen: means over completions, but for what says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StepStatistics {
    /// What is minimised.
    pub loss: f32,
    /// `KL(reference || policy)` of a completion, summed over its tokens.
    pub kl: f32,
    /// Entropy of a token.
    pub entropy: f32,
    /// `ln p` of accepted completions.
    pub log_probability_accepted: f32,
    /// `ln p` of rejected completions.
    pub log_probability_rejected: f32,
    /// The gradient's norm, before it was shortened.
    pub grad_norm: f32,
}

/// A model under training.
#[derive(Debug)]
pub struct Trainer {
    pub(crate) model: Model,
    pub(crate) config: Objective,
    pub(crate) parameters: Parameters,
    pub(crate) reference: Parameters,
    pub(crate) adam: Adam,
    pub(crate) trained: Vec<bool>,
    pub(crate) step: u64,
}

impl Trainer {
    /// Begins with a model whose weights are its reference too, for texts of at most so many tokens.
    pub fn new(
        model: &ModelConfig,
        parameters: Parameters,
        config: Objective,
        positions: usize,
        device: &Device,
    ) -> Self {
        let trained = trained(model, config.train_last_layers);
        Self {
            model: Model::new(model, positions, device),
            adam: Adam::new(&parameters, &trained),
            reference: parameters.clone(),
            parameters,
            config,
            trained,
            step: 0,
        }
    }

    /// Steps taken.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// What is minimised.
    pub fn objective(&self) -> &Objective {
        &self.config
    }

    /// The policy's tensors.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The reference's tensors.
    pub fn reference(&self) -> &Parameters {
        &self.reference
    }

    /// Takes a step on groups.
    ///
    /// # Errors
    /// The gradient is not finite; nothing has changed then.
    pub fn step_on_groups(&mut self, groups: &[Group]) -> Result<StepStatistics, LanguageError> {
        let (most, least) = match self.config.loss_type {
            LossType::Pmpo => (self.config.num_accepted, self.config.num_rejected),
            // The best and the worst.
            LossType::Dpo | LossType::Ipo => (1, 1),
        };
        let labelled: Vec<Labelled> = groups
            .iter()
            .flat_map(|group| group.labelled(most, least))
            .collect();
        match self.config.loss_type {
            LossType::Pmpo => self.step_on_labels(&labelled),
            LossType::Dpo | LossType::Ipo => {
                let pairs = labelled.into_iter().filter(|one| one.label != Label::None);
                self.step_on_pairs(&pairs.collect::<Vec<_>>())
            }
        }
    }

    /// Takes a step of the paper's objective on completions with labels.
    ///
    /// # Errors
    /// The gradient is not finite; nothing has changed then.
    pub fn step_on_labels(&mut self, batch: &[Labelled]) -> Result<StepStatistics, LanguageError> {
        let count = |label| batch.iter().filter(|one| one.label == label).count().max(1) as f64;
        let (accepted, rejected) = (count(Label::Accepted), count(Label::Rejected));
        let [alpha, beta] = [self.config.alpha, self.config.beta];
        let kl_weight = (beta / batch.len() as f64) as f32;
        let weights: Vec<[f32; 2]> = batch
            .iter()
            .map(|one| match one.label {
                Label::Accepted => [(alpha / accepted) as f32, kl_weight],
                Label::Rejected => [(-(1.0 - alpha) / rejected) as f32, kl_weight],
                Label::None => [0.0, kl_weight],
            })
            .collect();
        let with_reference = beta > 0.0;
        self.take(batch, with_reference, |_, _| weights)
    }

    /// Takes a step of supervised learning: all completions become likelier, each token alike.
    ///
    /// # Errors
    /// The gradient is not finite; nothing has changed then.
    pub fn step_on_texts(&mut self, batch: &[Labelled]) -> Result<StepStatistics, LanguageError> {
        let tokens: usize = batch.iter().map(|one| one.completion.len()).sum();
        let weight = 1.0 / tokens as f32;
        let weights = vec![[weight, 0.0]; batch.len()];
        self.take(batch, false, |_, _| weights)
    }

    /// Takes a step of DPO or IPO on pairs, which stand one after the other, the better one first.
    ///
    /// # Errors
    /// The gradient is not finite; nothing has changed then.
    pub fn step_on_pairs(&mut self, batch: &[Labelled]) -> Result<StepStatistics, LanguageError> {
        let (beta, kind) = (self.config.beta as f32, self.config.loss_type);
        let pairs = (batch.len() / 2).max(1) as f32;
        self.take(batch, true, |measured, sums| {
            let of_policy = sums(&measured.log_probabilities);
            let of_reference = sums(&measured.reference_log_probabilities);
            let ratio = |i: usize| of_policy[i] - of_reference[i];
            let pairs = (0..batch.len() / 2).map(|pair| {
                let margin = ratio(2 * pair) - ratio(2 * pair + 1);
                // Minus the loss's slope along the margin.
                let pull = match kind {
                    LossType::Ipo => -2.0 * (margin - 0.5 / beta),
                    _ => beta / (1.0 + (beta * margin).exp()),
                };
                pull / pairs
            });
            pairs.flat_map(|pull| [[pull, 0.0], [-pull, 0.0]]).collect()
        })
    }

    /// Takes a step on completions whose weights, `[w, k]` of each one's tokens, `weigh` says; it is given what each
    /// token is and how such numbers are summed over completions.
    fn take(
        &mut self,
        batch: &[Labelled],
        with_reference: bool,
        weigh: impl FnOnce(&Measured, &dyn Fn(&[f32]) -> Vec<f32>) -> Vec<[f32; 2]>,
    ) -> Result<StepStatistics, LanguageError> {
        if batch.is_empty() {
            // Groups whose rewards are all alike say nothing.
            self.step += 1;
            return Ok(StepStatistics::default());
        }
        let rows = CompletionRows::new(batch);
        let reference = with_reference.then(|| self.logits(&self.reference, &rows));
        let leaves = self.parameters.tracked(&self.trained);
        let logits = self.logits(&leaves, &rows);
        let pairs = self.config.loss_type != LossType::Pmpo && with_reference;
        let before = match pairs {
            true => measure_tokens(&logits, reference.as_ref(), &rows.targets),
            false => Measured::default(),
        };
        let weights = weigh(&before, &|numbers| rows.sums(numbers));
        let [weights, kl_weights] =
            [0, 1].map(|i| rows.spread(weights.iter().map(|weight| weight[i])));
        let asked = Rows {
            targets: &rows.targets,
            weights: &weights,
            kl_weights: &kl_weights,
        };
        let (loss, measured) = token_loss(logits, reference.as_ref(), asked);
        let mut gradients = loss.backward();
        let settings = self.config.adam();
        let norm = self
            .adam
            .step(&mut self.parameters, &leaves, &mut gradients, settings);
        if !norm.is_finite() {
            return Err(LanguageError::NotFinite {
                step: self.step + 1,
                norm,
            });
        }
        self.step += 1;
        let period = self.config.ref_model_sync_steps;
        if period > 0 && self.step.is_multiple_of(period) {
            self.reference = self.parameters.clone();
        }
        let loss = loss.into_scalar::<f32>();
        Ok(rows.statistics(batch, &measured, [loss, norm]))
    }

    /// What makes the logits before each token of the completions.
    fn logits(&self, parameters: &Parameters, rows: &CompletionRows) -> Logits {
        let hidden = self.model.hidden(parameters, &rows.tokens, None);
        self.model.logits(parameters, hidden, Some(&rows.places))
    }
}

impl Group {
    /// The best `most` completions, accepted, the worst `least`, rejected, and the others. Where a better one is no
    /// better than a worse one neither has a label: a tie is no preference.
    fn labelled(&self, most: usize, least: usize) -> Vec<Labelled> {
        let mut order: Vec<usize> = (0..self.completions.len()).collect();
        // Stable: of equals the first drawn comes first.
        order.sort_by(|a, b| self.rewards[*b].total_cmp(&self.rewards[*a]));
        let rewards = |place: usize| self.rewards[order[place]];
        let last = order.len() - 1;
        order
            .iter()
            .enumerate()
            .map(|(place, &index)| {
                let label = if place < most && rewards(place) > rewards(last) {
                    Label::Accepted
                } else if place + least >= order.len() && rewards(place) < rewards(0) {
                    Label::Rejected
                } else {
                    Label::None
                };
                Labelled {
                    prompt: self.prompt.clone(),
                    completion: self.completions[index].tokens.clone(),
                    label,
                }
            })
            .collect()
    }
}

/// A batch as the model takes it: sequences without their last token, padded on the right, and the places whose
/// hidden states say the completions' tokens.
struct CompletionRows {
    tokens: Tokens,
    /// Places among the `[B T]` hidden states, completion after completion.
    places: Vec<usize>,
    /// The token that follows each place.
    targets: Vec<u32>,
    /// Tokens of each completion.
    lengths: Vec<usize>,
}

impl CompletionRows {
    fn new(batch: &[Labelled]) -> Self {
        let lengths: Vec<usize> = batch.iter().map(|one| one.completion.len()).collect();
        let total = |one: &Labelled| one.prompt.len() + one.completion.len() - 1;
        let length = batch.iter().map(total).max().unwrap_or(1);
        let mut ids = Vec::with_capacity(length * batch.len());
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (row, one) in batch.iter().enumerate() {
            let first = row * length + one.prompt.len() - 1;
            places.extend(first..first + one.completion.len());
            targets.extend(&one.completion);
            let all = one.prompt.iter().chain(&one.completion);
            ids.extend(all.take(total(one)));
            ids.resize((row + 1) * length, 0);
        }
        Self {
            tokens: Tokens { ids, length },
            places,
            targets,
            lengths,
        }
    }

    /// Sums over each completion's tokens.
    fn sums(&self, numbers: &[f32]) -> Vec<f32> {
        let mut rest = numbers;
        let lengths = self.lengths.iter();
        let sums = lengths.map(|&length| {
            let (these, others) = rest.split_at(length);
            rest = others;
            these.iter().sum()
        });
        sums.collect()
    }

    /// A number a completion as a number a token.
    fn spread(&self, numbers: impl Iterator<Item = f32>) -> Vec<f32> {
        let each = numbers.zip(&self.lengths);
        each.flat_map(|(number, &length)| std::iter::repeat_n(number, length))
            .collect()
    }

    fn statistics(
        &self,
        batch: &[Labelled],
        measured: &Measured,
        [loss, grad_norm]: [f32; 2],
    ) -> StepStatistics {
        let sums = self.sums(&measured.log_probabilities);
        let of = |label| {
            let these = batch
                .iter()
                .zip(&sums)
                .filter(|(one, _)| one.label == label);
            let (count, sum) = these.fold((0, 0.0), |(n, sum), (_, x)| (n + 1, sum + x));
            sum / (count as f32).max(1.0)
        };
        let mean = |numbers: &[f32], count: usize| numbers.iter().sum::<f32>() / count as f32;
        StepStatistics {
            loss,
            kl: mean(&measured.kl, batch.len()),
            entropy: mean(&measured.entropies, self.targets.len()),
            log_probability_accepted: of(Label::Accepted),
            log_probability_rejected: of(Label::Rejected),
            grad_norm,
        }
    }
}
