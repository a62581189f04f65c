//! Sampling of completions, many at a time, over a cache of keys and values.

use pmpo_kernels::softmax::softmax;
use rand::{Rng, RngExt};

use crate::model::{Model, Tokens};
use crate::parameters::Parameters;

/// How completions are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Tokens of a completion at most, its end included.
    pub max_completion_length: usize,
    /// What logits are divided by; 0 takes the likeliest token.
    pub temperature: f64,
    /// Draws among the likeliest tokens that together have this much; 1 among all.
    pub top_p: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_completion_length: 32,
            temperature: 1.0,
            top_p: 1.0,
        }
    }
}

/// A completion as it was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Its tokens, with the one that ended it if one did.
    pub tokens: Vec<u32>,
    /// `ln p` of each token under the model, at temperature 1.
    pub log_probabilities: Vec<f32>,
    /// Whether it ended of itself.
    pub finished: bool,
}

/// Draws a completion of each prompt. `ends` are the tokens that end one.
///
/// # Panics
/// If a prompt is empty, or longer with its completion than the model's positions.
pub(crate) fn generate(
    model: &Model,
    parameters: &Parameters,
    prompts: &[&[u32]],
    ends: &[u32],
    config: &Sampling,
    rng: &mut impl Rng,
) -> Vec<Completion> {
    let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
    let most = longest + config.max_completion_length;
    assert!(most <= model.positions(), "{most} positions");
    let begins: Vec<usize> = prompts
        .iter()
        .map(|prompt| longest - prompt.len())
        .collect();
    let mut ids = Vec::with_capacity(longest * prompts.len());
    for (prompt, begin) in prompts.iter().zip(&begins) {
        ids.extend(std::iter::repeat_n(0, *begin));
        ids.extend_from_slice(prompt);
    }
    let mut cache = model.cache(begins, most);
    let mut tokens = Tokens {
        ids,
        length: longest,
    };
    let mut completions: Vec<Completion> = prompts
        .iter()
        .map(|_| Completion {
            tokens: Vec::with_capacity(config.max_completion_length),
            log_probabilities: Vec::with_capacity(config.max_completion_length),
            finished: false,
        })
        .collect();
    for _ in 0..config.max_completion_length {
        let hidden = model.hidden(parameters, &tokens, Some(&mut cache));
        let last: Vec<usize> = (0..prompts.len())
            .map(|row| (row + 1) * tokens.length - 1)
            .collect();
        let last = (tokens.length > 1).then_some(&last[..]);
        let logits = model.logits(parameters, hidden, last);
        let logits = logits.hidden.matmul(logits.matrix.transpose());
        let logits: Vec<f32> = logits.into_data().try_into_vec().expect("f32");
        let mut next = Vec::with_capacity(prompts.len());
        let rows = logits.chunks_exact(model.config().vocab_size);
        for (completion, row) in completions.iter_mut().zip(rows) {
            next.push(match completion.finished {
                true => 0,
                false => completion.take(row, ends, config, rng),
            });
        }
        if completions.iter().all(|completion| completion.finished) || cache.left() == 0 {
            break;
        }
        tokens = Tokens {
            ids: next,
            length: 1,
        };
    }
    completions
}

impl Completion {
    /// Draws the next token.
    fn take(&mut self, logits: &[f32], ends: &[u32], config: &Sampling, rng: &mut impl Rng) -> u32 {
        let mut probabilities = logits.to_vec();
        softmax(&mut probabilities, logits.len(), &mut []);
        let token = match config.temperature {
            0.0 => likeliest(&probabilities),
            1.0 => draw(&probabilities, config.top_p, rng),
            temperature => {
                let mut tempered: Vec<f32> = logits
                    .iter()
                    .map(|logit| (f64::from(*logit) / temperature) as f32)
                    .collect();
                softmax(&mut tempered, logits.len(), &mut []);
                draw(&tempered, config.top_p, rng)
            }
        };
        let probability = probabilities[token as usize].max(f32::MIN_POSITIVE);
        self.tokens.push(token);
        self.log_probabilities.push(probability.ln());
        self.finished = ends.contains(&token);
        token
    }
}

fn likeliest(probabilities: &[f32]) -> u32 {
    let numbered = probabilities.iter().enumerate();
    let best = numbered.max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("a vocabulary").0 as u32
}

/// A token by its probability, among the likeliest that together have `top_p`.
fn draw(probabilities: &[f32], top_p: f64, rng: &mut impl Rng) -> u32 {
    let uniform: f64 = rng.random();
    if top_p >= 1.0 {
        let total: f64 = probabilities.iter().map(|p| f64::from(*p)).sum();
        let numbered = probabilities.iter().enumerate();
        return pick(numbered, uniform * total);
    }
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_unstable_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
    let mut total = 0.0;
    let mut kept = 0;
    while kept < order.len() && total < top_p {
        total += f64::from(probabilities[order[kept]]);
        kept += 1;
    }
    let numbered = order[..kept]
        .iter()
        .map(|&token| (token, &probabilities[token]));
    pick(numbered, uniform * total)
}

/// The token in whose stretch `place` is.
fn pick<'a>(numbered: impl Iterator<Item = (usize, &'a f32)>, place: f64) -> u32 {
    let mut sum = 0.0;
    let mut last = 0;
    for (token, probability) in numbered {
        if *probability > 0.0 {
            sum += f64::from(*probability);
            last = token as u32;
            if place < sum {
                break;
            }
        }
    }
    last
}
