//! What a model is: the sizes of a decoder-only transformer, as Hugging Face's `config.json` writes them.
//!
//! Two families: Llama (Touvron et al. 2023; also SmolLM2, and Mistral's weights where they keep to its layout) and
//! Gemma 3's text models. Of rotary scaling only Llama 3's rule is known; anything else is refused by its name.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::LanguageError;

/// The family of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Pre-normalised blocks, SwiGLU.
    Llama,
    /// Normalised before and after each block, queries and keys too; GeGLU; five layers of six see a window.
    Gemma3,
}

/// Sizes of a model. Names are those of `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub family: Family,
    /// Tokens.
    pub vocab_size: usize,
    /// Numbers of a hidden state.
    pub hidden_size: usize,
    /// Numbers inside a feed-forward block.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads, which divide the query heads.
    pub num_key_value_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// What scores are divided by the root of; usually `head_dim`.
    pub query_pre_attn_scalar: f64,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Base of the rotary angles where a layer sees a window.
    pub rope_local_base_freq: f64,
    /// Llama 3's scaling of the angles.
    pub rope_scaling: Option<RopeScaling>,
    /// Added to the mean square that a normalisation divides by.
    pub rms_norm_eps: f64,
    /// Positions that the model was made for.
    pub max_position_embeddings: usize,
    /// Positions that a token of a layer with a window sees, itself included.
    pub sliding_window: Option<usize>,
    /// Every so-manieth layer sees everything, where there is a window.
    pub sliding_window_pattern: usize,
    /// Whether the embedding makes the logits too.
    pub tie_word_embeddings: bool,
    /// Tokens that end a text.
    pub eos_token_id: Vec<u32>,
}

/// Llama 3's rule for longer contexts than the model was first trained on.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct RopeScaling {
    /// What slow angles are divided by.
    pub factor: f64,
    /// Turns in the original context above which an angle is fast.
    pub high_freq_factor: f64,
    /// Turns below which it is slow.
    pub low_freq_factor: f64,
    /// The original context.
    pub original_max_position_embeddings: f64,
}

/// The fields that both families write, as they may be.
#[derive(Deserialize)]
struct Written {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    query_pre_attn_scalar: Option<f64>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    rms_norm_eps: Option<f64>,
    max_position_embeddings: Option<usize>,
    sliding_window: Option<usize>,
    #[serde(alias = "_sliding_window_pattern")]
    sliding_window_pattern: Option<usize>,
    tie_word_embeddings: Option<bool>,
    eos_token_id: Option<OneOrMany>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    final_logit_softcapping: Option<f64>,
    attn_logit_softcapping: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl ModelConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// The text is not such a configuration, or asks for what is not known here.
    pub fn from_json(text: &str) -> Result<Self, LanguageError> {
        let refused = |why: String| LanguageError::Config(why);
        let written: Written =
            serde_json::from_str(text).map_err(|error| refused(format!("config.json: {error}")))?;
        let family = match written.model_type.as_str() {
            "llama" | "mistral" => Family::Llama,
            "gemma3_text" => Family::Gemma3,
            other => {
                return Err(refused(format!(
                    "config.json: model_type is {other:?}; expected llama, mistral or gemma3_text"
                )));
            }
        };
        written.check(family)?;
        let head_dim = written
            .head_dim
            .unwrap_or(written.hidden_size / written.num_attention_heads.max(1));
        let (theta, scaling) = written.rotary()?;
        let gemma = family == Family::Gemma3;
        let config = Self {
            family,
            vocab_size: written.vocab_size,
            hidden_size: written.hidden_size,
            intermediate_size: written.intermediate_size,
            num_hidden_layers: written.num_hidden_layers,
            num_attention_heads: written.num_attention_heads,
            num_key_value_heads: written
                .num_key_value_heads
                .unwrap_or(written.num_attention_heads),
            head_dim,
            query_pre_attn_scalar: written.query_pre_attn_scalar.unwrap_or(head_dim as f64),
            rope_theta: theta.unwrap_or(if gemma { 1e6 } else { 1e4 }),
            rope_local_base_freq: written.rope_local_base_freq.unwrap_or(1e4),
            rope_scaling: scaling,
            rms_norm_eps: written.rms_norm_eps.unwrap_or(1e-6),
            max_position_embeddings: written.max_position_embeddings.unwrap_or(2048),
            sliding_window: written.sliding_window,
            sliding_window_pattern: match family {
                Family::Gemma3 => written.sliding_window_pattern.unwrap_or(6),
                // Where a Mistral has a window, each of its layers has it.
                Family::Llama => usize::MAX,
            },
            tie_word_embeddings: written.tie_word_embeddings.unwrap_or(gemma),
            eos_token_id: match written.eos_token_id {
                Some(OneOrMany::One(token)) => vec![token],
                Some(OneOrMany::Many(tokens)) => tokens,
                None => Vec::new(),
            },
        };
        config.validate()?;
        Ok(config)
    }

