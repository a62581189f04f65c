//! Preference optimisation of a language model in one process: completions are drawn from the newest weights, judged
//! and learnt from, one step after the other. Everything that is drawn is fixed by the seed and the step, so that a
//! run that is stopped goes on as if it had not been.

use std::path::Path;

use burn::tensor::Device;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::examples::{Examples, Longest};
use crate::grammar;
use crate::prompts::{Prompt, PromptSource, Prompts};
use crate::reward::{Sample as Judged, Scorer};
use crate::update::{Group, StepStatistics, Trainer};
use crate::{Checkpoint, Completion, LanguageError, LmConfig, Parameters, Policy, Sampling};

/// Prompts that are completed at once in an evaluation.
const EVALUATED_AT_ONCE: usize = 32;

/// A training under way.
pub struct Session {
    config: LmConfig,
    /// Without its numbers.
    checkpoint: Checkpoint,
    prompts: Prompts,
    /// What is learnt from in place of completions of its own.
    examples: Option<Examples>,
    trainer: Trainer,
    policy: Policy,
    /// The weights that it began with.
    start: Policy,
    scorer: Box<dyn Scorer>,
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
        let prompts = Prompts::open(prompts, &checkpoint, config.max_prompt_length)?;
        let of_examples = examples.as_ref().map_or(0, Examples::longest_prompt);
        let longest = prompts.longest().max(of_examples);
        let completion = config.max_completion_length;
        let positions = longest + completion;
        let model = checkpoint.model_config();
        if positions > model.max_position_embeddings {
            return Err(LanguageError::Config(format!(
                "a prompt has {longest} tokens, with max_completion_length {completion} more; the model was made for {}",
                model.max_position_embeddings
            )));
        }
        // Once in memory for all that begin with them.
        let values = std::mem::take(&mut checkpoint.values);
        let parameters = Parameters::from_values(&model, values, device);
        let policy = || Policy::new(&model, parameters.clone(), positions, device);
        let (start, policy) = (policy(), policy());
        let scorer = config.reward.open()?;
        let trainer = Trainer::new(&model, parameters, config.objective(), positions, device);
        Ok(Self {
            config,
            checkpoint,
            prompts,
            examples,
            trainer,
            policy,
            start,
            scorer,
            device: device.clone(),
        })
    }

    /// Steps taken.
    pub fn step_count(&self) -> u64 {
        self.trainer.step_count()
    }

    /// Draws completions of the step's prompts, has them judged and learns from them; or learns from the step's
    /// examples.
    ///
    /// # Errors
    /// A completion cannot be judged, or the gradient is not finite; the model is as it was before.
    pub fn step(&mut self) -> Result<Report, LanguageError> {
        let step = self.trainer.step_count();
        let config = &self.config;
        if let Some(examples) = &self.examples {
            let (count, seed) = (config.prompts_per_step, config.seed);
            let statistics = examples.learn(&mut self.trainer, count, seed)?;
            self.policy
                .set_parameters(self.trainer.parameters().clone());
            return Ok(Report {
                step: step + 1,
                statistics,
                ..Report::default()
            });
        }
        let prompts = self
            .prompts
            .of_step(step, config.prompts_per_step, config.seed);
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        // The prompts' orders have the first half of the streams.
        rng.set_stream(1 << 63 | step);
        let each = config.num_generations;
        let repeated: Vec<&Prompt> = prompts
            .iter()
            .flat_map(|prompt| std::iter::repeat_n(*prompt, each))
            .collect();
        let tokens: Vec<&[u32]> = repeated.iter().map(|one| one.tokens.as_slice()).collect();
        let completions = self
            .policy
            .complete(&tokens, &config.sampling(), &mut rng)?;
        let texts = texts(&self.checkpoint, &completions)?;
        let rewards = judge(self.scorer.as_mut(), &repeated, &texts)?;
        let groups: Vec<Group> = prompts
            .iter()
            .enumerate()
            .map(|(i, prompt)| Group {
                prompt: prompt.tokens.clone(),
                completions: completions[i * each..(i + 1) * each]
                    .iter()
                    .map(|completion| completion.tokens.clone())
                    .collect(),
                rewards: rewards[i * each..(i + 1) * each].to_vec(),
            })
            .collect();
        let statistics = self.trainer.step_on_groups(&groups)?;
        self.policy
            .set_parameters(self.trainer.parameters().clone());
        let (mean, std) = mean_and_std(rewards.iter().map(|reward| f64::from(*reward)));
        let count = completions.len() as f32;
        let tokens: usize = completions.iter().map(|one| one.tokens.len()).sum();
        let unfinished = completions.iter().filter(|one| !one.finished).count();
        Ok(Report {
            step: step + 1,
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
        let sampling = self.config.sampling();
        let prompts = self.prompts.held_out().iter().cycle();
        let prompts: Vec<&Prompt> = prompts.take(self.config.eval_completions).collect();
        let completions = complete(&self.policy, &prompts, &sampling, self.config.seed)?;
        let texts = texts(&self.checkpoint, &completions)?;
        let rewards = judge(self.scorer.as_mut(), &prompts, &texts)?;
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
        self.policy
            .set_parameters(self.trainer.parameters().clone());
        Ok(words)
    }

    /// The policy as a model of its own.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            values: self.trainer.parameters().values().collect(),
            ..self.checkpoint.clone()
        }
    }
}

/// Completes prompts, so many at once.
fn complete(
    policy: &Policy,
    prompts: &[&Prompt],
    sampling: &Sampling,
    seed: u64,
) -> Result<Vec<Completion>, LanguageError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::MAX);
    let mut completions = Vec::with_capacity(prompts.len());
    for part in prompts.chunks(EVALUATED_AT_ONCE) {
        let tokens: Vec<&[u32]> = part.iter().map(|one| one.tokens.as_slice()).collect();
        completions.extend(policy.complete(&tokens, sampling, &mut rng)?);
    }
    Ok(completions)
}

fn texts(model: &Checkpoint, completions: &[Completion]) -> Result<Vec<String>, LanguageError> {
    let texts = completions
        .iter()
        .map(|one| model.tokenizer.decode(&one.tokens));
    texts.collect()
}

fn judge(
    scorer: &mut dyn Scorer,
    prompts: &[&Prompt],
    texts: &[String],
) -> Result<Vec<f32>, LanguageError> {
    let samples: Vec<Judged<'_>> = prompts
        .iter()
        .zip(texts)
        .map(|(prompt, completion)| Judged {
            prompt: &prompt.text,
            completion,
        })
        .collect();
    Ok(scorer.score(&samples)?)
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
