//! What is to be completed: the built-in prompts, or those of a file, as texts and as a model's tokens.

use std::path::PathBuf;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::chat::ChatTemplate;
use crate::data::{self, Example, Text};
use crate::{Checkpoint, LanguageError, grammar, topics};

/// Where prompts come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptSource {
    /// The small grammar's, for the model that is made over it.
    Grammar,
    /// `Write one sentence about {topic}.`
    Topics,
    /// JSON Lines with `prompt`; the last tenth, at most 100, is held out.
    File(PathBuf),
}

/// What is to be completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// As a reward is asked about it: what was said, without a template's marks.
    pub text: String,
    /// As the model takes it.
    pub tokens: Vec<u32>,
}

/// Prompts to train with, and prompts that are held out.
#[derive(Clone, Debug)]
pub struct Prompts {
    training: Vec<Prompt>,
    held_out: Vec<Prompt>,
}

impl Prompts {
    /// Reads them, for a model.
    ///
    /// # Errors
    /// A file cannot be read, or a prompt is empty or has more than `longest` tokens.
    pub fn open(
        source: &PromptSource,
        model: &Checkpoint,
        longest: usize,
    ) -> Result<Self, LanguageError> {
        let [training, held_out] = match source {
            PromptSource::Grammar => [false, true].map(|held_out| {
                let prompts = grammar::prompts(held_out);
                prompts
                    .iter()
                    .map(|words| Text::Plain(words.join(" ")))
                    .collect()
            }),
            PromptSource::Topics => [false, true].map(|held_out| {
                let chat = model.template != ChatTemplate::Plain;
                let prompts = topics::prompts(held_out).into_iter();
                prompts
                    .map(|text| {
                        if chat {
                            Text::said(&text)
                        } else {
                            Text::Plain(text)
                        }
                    })
                    .collect()
            }),
            PromptSource::File(path) => {
                let examples = data::read(path)?;
                let mut training: Vec<Text> =
                    examples.into_iter().map(Example::into_prompt).collect();
                let held_out = training.split_off(training.len() - held_out(training.len()));
                match held_out.is_empty() {
                    // Of a few there is none to spare.
                    true => [training.clone(), training],
                    false => [training, held_out],
                }
            }
        };
        let take = |texts: Vec<Text>| {
            let texts = texts.iter().enumerate();
            texts
                .map(|(i, text)| prompt(text, model, longest).map_err(|error| numbered(i, error)))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            training: take(training)?,
            held_out: take(held_out)?,
        })
    }

    /// Those of a step.
    pub(crate) fn of_step(&self, step: u64, count: usize, seed: u64) -> Vec<Prompt> {
        let order = order(step, count, self.training.len(), seed);
        order
            .into_iter()
            .map(|place| self.training[place].clone())
            .collect()
    }

    /// Tokens of the longest.
    pub(crate) fn longest(&self) -> usize {
        let all = self.training.iter().chain(&self.held_out);
        all.map(|prompt| prompt.tokens.len()).max().unwrap_or(0)
    }

    /// Those held out.
    pub fn held_out(&self) -> &[Prompt] {
        &self.held_out
    }
}

/// How many of a file's lines, its last, are held out.
pub(crate) fn held_out(lines: usize) -> usize {
    (lines / 10).min(100)
}

/// The places of a step among `all`: each once before one comes again, in an order that the seed says.
pub(crate) fn order(step: u64, count: usize, all: usize, seed: u64) -> Vec<usize> {
    let all = all as u64;
    let mut epoch = None;
    let mut order: Vec<usize> = Vec::new();
    let mut chosen = Vec::with_capacity(count);
    for place in step * count as u64..(step + 1) * count as u64 {
        if epoch != Some(place / all) {
            epoch = Some(place / all);
            order = (0..all as usize).collect();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(place / all);
            order.shuffle(&mut rng);
        }
        chosen.push(order[(place % all) as usize]);
    }
    chosen
}

/// Says of which prompt an error is.
pub(crate) fn numbered(place: usize, error: LanguageError) -> LanguageError {
    LanguageError::Text(format!("example {}: {error}", place + 1))
}

/// A text as the model takes it.
pub(crate) fn prompt(
    text: &Text,
    model: &Checkpoint,
    longest: usize,
) -> Result<Prompt, LanguageError> {
    let (text, rendered) = match text {
        Text::Plain(text) => (text.clone(), text.clone()),
        Text::Chat(messages) => {
            let said: Vec<&str> = messages.iter().map(|one| one.content.as_str()).collect();
            for said in &said {
                if let Some(mark) = model.template.special_in(said) {
                    let template = model.template.name();
                    return Err(LanguageError::Text(format!(
                        "what is said has {mark:?}, which is a mark of the template {template}"
                    )));
                }
            }
            let rendered = model.template.render(messages, true);
            let rendered = rendered.map_err(|error| LanguageError::Text(error.to_string()))?;
            (said.join("\n"), rendered)
        }
    };
    let tokens = model.tokenizer.encode_beginning(&rendered)?;
    if tokens.is_empty() || tokens.len() > longest {
        let got = tokens.len();
        return Err(LanguageError::Text(format!(
            "it has {got} tokens; expected 1 to max_prompt_length, which is {longest}"
        )));
    }
    Ok(Prompt { text, tokens })
}
