//! Templates of conversations: from messages to the text that a model was trained on.
//!
//! Source: the `chat_template` in the `tokenizer_config.json` of SmolLM2-Instruct (ChatML), Llama 3 Instruct and
//! Gemma 3 (`-it`). What differs:
//! - Nothing is added that the caller did not give. SmolLM2's template puts [`SMOLLM2_SYSTEM`] before a
//!   conversation without a system message, Qwen2's and Llama 3.1's put others; who wants one gives it as a message.
//! - The beginning-of-text token of Llama 3 and of Gemma is left to the tokenizer, which has it once then: see
//!   [`ChatTemplate::begins_with_bos`].
//! - Tools, images and the removal of earlier thoughts are not there.
//! - Gemma's first two generations refuse a system message; here it goes before the first user's text, as in Gemma 3.
//!
//! For each template, messages with the opening of the assistant's turn are the beginning of the same messages with
//! the assistant's after them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::data::{Message, Role};

/// The system message that SmolLM2's own template has where none is given.
pub const SMOLLM2_SYSTEM: &str =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

/// A way to write a conversation down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatTemplate {
    /// What is said and nothing else, one message a line; for models that know of no turns.
    Plain,
    /// `<|im_start|>user`: SmolLM2, Qwen2 and many others.
    Chatml,
    /// `<|start_header_id|>user<|end_header_id|>`: Llama 3, 3.1, 3.2 and 3.3.
    Llama3,
    /// `<start_of_turn>user`: Gemma 1 to 3.
    Gemma,
}

/// Messages that a template has no place for.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ChatError {
    /// There are none.
    #[error("expected at least one message, found none")]
    Empty,
    /// Gemma's turns alternate, from a user's on, after one system message or none.
    #[error("expected the {expected} in message {place} for the template gemma, found {found}")]
    Turn {
        /// The message, from 1 on.
        place: usize,
        /// Whose turn it is.
        expected: &'static str,
        /// Whose message it is.
        found: &'static str,
    },
}

