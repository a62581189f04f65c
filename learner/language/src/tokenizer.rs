//! Texts as tokens and back: the crate `tokenizers`, from a `tokenizer.json`, from what a GGUF file says of its
//! byte-level BPE (Sennrich et al. 2016; GPT-2's bytes), or from a list of words.

use std::path::Path;

use serde_json::{Value, json};

use crate::LanguageError;

/// A tokenizer, and its `tokenizer.json`.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: String,
}

/// What a GGUF file says of its tokenizer.
pub(crate) struct BytePairs<'a> {
    pub(crate) tokens: Vec<&'a str>,
    pub(crate) merges: Vec<&'a str>,
    /// Of each token, whether it is a control token.
    pub(crate) special: Vec<bool>,
    /// Whether digits stand alone.
    pub(crate) digits_apart: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// The file cannot be read or is none.
    pub fn open(path: &Path) -> Result<Self, LanguageError> {
        let json = std::fs::read_to_string(path).map_err(|error| LanguageError::Io {
            path: path.to_owned(),
            error,
        })?;
        Self::from_json(json).map_err(|why| LanguageError::File {
            path: path.to_owned(),
            why,
        })
    }

    fn from_json(json: String) -> Result<Self, String> {
        let inner = tokenizers::Tokenizer::from_bytes(&json)
            .map_err(|error| format!("not a tokenizer.json: {error}"))?;
        Ok(Self { inner, json })
    }

    /// Words apart by blanks, numbered in their order; the first `special` of them are none of a text's.
    pub(crate) fn of_words(words: &[&str], special: usize) -> Self {
        let vocabulary: serde_json::Map<String, Value> = words
            .iter()
            .enumerate()
            .map(|(id, word)| ((*word).to_owned(), json!(id)))
            .collect();
        let added: Vec<Value> = (0..special).map(|id| added(id, words[id])).collect();
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": words[0]},
        });
        Self::from_json(json.to_string()).expect("a tokenizer of words")
    }

    /// Byte-level BPE. The words of the error say what is wrong with the file.
    pub(crate) fn of_byte_pairs(of: &BytePairs<'_>) -> Result<Self, String> {
        let mut vocabulary = serde_json::Map::new();
        for (id, token) in of.tokens.iter().enumerate() {
            if vocabulary.insert((*token).to_owned(), json!(id)).is_some() {
                return Err(format!("the token {token:?} is there twice"));
            }
        }
        let special = of
            .special
            .iter()
            .enumerate()
            .filter(|(_, special)| **special);
        let added: Vec<Value> = special.map(|(id, _)| added(id, of.tokens[id])).collect();
        let bytes = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        });
        let before = match of.digits_apart {
            true => json!({
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": true}, bytes],
            }),
            false => bytes.clone(),
        };
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": null, "pre_tokenizer": before, "post_processor": null,
            "decoder": {
                "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
            },
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": false, "vocab": vocabulary, "merges": of.merges,
            },
        });
        Self::from_json(json.to_string())
    }

    /// The tokens of a text that follows another; special ones are recognised, none are added.
    ///
    /// # Errors
    /// The tokenizer cannot take it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, LanguageError> {
        self.tokens(text, false)
    }

    /// The tokens of a text, with those that the tokenizer has before each.
    ///
    /// # Errors
    /// The tokenizer cannot take it.
    pub fn encode_beginning(&self, text: &str) -> Result<Vec<u32>, LanguageError> {
        self.tokens(text, true)
    }

    fn tokens(&self, text: &str, beginning: bool) -> Result<Vec<u32>, LanguageError> {
        let encoding = self.inner.encode_fast(text, beginning);
        let encoding = encoding.map_err(|error| LanguageError::Text(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens, without special ones.
    ///
    /// # Errors
    /// The tokenizer cannot.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, LanguageError> {
        let text = self.inner.decode(tokens, true);
        text.map_err(|error| LanguageError::Text(error.to_string()))
    }

    /// The number of a token.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// Tokens, added ones among them.
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether it knows no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As a `tokenizer.json`.
    pub fn json(&self) -> &str {
        &self.json
    }
}

fn added(id: usize, text: &str) -> Value {
    json!({
        "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    })
}
