//! Models as files: Hugging Face's folders (`config.json`, safetensors in one file or in several, `tokenizer.json`), which
//! are read and written, and GGUF files, which are read.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::LanguageError;
use crate::chat::ChatTemplate;
use crate::config::{Family, ModelConfig};
use crate::data::Text;
use crate::gguf::Gguf;
use crate::parameters::{Parameters, Spec, specs};
use crate::policy::Policy;
use crate::prompts::prompt;
use crate::tokenizer::{BytePairs, Tokenizer};
use crate::weights;

/// A model as it was read.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its sizes.
    pub config: ModelConfig,
    /// The numbers of each tensor, in the order of [`specs`].
    pub values: Vec<Vec<f32>>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// How it wants conversations.
    pub template: ChatTemplate,
    /// The same in the words of its files, Jinja's.
    pub jinja: Option<String>,
}

impl Checkpoint {
    /// Reads a folder in Hugging Face's layout, or a GGUF file.
    ///
    /// # Errors
    /// A file is missing, broken, or of a model that is not known here.
    pub fn open(path: &Path) -> Result<Self, LanguageError> {
        match path.is_dir() {
            true => from_folder(path),
            false => from_gguf(path),
        }
    }

    /// Its sizes, with all the tokens that end a text of its template.
    pub fn model_config(&self) -> ModelConfig {
        let mut config = self.config.clone();
        let stops = self.template.stops().iter();
        for token in stops.filter_map(|stop| self.tokenizer.token(stop)) {
            if !config.eos_token_id.contains(&token) {
                config.eos_token_id.push(token);
            }
        }
        config
    }

    /// The model to draw from, for texts of at most so many tokens.
    pub fn policy(&self, positions: usize, device: &Device) -> Policy {
        let config = self.model_config();
        let parameters = Parameters::from_values(&config, self.values.clone(), device);
        Policy::new(&config, parameters, positions, device)
    }

    /// The tokens of a prompt: of the text as it is where that is `plain`, else of what a user says.
    ///
    /// # Errors
    /// The tokenizer cannot take it, or it has marks of the model's template.
    pub fn prompt(&self, text: &str, plain: bool) -> Result<Vec<u32>, LanguageError> {
        let text = match plain {
            true => Text::Plain(text.to_owned()),
            false => Text::said(text),
        };
        Ok(prompt(&text, self, usize::MAX)?.tokens)
    }

    /// Writes it as a folder that `transformers` loads: f32.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), LanguageError> {
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        for (name, text) in self.description() {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(io(&path))?;
        }
        let path = folder.join("model.safetensors");
        weights::write(&self.config, &self.values, &path)
            .map_err(|error| broken(&path)(error.to_string()))
    }

    /// Its files but that of its numbers: names and contents.
    pub fn description(&self) -> Vec<(&'static str, String)> {
        let pretty = |value: &Value| serde_json::to_string_pretty(value).expect("plain values");
        let about = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": self.jinja,
        });
        let generation = json!({ "eos_token_id": self.config.eos_token_id });
        vec![
            ("config.json", pretty(&self.config.to_json())),
            ("tokenizer.json", self.tokenizer.json().to_owned()),
            ("tokenizer_config.json", pretty(&about)),
            ("generation_config.json", pretty(&generation)),
        ]
    }

    /// Reads a folder with such files and no numbers.
    ///
    /// # Errors
    /// A file is missing, broken, or of a model that is not known here.
    pub fn open_description(folder: &Path) -> Result<Self, LanguageError> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(io(&path))?;
        let mut config = ModelConfig::from_json(&text).map_err(|error| match error {
            LanguageError::Config(why) => broken(folder)(why),
            other => other,
        })?;
        let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"))?;
        if config.eos_token_id.is_empty() {
            let path = folder.join("generation_config.json");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let generation: Value = serde_json::from_str(&text).unwrap_or_default();
            config.eos_token_id = match &generation["eos_token_id"] {
                Value::Array(many) => many.iter().filter_map(as_token).collect(),
                one => as_token(one).into_iter().collect(),
            };
        }
        let path = folder.join("tokenizer_config.json");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let about: Value = serde_json::from_str(&text).unwrap_or_default();
        let jinja = about["chat_template"].as_str();
        Ok(Self {
            config,
            values: Vec::new(),
            tokenizer,
            template: jinja
                .and_then(ChatTemplate::guess)
                .unwrap_or(ChatTemplate::Plain),
            jinja: jinja.map(str::to_owned),
        })
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> LanguageError + use<> {
    let path = path.to_owned();
    move |error| LanguageError::Io { path, error }
}

fn broken(path: &Path) -> impl Fn(String) -> LanguageError + use<> {
    let path = path.to_owned();
    move |why| LanguageError::File {
        path: path.clone(),
        why,
    }
}

