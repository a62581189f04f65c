//! A model that completes prompts.

use burn::tensor::Device;
use rand::Rng;

use crate::generate::{Completion, Sampling, generate};
use crate::model::{Model, Tokens};
use crate::operation::measure_tokens;
use crate::parameters::Parameters;
use crate::{LanguageError, ModelConfig};

/// A model and its weights, to draw from and to ask.
#[derive(Debug)]
pub struct Policy {
    model: Model,
    parameters: Parameters,
}

impl Policy {
    /// For texts of at most so many tokens.
    pub fn new(
        config: &ModelConfig,
        parameters: Parameters,
        positions: usize,
        device: &Device,
    ) -> Self {
        Self {
            model: Model::new(config, positions, device),
            parameters,
        }
    }

    /// Goes on with other weights of the same model.
    pub fn set_parameters(&mut self, parameters: Parameters) {
        self.parameters = parameters;
    }

    /// Tokens that a text may have.
    pub fn positions(&self) -> usize {
        self.model.positions()
    }

    /// Draws a completion of each prompt, all at once; which one a prompt gets depends on its place among them.
    ///
    /// # Errors
    /// A prompt is empty, too long, or has tokens that the model does not.
    pub fn complete(
        &self,
        prompts: &[&[u32]],
        config: &Sampling,
        rng: &mut impl Rng,
    ) -> Result<Vec<Completion>, LanguageError> {
        let room = self
            .model
            .positions()
            .saturating_sub(config.max_completion_length);
        for prompt in prompts {
            if prompt.is_empty() || prompt.len() > room {
                let (got, completion) = (prompt.len(), config.max_completion_length);
                return Err(LanguageError::Text(format!(
                    "a prompt has {got} tokens; expected 1 to {room}, which leaves {completion} to complete it"
                )));
            }
            self.check(prompt)?;
        }
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        let ends = &self.model.config().eos_token_id;
        Ok(generate(
            &self.model,
            &self.parameters,
            prompts,
            ends,
            config,
            rng,
        ))
    }

    /// `ln p` of each token of each text but its first, given those before it.
    ///
    /// # Errors
    /// A text has fewer than two tokens, is too long, or has tokens that the model does not.
    pub fn log_probabilities(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, LanguageError> {
        let most = self.model.positions();
        for text in texts {
            if text.len() < 2 || text.len() > most {
                let got = text.len();
                let why = format!("a text has {got} tokens; expected 2 to {most}");
                return Err(LanguageError::Text(why));
            }
            self.check(text)?;
        }
        let length = texts.iter().map(|text| text.len() - 1).max().unwrap_or(1);
        let mut ids = Vec::with_capacity(length * texts.len());
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (row, text) in texts.iter().enumerate() {
            places.extend(row * length..row * length + text.len() - 1);
            targets.extend_from_slice(&text[1..]);
            ids.extend_from_slice(&text[..text.len() - 1]);
            ids.resize((row + 1) * length, 0);
        }
        let hidden = self
            .model
            .hidden(&self.parameters, &Tokens { ids, length }, None);
        let logits = self.model.logits(&self.parameters, hidden, Some(&places));
        let measured = measure_tokens(&logits, None, &targets);
        let mut rest = &measured.log_probabilities[..];
        let split = texts.iter().map(|text| {
            let (these, others) = rest.split_at(text.len() - 1);
            rest = others;
            these.to_vec()
        });
        Ok(split.collect())
    }

    /// Logits `[T, V]` of one text.
    ///
    /// # Errors
    /// It is empty, too long, or has tokens that the model does not.
    pub fn logits(&self, text: &[u32]) -> Result<Vec<f32>, LanguageError> {
        if text.is_empty() || text.len() > self.model.positions() {
            let (got, most) = (text.len(), self.model.positions());
            let why = format!("a text has {got} tokens; expected 1 to {most}");
            return Err(LanguageError::Text(why));
        }
        self.check(text)?;
        let tokens = Tokens {
            ids: text.to_vec(),
            length: text.len(),
        };
        let hidden = self.model.hidden(&self.parameters, &tokens, None);
        let logits = self.model.logits(&self.parameters, hidden, None);
        let logits = logits.hidden.matmul(logits.matrix.transpose());
        Ok(logits.into_data().try_into_vec().expect("f32"))
    }

    fn check(&self, text: &[u32]) -> Result<(), LanguageError> {
        let size = self.model.config().vocab_size;
        match text.iter().find(|token| **token as usize >= size) {
            Some(token) => Err(LanguageError::Text(format!(
                "the tokenizer has a token {token}; the model has {size}"
            ))),
            None => Ok(()),
        }
    }
}