    /// Refuses sizes that do not fit each other.
    ///
    /// # Errors
    /// Names the field, what it is and what was expected.
    pub fn validate(&self) -> Result<(), LanguageError> {
        let refuse = |field: &str, expected: &str, got: String| {
            let text = format!("{field} is {got}; expected {expected}");
            Err(LanguageError::Config(text))
        };
        for (field, count, most) in [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 14),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                1 << 24,
            ),
        ] {
            if count == 0 || count > most {
                return refuse(field, &format!("1 to {most}"), count.to_string());
            }
        }
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            let expected = format!("a divisor of {} heads", self.num_attention_heads);
            return refuse(
                "num_key_value_heads",
                &expected,
                self.num_key_value_heads.to_string(),
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return refuse("head_dim", "an even number", self.head_dim.to_string());
        }
        for (field, value) in [
            ("rope_theta", self.rope_theta),
            ("rope_local_base_freq", self.rope_local_base_freq),
            ("rms_norm_eps", self.rms_norm_eps),
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return refuse(field, "a positive number", value.to_string());
            }
        }
        Ok(())
    }

    /// As a `config.json` that `transformers` reads.
    pub fn to_json(&self) -> Value {
        let gemma = self.family == Family::Gemma3;
        let (architecture, model_type) = match self.family {
            Family::Llama => ("LlamaForCausalLM", "llama"),
            Family::Gemma3 => ("Gemma3ForCausalLM", "gemma3_text"),
        };
        let mut all = json!({
            "architectures": [architecture],
            "model_type": model_type,
            "torch_dtype": "float32",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            "eos_token_id": self.eos_token_id,
            "attention_bias": false,
        });
        let extra = match gemma {
            true => json!({
                "hidden_activation": "gelu_pytorch_tanh",
                "query_pre_attn_scalar": self.query_pre_attn_scalar,
                "rope_local_base_freq": self.rope_local_base_freq,
                "sliding_window": self.sliding_window,
                "sliding_window_pattern": self.sliding_window_pattern,
            }),
            false => json!({ "hidden_act": "silu", "mlp_bias": false }),
        };
        let into = all.as_object_mut().expect("an object");
        into.extend(extra.as_object().cloned().unwrap_or_else(Map::new));
        if let Some(scaling) = self.rope_scaling {
            let scaling = json!({
                "rope_type": "llama3",
                "factor": scaling.factor,
                "high_freq_factor": scaling.high_freq_factor,
                "low_freq_factor": scaling.low_freq_factor,
                "original_max_position_embeddings": scaling.original_max_position_embeddings,
            });
            into.insert("rope_scaling".to_owned(), scaling);
        }
        all
    }

    /// Whether a layer sees a window alone.
    pub(crate) fn windowed(&self, layer: usize) -> bool {
        self.sliding_window.is_some() && !(layer + 1).is_multiple_of(self.sliding_window_pattern)
    }

    /// The rotary angles of positions up to `positions`, `[positions, head_dim / 2]`.
    pub(crate) fn angles(&self, positions: usize, windowed: bool) -> Vec<f64> {
        let gemma = self.family == Family::Gemma3;
        let (base, scaling) = match windowed && gemma {
            true => (self.rope_local_base_freq, None),
            false => (self.rope_theta, self.rope_scaling),
        };
        let half = self.head_dim / 2;
        let frequencies: Vec<f64> = (0..half)
            .map(|i| base.powf(-2.0 * i as f64 / self.head_dim as f64))
            .map(|frequency| scaling.map_or(frequency, |scaling| scaling.apply(frequency)))
            .collect();
        let rows = (0..positions).map(|position| position as f64);
        rows.flat_map(|position| frequencies.iter().map(move |f| position * f))
            .collect()
    }
}

impl RopeScaling {
    fn apply(self, frequency: f64) -> f64 {
        let turns = self.original_max_position_embeddings * frequency / std::f64::consts::TAU;
        let span = self.high_freq_factor - self.low_freq_factor;
        let fast = ((turns - self.low_freq_factor) / span).clamp(0.0, 1.0);
        fast * frequency + (1.0 - fast) * frequency / self.factor
    }
}

impl Written {
    /// Refuses what would be computed otherwise than the model wants.
    fn check(&self, family: Family) -> Result<(), LanguageError> {
        let refuse = |field: &str, got: String, expected: &str| {
            let text = format!("config.json: {field} is {got}; expected {expected}");
            Err(LanguageError::Config(text))
        };
        let act = self.hidden_activation.as_ref().or(self.hidden_act.as_ref());
        let expected = match family {
            Family::Llama => "silu",
            Family::Gemma3 => "gelu_pytorch_tanh",
        };
        if let Some(act) = act.filter(|act| *act != expected) {
            return refuse("hidden_act", format!("{act:?}"), expected);
        }
        for (field, bias) in [
            ("attention_bias", self.attention_bias),
            ("mlp_bias", self.mlp_bias),
        ] {
            if bias == Some(true) {
                return refuse(field, "true".to_owned(), "false");
            }
        }
        for (field, softcap) in [
            ("final_logit_softcapping", self.final_logit_softcapping),
            ("attn_logit_softcapping", self.attn_logit_softcapping),
        ] {
            if let Some(softcap) = softcap {
                return refuse(field, softcap.to_string(), "null");
            }
        }
        Ok(())
    }

    /// The angles' base and scaling, of either way to write them.
    fn rotary(&self) -> Result<(Option<f64>, Option<RopeScaling>), LanguageError> {
        let scaling = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let Some(scaling) = scaling.filter(|scaling| !scaling.is_null()) else {
            return Ok((self.rope_theta, None));
        };
        let theta = scaling.get("rope_theta").and_then(Value::as_f64);
        let theta = theta.or(self.rope_theta);
        let kind = scaling.get("rope_type").or(scaling.get("type"));
        match kind.and_then(Value::as_str).unwrap_or("default") {
            "default" => Ok((theta, None)),
            "llama3" => {
                let scaling = RopeScaling::deserialize(scaling).map_err(|error| {
                    LanguageError::Config(format!("config.json: rope_scaling: {error}"))
                })?;
                Ok((theta, Some(scaling)))
            }
            other => Err(LanguageError::Config(format!(
                "config.json: rope_scaling has the type {other:?}; expected default or llama3"
            ))),
        }
    }
}