fn from_folder(folder: &Path) -> Result<Checkpoint, LanguageError> {
    let described = Checkpoint::open_description(folder)?;
    let values = safetensors_of(folder, &described.config)?;
    Ok(Checkpoint {
        values,
        ..described
    })
}

fn as_token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|token| u32::try_from(token).ok())
}

/// The numbers of each tensor, from `model.safetensors` or from the files that its index names.
fn safetensors_of(folder: &Path, config: &ModelConfig) -> Result<Vec<Vec<f32>>, LanguageError> {
    let one = folder.join("model.safetensors");
    let files: Vec<PathBuf> = match one.exists() {
        true => vec![one],
        false => {
            let path = folder.join("model.safetensors.index.json");
            let text = std::fs::read_to_string(&path).map_err(io(&path))?;
            let index: Value = serde_json::from_str(&text)
                .map_err(|error| broken(&path)(format!("not an index: {error}")))?;
            let map = index["weight_map"].as_object();
            let map = map.ok_or_else(|| broken(&path)("it has no weight_map".to_owned()))?;
            let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
            names.sort_unstable();
            names.dedup();
            let plain = |name: &&str| !name.contains(['/', '\\']);
            if let Some(name) = names.iter().find(|name| !plain(name)) {
                return Err(broken(&path)(format!("{name:?} is no file's name")));
            }
            names.iter().map(|name| folder.join(name)).collect()
        }
    };
    let specs = specs(config);
    let mut found: Vec<Option<Vec<f32>>> = vec![None; specs.len()];
    for path in files {
        let bytes = std::fs::read(&path).map_err(io(&path))?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|error| broken(&path)(format!("not safetensors: {error}")))?;
        for (spec, found) in specs.iter().zip(&mut found) {
            if let Ok(tensor) = tensors.tensor(&spec.name) {
                *found = Some(weights::numbers(spec, &tensor).map_err(broken(&path))?);
            }
        }
    }
    let named = specs.iter().zip(found);
    named
        .map(|(spec, found)| {
            found.ok_or_else(|| broken(folder)(format!("no file has the tensor {}", spec.name)))
        })
        .collect()
}

fn from_gguf(path: &Path) -> Result<Checkpoint, LanguageError> {
    let as_error = |error: crate::gguf::GgufError| LanguageError::Config(error.to_string());
    let file = Gguf::open(path).map_err(as_error)?;
    let config = gguf_config(&file, path)?;
    let values = specs(&config)
        .iter()
        .map(|spec| gguf_tensor(&file, path, &config, spec))
        .collect::<Result<_, _>>()?;
    let beside = path.with_file_name("tokenizer.json");
    let tokenizer = match beside.exists() {
        true => Tokenizer::open(&beside)?,
        false => gguf_tokenizer(&file, path)?,
    };
    let jinja = file.text("tokenizer.chat_template").ok();
    Ok(Checkpoint {
        config,
        values,
        tokenizer,
        template: jinja
            .and_then(ChatTemplate::guess)
            .unwrap_or(ChatTemplate::Plain),
        jinja: jinja.map(str::to_owned),
    })
}