impl ChatTemplate {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Chatml, Self::Llama3, Self::Gemma];

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Chatml => "chatml",
            Self::Llama3 => "llama3",
            Self::Gemma => "gemma",
        }
    }

    /// The template that a Jinja `chat_template` is, as `tokenizer_config.json` and GGUF's
    /// `tokenizer.chat_template` have it; none where its markers are not known, or are of several. Only the markers
    /// are looked at: what else it adds (a system message, say) is not.
    pub fn guess(jinja: &str) -> Option<Self> {
        // Phi-4's and Kimi's go between the role and the text, where ChatML has the end of the line.
        const OTHERS: [&str; 3] = ["<|im_sep|>", "<|im_middle|>", "<|im_user|>"];
        if OTHERS.iter().any(|other| jinja.contains(other)) {
            return None;
        }
        let mut found = Self::ALL.into_iter().filter(|template| {
            let markers = template.markers();
            !markers.is_empty() && markers.iter().all(|marker| jinja.contains(marker))
        });
        found.next().filter(|_| found.next().is_none())
    }

    /// The conversation as a text; with `add_generation_prompt`, with the opening of the assistant's next turn.
    /// Llama 3's and Gemma's take off white space around what is said; ChatML does not. Special texts in what is
    /// said are left: see [`ChatTemplate::special_in`].
    ///
    /// # Errors
    /// There is no message, or Gemma has no place for one.
    pub fn render(
        self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        let (system, turns) = match (self, messages) {
            (_, []) => return Err(ChatError::Empty),
            (Self::Gemma, [first, turns @ ..]) if first.role == Role::System => {
                alternate(turns, 1)?;
                (Some(first), turns)
            }
            (Self::Gemma, turns) => {
                alternate(turns, 0)?;
                (None, turns)
            }
            (_, turns) => (None, turns),
        };
        let mut text = String::new();
        for (place, message) in turns.iter().enumerate() {
            text += self.opening(message.role, place);
            if let (0, Some(system)) = (place, system) {
                text += &system.content;
                text += "\n\n";
            }
            text += match self {
                Self::Plain | Self::Chatml => &message.content,
                Self::Llama3 | Self::Gemma => trim(&message.content),
            };
            text += self.end();
        }
        if add_generation_prompt {
            text += self.opening(Role::Assistant, turns.len());
        }
        Ok(text)
    }

    /// What ends the assistant's turn: where a model has written one of them, it has finished. Plain text has none
    /// but the tokenizer's end-of-text token.
    pub fn stops(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Chatml => &["<|im_end|>"],
            Self::Llama3 => &["<|eot_id|>"],
            Self::Gemma => &["<end_of_turn>"],
        }
    }

    /// Whether the published template starts with the tokenizer's beginning-of-text token, which is not in what
    /// [`ChatTemplate::render`] gives.
    pub fn begins_with_bos(self) -> bool {
        matches!(self, Self::Llama3 | Self::Gemma)
    }

    /// The first of the template's special texts that is in `content`. A tokenizer that knows special tokens makes
    /// one of it, so that whoever wrote the content could end their turn and speak as another: refuse it, or encode
    /// it without special tokens. The tokenizer's others (for files' names, say) are not looked for.
    pub fn special_in(self, content: &str) -> Option<&'static str> {
        let there = |special: &&&str| content.contains(**special);
        self.specials().iter().find(there).copied()
    }

    /// The special texts of the models that use the template, or how they start.
    fn specials(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Chatml => &["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
            Self::Llama3 => &[
                "<|start_header_id|>",
                "<|end_header_id|>",
                "<|eot_id|>",
                "<|eom_id|>",
                "<|begin_of_text|>",
                "<|end_of_text|>",
                "<|python_tag|>",
                "<|finetune_right_pad_id|>",
                "<|reserved_special_token_",
            ],
            Self::Gemma => &[
                "<start_of_turn>",
                "<end_of_turn>",
                "<bos>",
                "<eos>",
                "<pad>",
                "<unk>",
                "<mask>",
                "<start_of_image>",
                "<end_of_image>",
                "<image_soft_token>",
            ],
        }
    }

    /// What a Jinja template of this kind has in it.
    fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Chatml => &["<|im_start|>", "<|im_end|>"],
            Self::Llama3 => &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
            Self::Gemma => &["<start_of_turn>", "<end_of_turn>"],
        }
    }

    fn opening(self, role: Role, place: usize) -> &'static str {
        match (self, role) {
            (Self::Plain, _) if place == 0 => "",
            (Self::Plain, _) => "\n",
            (Self::Chatml, Role::System) => "<|im_start|>system\n",
            (Self::Chatml, Role::User) => "<|im_start|>user\n",
            (Self::Chatml, Role::Assistant) => "<|im_start|>assistant\n",
            (Self::Llama3, Role::System) => "<|start_header_id|>system<|end_header_id|>\n\n",
            (Self::Llama3, Role::User) => "<|start_header_id|>user<|end_header_id|>\n\n",
            (Self::Llama3, Role::Assistant) => "<|start_header_id|>assistant<|end_header_id|>\n\n",
            (Self::Gemma, Role::System | Role::User) => "<start_of_turn>user\n",
            (Self::Gemma, Role::Assistant) => "<start_of_turn>model\n",
        }
    }

    fn end(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Chatml => "<|im_end|>\n",
            Self::Llama3 => "<|eot_id|>",
            Self::Gemma => "<end_of_turn>\n",
        }
    }
}

/// Refuses turns that do not alternate, from a user's on; `before` messages are not among them.
fn alternate(turns: &[Message], before: usize) -> Result<(), ChatError> {
    let wrong = |place: usize, expected: Role, found: &'static str| ChatError::Turn {
        place: before + place + 1,
        expected: expected.name(),
        found,
    };
    if turns.is_empty() {
        return Err(wrong(0, Role::User, "nothing"));
    }
    for (place, turn) in turns.iter().enumerate() {
        let expected = match place % 2 {
            0 => Role::User,
            _ => Role::Assistant,
        };
        if turn.role != expected {
            return Err(wrong(place, expected, turn.role.name()));
        }
    }
    Ok(())
}

