//! The section `[lm]` of a configuration. Names are TRL's where it has one.

use pmpo_types::ConfigError;
use serde::{Deserialize, Serialize};

use crate::generate::Sampling;
use crate::reward::RewardConfig;
use crate::update::{LossType, Objective};
use crate::weights::WeightsDtype;

/// Preference optimisation of a language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LmConfig {
    /// Seeds every draw.
    pub seed: u64,
    /// Steps of the update.
    pub max_steps: u64,
    /// Prompts of a step.
    pub prompts_per_step: usize,
    /// Completions of a prompt, which are compared with each other.
    pub num_generations: usize,
    /// Tokens of a prompt at most.
    pub max_prompt_length: usize,
    /// Tokens of a completion at most, its end included.
    pub max_completion_length: usize,
    /// What logits are divided by where completions are drawn; 0 takes the likeliest token.
    pub temperature: f64,
    /// Draws among the likeliest tokens that together have this much; 1 among all.
    pub top_p: f64,
    /// What the policy is moved by: `pmpo`, `dpo` or `ipo`.
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
    /// Adam's first decay.
    pub adam_beta1: f64,
    /// Adam's second decay.
    pub adam_beta2: f64,
    /// What matrices lose of themselves in a step, over the learning rate.
    pub weight_decay: f64,
    /// Longest gradient; 0: any.
    pub max_grad_norm: f64,
    /// Steps between evaluations on held-out prompts.
    pub eval_steps: u64,
    /// Completions of an evaluation: of each held-out prompt one, and so on from the first again.
    pub eval_completions: usize,
    /// Steps between checkpoints.
    pub save_steps: u64,
    /// Steps between the publications of weights to generators.
    pub weight_sync_steps: u64,
    /// How the weights go to generators: `f32`, or `bf16`, which is half of the bytes.
    pub weights_dtype: WeightsDtype,
    /// Steps that a group's policy may be behind where it is learnt from; what is older is dropped.
    pub max_staleness: u64,
    /// Groups that wait to be learnt from, at most; generators wait then. 0: twice `prompts_per_step`.
    pub queue_maxsize: u64,
    /// What judges completions.
    pub reward: RewardConfig,
}

impl Default for LmConfig {
    fn default() -> Self {
        let (objective, sampling) = (Objective::default(), Sampling::default());
        Self {
            seed: 0,
            max_steps: 100,
            prompts_per_step: 8,
            num_generations: 4,
            max_prompt_length: 64,
            max_completion_length: sampling.max_completion_length,
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            loss_type: objective.loss_type,
            alpha: objective.alpha,
            beta: objective.beta,
            num_accepted: objective.num_accepted,
            num_rejected: objective.num_rejected,
            ref_model_sync_steps: objective.ref_model_sync_steps,
            train_last_layers: objective.train_last_layers,
            learning_rate: objective.learning_rate,
            adam_beta1: objective.betas[0],
            adam_beta2: objective.betas[1],
            weight_decay: objective.weight_decay,
            max_grad_norm: objective.max_grad_norm,
            eval_steps: 15,
            eval_completions: 100,
            save_steps: 50,
            weight_sync_steps: 1,
            weights_dtype: WeightsDtype::F32,
            max_staleness: 4,
            queue_maxsize: 0,
            reward: RewardConfig::Vader {},
        }
    }
}

impl LmConfig {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, count) in [
            ("max_steps", self.max_steps),
            ("prompts_per_step", self.prompts_per_step as u64),
            ("num_generations", self.num_generations as u64),
            ("max_prompt_length", self.max_prompt_length as u64),
            ("max_completion_length", self.max_completion_length as u64),
            ("eval_steps", self.eval_steps),
            ("eval_completions", self.eval_completions as u64),
            ("save_steps", self.save_steps),
            ("weight_sync_steps", self.weight_sync_steps),
        ] {
            ConfigError::at_least_one(field, count)?;
        }
        ConfigError::not_negative("temperature", self.temperature)?;
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(ConfigError::new("top_p", "above 0, at most 1", self.top_p));
        }
        ConfigError::share("alpha", self.alpha)?;
        ConfigError::not_negative("beta", self.beta)?;
        if self.loss_type != LossType::Pmpo && self.beta == 0.0 {
            let expected = "above 0 with loss_type dpo or ipo";
            return Err(ConfigError::new("beta", expected, self.beta));
        }
        let labelled = self.num_accepted + self.num_rejected;
        if labelled == 0 || labelled > self.num_generations {
            let expected = format!("1 to num_generations, which is {}", self.num_generations);
            let field = "num_accepted + num_rejected";
            return Err(ConfigError::new(field, expected, labelled));
        }
        ConfigError::positive("learning_rate", self.learning_rate)?;
        for (field, decay) in [
            ("adam_beta1", self.adam_beta1),
            ("adam_beta2", self.adam_beta2),
        ] {
            if !(0.0..1.0).contains(&decay) {
                return Err(ConfigError::new(field, "0 to below 1", decay));
            }
        }
        ConfigError::not_negative("weight_decay", self.weight_decay)?;
        ConfigError::not_negative("max_grad_norm", self.max_grad_norm)?;
        // Between two publications nobody's groups are newer than the first.
        if self.weight_sync_steps - 1 > self.max_staleness {
            let expected = format!(
                "at most max_staleness + 1, max_staleness being {}",
                self.max_staleness
            );
            let (field, got) = ("weight_sync_steps", self.weight_sync_steps);
            return Err(ConfigError::new(field, expected, got));
        }
        self.reward.validate()
    }

    /// How completions are drawn.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            max_completion_length: self.max_completion_length,
            temperature: self.temperature,
            top_p: self.top_p,
        }
    }

    /// Groups that the queue between generators and learner holds.
    pub fn queue_groups(&self) -> u64 {
        match self.queue_maxsize {
            0 => 2 * self.prompts_per_step as u64,
            groups => groups,
        }
    }

    /// What is minimised.
    pub fn objective(&self) -> Objective {
        Objective {
            loss_type: self.loss_type,
            alpha: self.alpha,
            beta: self.beta,
            num_accepted: self.num_accepted,
            num_rejected: self.num_rejected,
            ref_model_sync_steps: self.ref_model_sync_steps,
            train_last_layers: self.train_last_layers,
            learning_rate: self.learning_rate,
            betas: [self.adam_beta1, self.adam_beta2],
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
        }
    }
}