fn gguf_config(file: &Gguf, path: &Path) -> Result<ModelConfig, LanguageError> {
    let as_error = |error: crate::gguf::GgufError| LanguageError::Config(error.to_string());
    let architecture = file.text("general.architecture").map_err(as_error)?;
    let family = match architecture {
        "llama" => Family::Llama,
        "gemma3" => Family::Gemma3,
        other => {
            let why = format!("general.architecture is {other:?}; expected llama or gemma3");
            return Err(broken(path)(why));
        }
    };
    let key = |name: &str| format!("{architecture}.{name}");
    let count = |name: &str| file.count(&key(name)).map_err(as_error);
    let number = |name: &str| file.number(&key(name)).map_err(as_error);
    let heads = count("attention.head_count")?;
    let hidden = count("embedding_length")?;
    let head_dim = match file.value(&key("attention.key_length")) {
        Some(_) => count("attention.key_length")?,
        None => hidden / heads.max(1),
    };
    if let Some(kind) = file.value(&key("rope.scaling.type")) {
        let why = format!("rope.scaling.type is {kind:?}; expected none");
        return Err(broken(path)(why));
    }
    let end = file
        .count("tokenizer.ggml.eos_token_id")
        .map_err(as_error)?;
    let mut ends = vec![end as u32];
    ends.extend(
        file.count("tokenizer.ggml.eot_token_id")
            .ok()
            .map(|end| end as u32),
    );
    ends.dedup();
    let gemma = family == Family::Gemma3;
    let shape = file.shape("token_embd.weight").map_err(as_error)?;
    let config = ModelConfig {
        family,
        vocab_size: shape.first().copied().unwrap_or(0),
        hidden_size: hidden,
        intermediate_size: count("feed_forward_length")?,
        num_hidden_layers: count("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: count("attention.head_count_kv").unwrap_or(heads),
        head_dim,
        query_pre_attn_scalar: head_dim as f64,
        rope_theta: number("rope.freq_base").unwrap_or(1e4),
        rope_local_base_freq: 1e4,
        rope_scaling: None,
        rms_norm_eps: number("attention.layer_norm_rms_epsilon")?,
        max_position_embeddings: count("context_length")?,
        sliding_window: count("attention.sliding_window").ok().filter(|_| gemma),
        sliding_window_pattern: if gemma { 6 } else { usize::MAX },
        tie_word_embeddings: file.shape("output.weight").is_err(),
        eos_token_id: ends,
    };
    config
        .validate()
        .map_err(|error| broken(path)(error.to_string()))?;
    Ok(config)
}

/// The name that GGUF has for a tensor.
fn gguf_name(family: Family, spec: &Spec) -> String {
    let Some(layer) = spec.layer else {
        return match spec.name.as_str() {
            "model.embed_tokens.weight" => "token_embd.weight",
            "model.norm.weight" => "output_norm.weight",
            _ => "output.weight",
        }
        .to_owned();
    };
    let inside = spec.name.rsplit('.').nth(1).unwrap_or_default();
    let inside = match (inside, family) {
        ("input_layernorm", _) => "attn_norm",
        ("q_proj", _) => "attn_q",
        ("k_proj", _) => "attn_k",
        ("v_proj", _) => "attn_v",
        ("q_norm", _) => "attn_q_norm",
        ("k_norm", _) => "attn_k_norm",
        ("o_proj", _) => "attn_output",
        ("post_attention_layernorm", Family::Llama) => "ffn_norm",
        ("post_attention_layernorm", Family::Gemma3) => "post_attention_norm",
        ("pre_feedforward_layernorm", _) => "ffn_norm",
        ("gate_proj", _) => "ffn_gate",
        ("up_proj", _) => "ffn_up",
        ("down_proj", _) => "ffn_down",
        _ => "post_ffw_norm",
    };
    format!("blk.{layer}.{inside}.weight")
}

fn gguf_tensor(
    file: &Gguf,
    path: &Path,
    config: &ModelConfig,
    spec: &Spec,
) -> Result<Vec<f32>, LanguageError> {
    let as_error = |error: crate::gguf::GgufError| LanguageError::Config(error.to_string());
    let name = gguf_name(config.family, spec);
    let shape = file.shape(&name).map_err(as_error)?;
    if shape != spec.shape {
        let expected = &spec.shape;
        return Err(broken(path)(format!(
            "{name} is {shape:?}; expected {expected:?}"
        )));
    }
    let mut values = file.tensor(&name).map_err(as_error)?;
    match config.family {
        // llama.cpp's Llama turns neighbouring numbers, for which its converter moves the rows.
        Family::Llama if name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight") => {
            values = halves_apart(&values, config.head_dim, config.hidden_size);
        }
        // Its Gemma has the one that is added to gains in the file.
        Family::Gemma3 if spec.shape.len() == 1 => values.iter_mut().for_each(|x| *x -= 1.0),
        _ => {}
    }
    Ok(values)
}

/// Of each head's rows first those with even numbers, then those with odd ones.
fn halves_apart(rows: &[f32], head_dim: usize, columns: usize) -> Vec<f32> {
    let mut apart = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_dim * columns) {
        for half in 0..2 {
            for row in (half..head_dim).step_by(2) {
                apart.extend_from_slice(&head[row * columns..][..columns]);
            }
        }
    }
    apart
}

fn gguf_tokenizer(file: &Gguf, path: &Path) -> Result<Tokenizer, LanguageError> {
    let as_error = |error: crate::gguf::GgufError| LanguageError::Config(error.to_string());
    let model = file.text("tokenizer.ggml.model").map_err(as_error)?;
    let before = file.text("tokenizer.ggml.pre").unwrap_or("default");
    if model != "gpt2" || !["smollm", "gpt-2", "default"].contains(&before) {
        let why = format!(
            "its tokenizer is of the kind {model}/{before}, which is not known here; \
             put the model's tokenizer.json beside the file"
        );
        return Err(broken(path)(why));
    }
    // Kinds of tokens: 3 are control tokens.
    let kinds = match file.value("tokenizer.ggml.token_type") {
        Some(crate::gguf::Value::List(kinds)) => kinds.as_slice(),
        _ => &[],
    };
    let tokens = file.texts("tokenizer.ggml.tokens").map_err(as_error)?;
    let control = |id: usize| {
        matches!(
            kinds.get(id),
            Some(crate::gguf::Value::I64(3) | crate::gguf::Value::U64(3))
        )
    };
    let pairs = BytePairs {
        special: (0..tokens.len()).map(control).collect(),
        tokens,
        merges: file.texts("tokenizer.ggml.merges").map_err(as_error)?,
        digits_apart: before == "smollm",
    };
    Tokenizer::of_byte_pairs(&pairs).map_err(broken(path))
}