/// Without what Python's `strip`, and so Jinja's `trim`, takes off at both ends.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1C'..='\x1F').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Role::{Assistant, System, User};

    const SMOLLM2: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}\
        {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
        {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    const LLAMA3: &str = "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = \
        '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}\
        {% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}";

    fn messages(said: &[(Role, &str)]) -> Vec<Message> {
        let said = said.iter().map(|(role, content)| Message {
            role: *role,
            content: (*content).to_owned(),
        });
        said.collect()
    }

    /// What Jinja gives for the published templates, without what the head of this file leaves out.
    #[test]
    fn texts_are_those_of_the_published_templates() {
        let said = messages(&[
            (System, "Be brief."),
            (User, " Hi\n"),
            (Assistant, "Yes?"),
            (User, "Go"),
        ]);
        for (template, expected) in [
            (ChatTemplate::Plain, "Be brief.\n Hi\n\nYes?\nGo\n"),
            (
                ChatTemplate::Chatml,
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi\n<|im_end|>\n\
                 <|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nGo<|im_end|>\n<|im_start|>assistant\n",
            ),
            (
                ChatTemplate::Llama3,
                "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
                 <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
                 <|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|>\
                 <|start_header_id|>user<|end_header_id|>\n\nGo<|eot_id|>\
                 <|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
            (
                ChatTemplate::Gemma,
                "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n\
                 <start_of_turn>user\nGo<end_of_turn>\n<start_of_turn>model\n",
            ),
        ] {
            assert_eq!(template.render(&said, true).unwrap(), expected);
        }
    }

    #[test]
    fn the_assistant_s_turn_goes_on_where_its_opening_ends() {
        for template in ChatTemplate::ALL {
            for said in [
                messages(&[(User, "")]),
                messages(&[(System, " a"), (User, "b\n")]),
                messages(&[(User, "a"), (Assistant, "b"), (User, "c")]),
            ] {
                let prompt = template.render(&said, true).unwrap();
                let answered = [said.clone(), messages(&[(Assistant, "An answer.")])].concat();
                let whole = template.render(&answered, false).unwrap();
                let answer = whole.strip_prefix(&prompt).unwrap();
                let end = answer.strip_prefix("An answer.").unwrap();
                let stop = template.stops().first().copied().unwrap_or_default();
                assert_eq!(end.trim_end(), stop);
                assert!(prompt.starts_with(&template.render(&said, false).unwrap()));
            }
        }
    }

    #[test]
    fn messages_without_a_place_are_refused() {
        for template in ChatTemplate::ALL {
            assert_eq!(template.render(&[], true), Err(ChatError::Empty));
        }
        for (said, place, expected) in [
            (vec![(System, "a")], 2, "user"),
            (vec![(Assistant, "a")], 1, "user"),
            (vec![(User, "a"), (System, "a")], 2, "assistant"),
            (vec![(System, "a"), (System, "a")], 2, "user"),
            (vec![(User, "a"), (User, "a")], 2, "assistant"),
        ] {
            let said = messages(&said);
            let error = ChatTemplate::Gemma.render(&said, true).unwrap_err();
            let text = error.to_string();
            let start = format!("expected the {expected} in message {place} ");
            assert!(text.starts_with(&start), "{text}");
            ChatTemplate::Chatml.render(&said, true).unwrap();
        }
    }

    #[test]
    fn templates_are_known_by_their_markers() {
        let gemma =
            "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}";
        assert_eq!(ChatTemplate::guess(SMOLLM2), Some(ChatTemplate::Chatml));
        assert_eq!(ChatTemplate::guess(LLAMA3), Some(ChatTemplate::Llama3));
        assert_eq!(ChatTemplate::guess(gemma), Some(ChatTemplate::Gemma));
        for unknown in [
            "",
            "{{ '[INST] ' + message['content'] + ' [/INST]' }}",
            "{{ '<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>' }}",
            "{{ '<|header_start|>' + message['role'] + '<|header_end|>' + '<|eot|>' }}",
            &format!("{SMOLLM2}{LLAMA3}"),
        ] {
            assert_eq!(ChatTemplate::guess(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn special_texts_are_found() {
        for template in ChatTemplate::ALL {
            assert_eq!(template.special_in("1 < 2 |> f <b> <|im_"), None);
            for special in template.specials().iter().chain(template.stops()) {
                let content = format!("ignore{special}that");
                assert_eq!(template.special_in(&content), Some(*special));
            }
            let opening = template.opening(Role::User, 0);
            assert_eq!(template.special_in(opening).is_some(), !opening.is_empty());
        }
        let reserved = "<|reserved_special_token_7|>";
        assert!(ChatTemplate::Llama3.special_in(reserved).is_some());
    }

    #[test]
    fn names_are_those_of_a_configuration() {
        for template in ChatTemplate::ALL {
            let json = serde_json::to_string(&template).unwrap();
            assert_eq!(json, format!("{:?}", template.name()));
            let back: ChatTemplate = serde_json::from_str(&json).unwrap();
            assert_eq!(back, template);
        }
    }
}
