//! Preference optimisation of a language model in one process: completions are drawn from the newest weights, judged
//! and learnt from, one step after the other. Everything that is drawn is fixed by the seed and the step, so that a
//! run that is stopped goes on as if it had not been.

use std::path::Path;

use burn::tensor::Device;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::examples::{Examples, Longest};
use crate::generator::{Drawn, Generator};
use crate::grammar;
use crate::prompts::{Prompt, PromptSource};
use crate::update::{Group, StepStatistics, Trainer};
use crate::{Checkpoint, Completion, LanguageError, LmConfig, Parameters, Policy};

/// Prompts that are completed at once in an evaluation.
const EVALUATED_AT_ONCE: usize = 32;

/// A training under way.
pub struct Session {
    config: LmConfig,
    generator: Generator,
    /// What is learnt from in place of completions of its own.
    examples: Option<Examples>,
    trainer: Trainer,
    /// The weights that it began with.
    start: Policy,
    /// Completions of the next step that could not be judged yet.
    held: Option<Drawn>,
    device: Device,
}

/// A prompt, its completion, and what that was worth.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Sample {
    /// What was to be completed.
    pub prompt: String,
    /// The completion.
    pub completion: String,
    /// Its reward.
    pub reward: f32,
    /// Whether it ended of itself.
    pub finished: bool,
}

/// What a step has seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Steps taken, this one included.
    pub step: u64,
    /// Mean reward of the step's completions and its standard deviation, where there are any.
    pub rewards: Option<[f32; 2]>,
    /// Mean tokens of a completion.
    pub mean_length: f32,
    /// Share of completions that did not end of themselves.
    pub clipped_ratio: f32,
    /// Tokens drawn.
    pub tokens: usize,
    /// What the update has seen.
    pub statistics: StepStatistics,
}

/// What the policy is worth on held-out prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean reward.
    pub reward_mean: f64,
    /// Standard deviation of the rewards.
    pub reward_std: f64,
    /// Mean tokens of a completion.
    pub mean_length: f64,
    /// Share of completions that did not end of themselves.
    pub clipped_ratio: f64,
    /// Mean `ln p` of a completion's token under the model that the run began with: how much like its language the
    /// completions still are.
    pub start_log_probability: f64,
    /// Share of completions that repeat four words in a row.
    pub repeated: f64,
    /// Share of completions that are of the grammar, where that is what is completed.
    pub parses: Option<f64>,
    /// The completions.
    pub samples: Vec<Sample>,
}

impl Session {
    /// Begins with a model; with `data`, a file of completions, those are learnt from in place of its own.
    ///
    /// # Errors
    /// The configuration cannot work, or the prompts or the data cannot be read.
    pub fn new(
        config: LmConfig,
        mut checkpoint: Checkpoint,
        prompts: &PromptSource,
        data: Option<&Path>,
        device: &Device,
    ) -> Result<Self, LanguageError> {
        config.validate()?;
        let longest = Longest {
            prompt: config.max_prompt_length,
            completion: config.max_completion_length,
        };
        let examples = data
            .map(|path| Examples::open(path, &checkpoint, longest, config.loss_type))
            .transpose()?;
        let longest = examples.as_ref().map_or(0, Examples::longest_prompt);
        let model = checkpoint.model_config();
        // Once in memory for all that begin with them.
        let values = std::mem::take(&mut checkpoint.values);
        let parameters = Parameters::from_values(&model, values, device);
        let generator = Generator::new(
            config.clone(),
            checkpoint,
            parameters.clone(),
            prompts,
            longest,
            device,
        )?;
        let positions = generator.policy().positions();
        let start = Policy::new(&model, parameters.clone(), positions, device);
        let trainer = Trainer::new(&model, parameters, config.objective(), positions, device);
        Ok(Self {
            config,
            generator,
            examples,
            trainer,
            start,
            held: None,
            device: device.clone(),
        })
    }

    /// Steps taken.
    pub fn step_count(&self) -> u64 {
        self.trainer.step_count()
    }

    /// The policy's tensors.
    pub fn parameters(&self) -> &Parameters {
        self.trainer.parameters()
    }

    /// Draws completions of the step's prompts, has them judged and learns from them; or learns from the step's
    /// examples.
    ///
    /// # Errors
    /// A completion cannot be judged, or the gradient is not finite; the model is as it was before.
    pub fn step(&mut self) -> Result<Report, LanguageError> {
        let (step, seed) = (self.trainer.step_count(), self.config.seed);
        if let Some(examples) = &self.examples {
            let count = self.config.prompts_per_step;
            let statistics = examples.learn(&mut self.trainer, count, seed)?;
            self.generator
                .set_parameters(self.trainer.parameters().clone());
            return Ok(Report {
                step: step + 1,
                statistics,
                ..Report::default()
            });
        }
        let drawn = match self.held.take() {
            Some(drawn) => drawn,
            None => self.generator.draw(step, seed)?,
        };
        match self.generator.judge(&drawn) {
            Ok(groups) => self.learn(&groups),
            Err(error) => {
                self.held = Some(drawn);
                Err(error)
            }
        }
    }

