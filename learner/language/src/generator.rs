//! Drawing completions of prompts and having them judged: what a run does beside its update, in the same process or
//! in others.

use burn::tensor::Device;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::prompts::{Prompt, PromptSource, Prompts};
use crate::reward::{Sample, Scorer};
use crate::update::Group;
use crate::{Checkpoint, Completion, LanguageError, LmConfig, Parameters, Policy};

/// Completions that are to be judged.
#[derive(Clone, Debug)]
pub struct Drawn {
    prompts: Vec<Prompt>,
    /// As many of each prompt, prompt by prompt.
    completions: Vec<Completion>,
    texts: Vec<String>,
}

impl Drawn {
    /// Tokens drawn.
    pub fn tokens(&self) -> usize {
        self.completions.iter().map(|one| one.tokens.len()).sum()
    }
}

/// Completes prompts with the weights it is given and has the completions judged.
pub struct Generator {
    config: LmConfig,
    /// Without its numbers.
    checkpoint: Checkpoint,
    prompts: Prompts,
    policy: Policy,
    scorer: Box<dyn Scorer>,
}

impl Generator {
    /// Of a run's model; it has room for prompts of `longest_prompt` tokens, at least for its own.
    ///
    /// # Errors
    /// The prompts cannot be read, are longer than the model has positions for, or the scorer does not start.
    pub fn new(
        config: LmConfig,
        checkpoint: Checkpoint,
        parameters: Parameters,
        prompts: &PromptSource,
        longest_prompt: usize,
        device: &Device,
    ) -> Result<Self, LanguageError> {
        let prompts = Prompts::open(prompts, &checkpoint, config.max_prompt_length)?;
        let longest = prompts.longest().max(longest_prompt);
        let completion = config.max_completion_length;
        let model = checkpoint.model_config();
        if longest + completion > model.max_position_embeddings {
            return Err(LanguageError::Config(format!(
                "a prompt has {longest} tokens, with max_completion_length {completion} more; the model was made for {}",
                model.max_position_embeddings
            )));
        }
        let scorer = config.reward.open()?;
        Ok(Self {
            policy: Policy::new(&model, parameters, longest + completion, device),
            config,
            checkpoint,
            prompts,
            scorer,
        })
    }

    /// Draws with other weights from now on.
    pub fn set_parameters(&mut self, parameters: Parameters) {
        self.policy.set_parameters(parameters);
    }

    /// Completes the prompts of a step; the step and the seed say which, and what is drawn.
    ///
    /// # Errors
    /// The tokenizer cannot say what was drawn.
    pub fn draw(&self, step: u64, seed: u64) -> Result<Drawn, LanguageError> {
        let count = self.config.prompts_per_step;
        let prompts: Vec<Prompt> = self.prompts.of_step(step, count, seed);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // The prompts' orders have the first half of the streams.
        rng.set_stream(1 << 63 | step);
        let each = self.config.num_generations;
        let tokens = prompts
            .iter()
            .flat_map(|prompt| std::iter::repeat_n(prompt.tokens.as_slice(), each));
        let tokens: Vec<&[u32]> = tokens.collect();
        let completions = self
            .policy
            .complete(&tokens, &self.config.sampling(), &mut rng)?;
        Ok(Drawn {
            texts: self.texts(&completions)?,
            prompts,
            completions,
        })
    }

    /// What completions are worth.
    ///
    /// # Errors
    /// The scorer has failed; the same completions can be offered again.
    pub fn judge(&mut self, drawn: &Drawn) -> Result<Vec<Group>, LanguageError> {
        let each = self.config.num_generations;
        let repeated = drawn
            .prompts
            .iter()
            .flat_map(|prompt| std::iter::repeat_n(prompt.text.as_str(), each));
        let rewards = self.rewards(repeated, &drawn.texts)?;
        let judged = drawn
            .completions
            .chunks_exact(each)
            .zip(rewards.chunks_exact(each));
        Ok(drawn
            .prompts
            .iter()
            .zip(judged)
            .map(|(prompt, (completions, rewards))| Group {
                prompt: prompt.tokens.clone(),
                completions: completions.to_vec(),
                rewards: rewards.to_vec(),
            })
            .collect())
    }

    /// One reward for each text, which completes the prompt beside it.
    pub(crate) fn rewards<'a>(
        &mut self,
        prompts: impl Iterator<Item = &'a str>,
        texts: &[String],
    ) -> Result<Vec<f32>, LanguageError> {
        let samples: Vec<Sample<'_>> = prompts
            .zip(texts)
            .map(|(prompt, completion)| Sample { prompt, completion })
            .collect();
        Ok(self.scorer.score(&samples)?)
    }

    pub(crate) fn texts(&self, completions: &[Completion]) -> Result<Vec<String>, LanguageError> {
        let texts = completions
            .iter()
            .map(|one| self.checkpoint.tokenizer.decode(&one.tokens));
        texts.collect()
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Prompts that nothing is learnt from.
    pub(crate) fn held_out(&self) -> &[Prompt] {
        self.prompts.held_out()
    }
}
