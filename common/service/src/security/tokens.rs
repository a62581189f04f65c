//! Bearer tokens: a file of lines `role token` for servers, one token for a client. Empty lines and
//! those that begin with `#` are skipped. A role may have several tokens, so that a new one can be
//! accepted before the old one goes.

use std::fmt;

use subtle::ConstantTimeEq;

use super::Role;

/// Shorter ones could be guessed.
const MIN_LENGTH: usize = 16;

/// The tokens of one file.
pub(crate) struct Tokens(Vec<(Option<Role>, Box<str>)>);

impl fmt::Debug for Tokens {
    /// How many, never which.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

impl Tokens {
    /// Reads the text of a file; an error is about a line and never quotes it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let (role, token) = match words[..] {
                [token] => (None, token),
                [role, token] => match role.parse() {
                    Ok(role) => (Some(role), token),
                    Err(error) => return Err(format!("line {number}: first word: {error}")),
                },
                _ => {
                    return Err(format!(
                        "line {number}: expected `role token` or a token, got {} words",
                        words.len()
                    ));
                }
            };
            if token.len() < MIN_LENGTH || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!(
                    "line {number}: expected a token of at least {MIN_LENGTH} visible ASCII characters"
                ));
            }
            let twice =
                |(other, known): &(Option<Role>, Box<str>)| **known == *token && *other != role;
            if tokens.iter().any(twice) {
                return Err(format!(
                    "line {number}: an earlier line has this token with another role"
                ));
            }
            tokens.push((role, token.into()));
        }
        if tokens.is_empty() {
            return Err("expected a token, got none".to_owned());
        }
        Ok(Self(tokens))
    }

    /// Whether there is a line `role token`.
    pub(crate) fn name_roles(&self) -> bool {
        self.0.iter().any(|(role, _)| role.is_some())
    }

    /// The token that a process of this role shows: the last of its role's lines, or of those that
    /// are a token alone.
    pub(crate) fn own(&self, own: Role) -> Option<&str> {
        let mut newest_first = self.0.iter().rev();
        let found = newest_first
            .clone()
            .find(|(role, _)| *role == Some(own))
            .or_else(|| newest_first.find(|(role, _)| role.is_none()));
        found.map(|(_, token)| &**token)
    }

    /// Whose token this is. Every line is compared, each in constant time.
    pub(crate) fn role(&self, presented: &[u8]) -> Option<Role> {
        let mut found = None;
        for (role, token) in &self.0 {
            if bool::from(token.as_bytes().ct_eq(presented)) {
                found = *role;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTOR: &str = "aaaaaaaaaaaaaaaaaaaaaaaa";
    const LEARNER: &str = "llllllllllllllllllllllll";
    const NEWER: &str = "nnnnnnnnnnnnnnnnnnnnnnnn";

    #[test]
    fn lines_name_roles_and_the_newest_is_shown() {
        let text = format!("# lab\nactor {ACTOR}\n\n learner {LEARNER}\nactor {NEWER}\n");
        let tokens = Tokens::parse(&text).unwrap();
        assert_eq!(tokens.role(ACTOR.as_bytes()), Some(Role::Actor));
        assert_eq!(tokens.role(NEWER.as_bytes()), Some(Role::Actor));
        assert_eq!(tokens.role(LEARNER.as_bytes()), Some(Role::Learner));
        assert_eq!(tokens.role(b""), None);
        assert_eq!(tokens.role(&ACTOR.as_bytes()[1..]), None);
        assert_eq!(tokens.own(Role::Actor), Some(NEWER));
        assert_eq!(tokens.own(Role::Admin), None);
        assert!(!format!("{tokens:?}").contains('a'.to_string().repeat(3).as_str()));
    }

    #[test]
    fn a_client_may_have_its_token_alone() {
        let tokens = Tokens::parse(&format!("{ACTOR}\n")).unwrap();
        assert_eq!(tokens.own(Role::Evaluator), Some(ACTOR));
        assert!(!tokens.name_roles());
        // Without a role it opens nothing.
        assert_eq!(tokens.role(ACTOR.as_bytes()), None);
    }

    #[test]
    fn errors_name_the_line_and_never_the_token() {
        for (text, line) in [
            ("", "expected a token"),
            ("\nactor short", "line 2: expected a token of at least 16"),
            (
                "pilot aaaaaaaaaaaaaaaaaaaa",
                "line 1: first word: expected replay",
            ),
            (
                "actor aaaaaaaaaaaaaaaaaaaa\nadmin aaaaaaaaaaaaaaaaaaaa",
                "line 2: an earlier line has this token",
            ),
            (
                "actor a b",
                "line 1: expected `role token` or a token, got 3 words",
            ),
        ] {
            let message = Tokens::parse(text).unwrap_err();
            assert!(message.starts_with(line), "{message}");
            assert!(
                !message.contains("short") && !message.contains("aaaa"),
                "{message}"
            );
        }
    }
}