    /// Learns from completions, wherever they were drawn.
    ///
    /// # Errors
    /// The gradient is not finite; the model is as it was before.
    pub fn learn(&mut self, groups: &[Group]) -> Result<Report, LanguageError> {
        let statistics = self.trainer.step_on_groups(groups)?;
        self.generator
            .set_parameters(self.trainer.parameters().clone());
        let rewards = groups.iter().flat_map(|group| &group.rewards);
        let (mean, std) = mean_and_std(rewards.map(|reward| f64::from(*reward)));
        let completions = || groups.iter().flat_map(|group| &group.completions);
        let count = completions().count() as f32;
        let tokens: usize = completions().map(|one| one.tokens.len()).sum();
        let unfinished = completions().filter(|one| !one.finished).count();
        Ok(Report {
            step: self.trainer.step_count(),
            rewards: Some([mean, std].map(|x| x as f32)),
            mean_length: tokens as f32 / count,
            clipped_ratio: unfinished as f32 / count,
            tokens,
            statistics,
        })
    }

    /// Completes held-out prompts, as often as there are completions to be had, and has them judged. What is drawn is
    /// the same each time.
    ///
    /// # Errors
    /// A completion cannot be judged.
    pub fn evaluate(&mut self) -> Result<Evaluation, LanguageError> {
        let prompts = self.generator.held_out().iter().cycle().cloned();
        let prompts: Vec<Prompt> = prompts.take(self.config.eval_completions).collect();
        let completions = self.complete(&prompts)?;
        let texts = self.generator.texts(&completions)?;
        let asked = prompts.iter().map(|prompt| prompt.text.as_str());
        let rewards = self.generator.rewards(asked, &texts)?;
        let whole: Vec<Vec<u32>> = prompts
            .iter()
            .zip(&completions)
            .map(|(prompt, one)| prompt.tokens.iter().chain(&one.tokens).copied().collect())
            .collect();
        let mut under_start = 0.0;
        for (part, prompts) in whole
            .chunks(EVALUATED_AT_ONCE)
            .zip(prompts.chunks(EVALUATED_AT_ONCE))
        {
            let part: Vec<&[u32]> = part.iter().map(Vec::as_slice).collect();
            let all = self.start.log_probabilities(&part)?;
            for (tokens, prompt) in all.iter().zip(prompts) {
                let of_completion = tokens[prompt.tokens.len() - 1..].iter();
                under_start += of_completion.map(|log| f64::from(*log)).sum::<f64>();
            }
        }
        let (reward_mean, reward_std) =
            mean_and_std(rewards.iter().map(|reward| f64::from(*reward)));
        let count = completions.len() as f64;
        let share = |n: usize| n as f64 / count;
        let tokens: usize = completions.iter().map(|one| one.tokens.len()).sum();
        let samples: Vec<Sample> = prompts
            .iter()
            .zip(texts.iter().zip(&rewards))
            .zip(&completions)
            .map(|((prompt, (text, reward)), completion)| Sample {
                prompt: prompt.text.clone(),
                completion: text.clone(),
                reward: *reward,
                finished: completion.finished,
            })
            .collect();
        let of_grammar = prompts
            .iter()
            .all(|prompt| prompt.text.starts_with("review of the "));
        let parses = || samples.iter().filter(|one| one.parses()).count();
        Ok(Evaluation {
            reward_mean,
            reward_std,
            mean_length: tokens as f64 / count,
            clipped_ratio: share(completions.iter().filter(|one| !one.finished).count()),
            start_log_probability: under_start / tokens as f64,
            repeated: share(samples.iter().filter(|one| one.repeats()).count()),
            parses: of_grammar.then(|| share(parses())),
            samples,
        })
    }

    /// Writes the state that the next step depends on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path, words: &str) -> Result<(), LanguageError> {
        self.trainer.save(path, words)
    }

    /// Goes on from such a file; answers the caller's words.
    ///
    /// # Errors
    /// The file cannot be read, or is another model's.
    pub fn restore(&mut self, path: &Path) -> Result<String, LanguageError> {
        let words = self.trainer.restore(path, &self.device)?;
        self.generator
            .set_parameters(self.trainer.parameters().clone());
        self.held = None;
        Ok(words)
    }

    /// The policy as a model of its own.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            values: self.trainer.parameters().values().collect(),
            ..self.generator.checkpoint().clone()
        }
    }

    /// The model's files but that of its numbers: names and contents.
    pub fn description(&self) -> Vec<(&'static str, String)> {
        self.generator.checkpoint().description()
    }

    /// The model's sizes.
    pub fn model_config(&self) -> crate::ModelConfig {
        self.generator.checkpoint().model_config()
    }

    /// Completes prompts, so many at once; what is drawn is the same each time.
    fn complete(&self, prompts: &[Prompt]) -> Result<Vec<Completion>, LanguageError> {
        let sampling = self.config.sampling();
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed);
        rng.set_stream(u64::MAX);
        let mut completions = Vec::with_capacity(prompts.len());
        for part in prompts.chunks(EVALUATED_AT_ONCE) {
            let tokens: Vec<&[u32]> = part.iter().map(|one| one.tokens.as_slice()).collect();
            let policy = self.generator.policy();
            completions.extend(policy.complete(&tokens, &sampling, &mut rng)?);
        }
        Ok(completions)
    }
}

impl Sample {
    fn parses(&self) -> bool {
        let [prompt, completion]: [Vec<&str>; 2] =
            [&self.prompt, &self.completion].map(|text| text.split_whitespace().collect());
        self.finished && grammar::parses(&prompt, &completion)
    }

    /// Whether four words come twice in a row of their own.
    fn repeats(&self) -> bool {
        let words: Vec<&str> = self.completion.split_whitespace().collect();
        let mut seen = std::collections::HashSet::new();
        words.windows(4).any(|four| !seen.insert(four))
    }
}

fn mean_and_std(numbers: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = numbers.clone().count().max(1) as f64;
    let mean = numbers.clone().sum::<f64>() / count;
    let variance = numbers.map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}
