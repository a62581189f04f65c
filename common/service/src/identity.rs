//! Who this process is: its role, its number within the role and, once it is known, the run that it
//! takes part in. Set by whoever learns it; every log line and every trace says it.

use std::sync::{PoisonError, RwLock};

/// Longest name of a run, in characters, that is taken over from a peer.
const MAX_RUN_CHARS: usize = 128;

static IDENTITY: RwLock<Identity> = RwLock::new(Identity {
    role: "",
    index: None,
    run: String::new(),
    run_uid: String::new(),
});

/// A process among those of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Role, for example `actor`; empty in a process without one.
    pub role: &'static str,
    /// Number within the role; absent until the learner has allotted it.
    pub index: Option<u64>,
    /// Name of the run; empty until it is known.
    pub run: String,
    /// What tells it from others of its name; empty where nobody has said it.
    pub run_uid: String,
}

/// This process's identity, as far as it is known.
pub fn get() -> Identity {
    with(Clone::clone)
}

/// What a process is called among those of a run: its role and its number, or that of the process where
/// it has none of its own.
pub fn instance(role: &str, index: Option<u64>, pid: u32) -> String {
    format!("{role}-{}", index.unwrap_or(pid.into()))
}

/// Sets role and number.
pub fn set_role(role: &'static str, index: Option<u64>) {
    change(|identity| (identity.role, identity.index) = (role, index));
}

/// Sets the number.
pub fn set_index(index: u64) {
    change(|identity| identity.index = Some(index));
}

/// Sets the run; a name that a log line could not hold is cut and cleaned first. Answers whether that
/// is news.
pub fn set_run(run: &str, uid: &str) -> bool {
    let (run, run_uid) = (cleaned(run), cleaned(uid));
    let mut news = false;
    change(|identity| {
        news = identity.run != run;
        (identity.run, identity.run_uid) = (run, run_uid);
    });
    news
}

/// The name of a run as a log line can hold it.
pub fn cleaned(run: &str) -> String {
    let clean = |c: char| if c.is_control() { '_' } else { c };
    run.chars().take(MAX_RUN_CHARS).map(clean).collect()
}

pub(crate) fn with<R>(read: impl FnOnce(&Identity) -> R) -> R {
    // Nothing is left half-changed by a panic.
    read(&IDENTITY.read().unwrap_or_else(PoisonError::into_inner))
}

fn change(change: impl FnOnce(&mut Identity)) {
    change(&mut IDENTITY.write().unwrap_or_else(PoisonError::into_inner));
}
