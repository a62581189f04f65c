//! Completions that are there already, to learn from: with labels, in pairs, or to be imitated.

use std::path::Path;

use crate::chat::ChatTemplate;
use crate::data::{self, Example, Text};
use crate::prompts::{held_out, numbered, order, prompt};
use crate::update::{Label, Labelled, LossType, StepStatistics, Trainer};
use crate::{Checkpoint, LanguageError};

/// Lines of a file, all of one kind, as a model takes them; without those that are held out.
#[derive(Clone, Debug)]
pub(crate) struct Examples {
    kind: Kind,
    /// A completion a line, or a better and a worse one.
    lines: Vec<Vec<Labelled>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `completion` with `label`.
    Labels,
    /// `chosen` and `rejected`.
    Pairs,
    /// `completion` alone.
    Texts,
}

/// Tokens at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Longest {
    pub(crate) prompt: usize,
    pub(crate) completion: usize,
}

impl Examples {
    /// Reads a file of JSON lines in TRL's formats.
    ///
    /// # Errors
    /// It cannot be read, has prompts alone, or is not what the objective compares.
    pub(crate) fn open(
        path: &Path,
        model: &Checkpoint,
        longest: Longest,
        loss_type: LossType,
    ) -> Result<Self, LanguageError> {
        let mut all = data::read(path)?;
        let kind = match &all[0] {
            Example::Unpaired { .. } => Kind::Labels,
            Example::Preference { .. } => Kind::Pairs,
            Example::Completion { .. } => Kind::Texts,
            Example::Prompt(_) => {
                return Err(LanguageError::Text(format!(
                    "{}: has prompts alone; expected completions to learn from",
                    path.display()
                )));
            }
        };
        if loss_type != LossType::Pmpo && kind == Kind::Labels {
            return Err(LanguageError::Text(format!(
                "{}: has labels; loss_type dpo and ipo expect chosen and rejected",
                path.display()
            )));
        }
        all.truncate(all.len() - held_out(all.len()));
        let lines = all.iter().enumerate();
        let lines = lines
            .map(|(i, example)| {
                labelled(example, model, longest).map_err(|error| numbered(i, error))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { kind, lines })
    }

    /// Tokens of the longest prompt.
    pub(crate) fn longest_prompt(&self) -> usize {
        let all = self.lines.iter().flatten();
        all.map(|one| one.prompt.len()).max().unwrap_or(0)
    }

    /// Takes a step of the update on the step's lines, so many.
    pub(crate) fn learn(
        &self,
        trainer: &mut Trainer,
        count: usize,
        seed: u64,
    ) -> Result<StepStatistics, LanguageError> {
        let lines = order(trainer.step_count(), count, self.lines.len(), seed);
        let batch: Vec<Labelled> = lines
            .into_iter()
            .flat_map(|line| self.lines[line].clone())
            .collect();
        match (self.kind, trainer.objective().loss_type) {
            (Kind::Texts, _) => trainer.step_on_texts(&batch),
            (Kind::Pairs, LossType::Dpo | LossType::Ipo) => trainer.step_on_pairs(&batch),
            _ => trainer.step_on_labels(&batch),
        }
    }
}

fn labelled(
    example: &Example,
    model: &Checkpoint,
    longest: Longest,
) -> Result<Vec<Labelled>, LanguageError> {
    let (given, completions) = match example {
        Example::Prompt(prompt) => (prompt, vec![]),
        Example::Completion { prompt, completion } => (prompt, vec![(completion, Label::None)]),
        Example::Preference {
            prompt,
            chosen,
            rejected,
        } => {
            let both = vec![(chosen, Label::Accepted), (rejected, Label::Rejected)];
            (prompt, both)
        }
        Example::Unpaired {
            prompt,
            completion,
            label,
        } => {
            let label = match label {
                true => Label::Accepted,
                false => Label::Rejected,
            };
            (prompt, vec![(completion, label)])
        }
    };
    let given = prompt(given, model, longest.prompt)?.tokens;
    completions
        .into_iter()
        .map(|(text, label)| {
            Ok(Labelled {
                prompt: given.clone(),
                completion: completion(text, model, longest.completion)?,
                label,
            })
        })
        .collect()
}

/// The tokens of a completion with its end.
fn completion(text: &Text, model: &Checkpoint, longest: usize) -> Result<Vec<u32>, LanguageError> {
    let said = match text {
        Text::Plain(text) => text.as_str(),
        Text::Chat(messages) => match messages.as_slice() {
            [one] => one.content.as_str(),
            several => {
                let count = several.len();
                let why = format!("its completion has {count} messages; expected one");
                return Err(LanguageError::Text(why));
            }
        },
    };
    let stop = match (text, model.template) {
        (Text::Plain(_), _) | (_, ChatTemplate::Plain) => None,
        (_, template) => template.stops().first(),
    };
    let end = stop.and_then(|stop| model.tokenizer.token(stop));
    let mut tokens = model.tokenizer.encode(said)?;
    tokens.extend(end.or(model.config.eos_token_id.first().copied()));
    if tokens.is_empty() || tokens.len() > longest {
        let got = tokens.len();
        return Err(LanguageError::Text(format!(
            "its completion has {got} tokens with its end; expected 1 to max_completion_length, which is {longest}"
        )));
    }
    Ok(tokens)
}
