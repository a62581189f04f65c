//! Roles as they stand in certificates and tokens.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// What the URI in a certificate's subject alternative names begins with; the role's name follows.
const URI_PREFIX: &str = "urn:pmpo:role:";

/// Whose credential it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The replay service. It calls nobody.
    Replay,
    /// The learner.
    Learner,
    /// An actor.
    Actor,
    /// An evaluator.
    Evaluator,
    /// Whoever writes into a replay, and is no actor.
    Writer,
    /// Whoever samples from a replay, and is no learner.
    Sampler,
    /// An operator, who may do everything.
    Admin,
}

/// A word that is no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected replay, learner, actor, evaluator, writer, sampler or admin")]
pub struct UnknownRole;

impl Role {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Replay,
        Self::Learner,
        Self::Actor,
        Self::Evaluator,
        Self::Writer,
        Self::Sampler,
        Self::Admin,
    ];

    /// The name in files and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Learner => "learner",
            Self::Actor => "actor",
            Self::Evaluator => "evaluator",
            Self::Writer => "writer",
            Self::Sampler => "sampler",
            Self::Admin => "admin",
        }
    }

    /// Whether its processes call others and are called by nobody.
    pub fn only_calls(self) -> bool {
        matches!(
            self,
            Self::Actor | Self::Evaluator | Self::Writer | Self::Sampler
        )
    }

    /// The URI that stands for the role in a certificate.
    pub fn uri(self) -> String {
        format!("{URI_PREFIX}{self}")
    }

    pub(crate) fn from_uri(uri: &str) -> Option<Self> {
        uri.strip_prefix(URI_PREFIX)?.parse().ok()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(name: &str) -> Result<Self, UnknownRole> {
        let known = Self::ALL.into_iter().find(|role| role.as_str() == name);
        known.ok_or(UnknownRole)
    }
}
