//! Identifiers. Newtypes, so that a version is never compared with a sequence number.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Counts the publications of one run's policy, from 1. Version 0 is "no policy yet": actions drawn
/// from the untrained initial policy or from a uniform distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyVersion(pub u64);

impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one writer of experience for its lifetime: 128 random bits, drawn anew by every process, so
/// that a restarted actor can never reuse the sequence numbers of the one it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WriterId(pub u128);

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Names a part of a distributed trace that is being recorded, for who continues the trace (W3C Trace
/// Context). It travels beside data and changes nothing about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace; not 0.
    pub trace_id: u128,
    /// The part of it to continue from; not 0.
    pub span_id: u64,
}
