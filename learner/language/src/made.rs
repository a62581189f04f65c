//! The small model over the built-in grammar, made from nothing: what tests and the first figure use.

use burn::tensor::Device;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::chat::ChatTemplate;
use crate::config::{Family, ModelConfig};
use crate::update::{Label, Labelled, Objective, Trainer};
use crate::{Checkpoint, LanguageError, Parameters, Tokenizer, grammar};

/// Texts of a step.
const BATCH: usize = 64;
/// Words that are no text's: padding, beginning, end.
const SPECIAL: usize = 3;
/// The end's place among them.
const END: u32 = 2;

/// Trains a model of two layers to continue the grammar's prompts, held-out subjects among them, for so many steps;
/// answers it and its last loss, in nats a token.
///
/// # Errors
/// A gradient is not finite.
pub fn over_grammar(
    steps: u64,
    seed: u64,
    device: &Device,
) -> Result<(Checkpoint, f32), LanguageError> {
    let words = grammar::words();
    let tokenizer = Tokenizer::of_words(&words, SPECIAL);
    let config = ModelConfig {
        family: Family::Llama,
        vocab_size: words.len(),
        hidden_size: 128,
        intermediate_size: 256,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        head_dim: 32,
        query_pre_attn_scalar: 32.0,
        rope_theta: 1e4,
        rope_local_base_freq: 1e4,
        rope_scaling: None,
        rms_norm_eps: 1e-5,
        max_position_embeddings: 64,
        sliding_window: None,
        sliding_window_pattern: usize::MAX,
        tie_word_embeddings: true,
        eos_token_id: vec![END],
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let parameters = Parameters::new(&config, &mut rng, device);
    let objective = Objective {
        learning_rate: 3e-3,
        ..Objective::default()
    };
    let mut trainer = Trainer::new(&config, parameters, objective, 64, device);
    let mut loss = f32::NAN;
    for step in 0..steps {
        // Down to a tenth, linearly.
        let left = 1.0 - 0.9 * step as f64 / steps as f64;
        trainer.config.learning_rate = 3e-3 * left;
        let batch: Vec<Labelled> = (0..BATCH)
            .map(|i| text(&tokenizer, grammar::sample(&mut rng, i % 4 == 0)))
            .collect::<Result<_, _>>()?;
        loss = trainer.step_on_texts(&batch)?.loss;
    }
    let checkpoint = Checkpoint {
        config,
        values: trainer.parameters().values().collect(),
        tokenizer,
        template: ChatTemplate::Plain,
        jinja: None,
    };
    Ok((checkpoint, loss))
}

fn text(
    tokenizer: &Tokenizer,
    (prompt, completion): (Vec<&str>, Vec<&str>),
) -> Result<Labelled, LanguageError> {
    let mut completion = tokenizer.encode(&completion.join(" "))?;
    completion.push(END);
    Ok(Labelled {
        prompt: tokenizer.encode_beginning(&prompt.join(" "))?,
        completion,
        label: Label::None,
    })
}
