//! Stops because of numbers that are not finite, kept in the run's folder: a process that ends that way
//! is gone before anyone reads its metrics, so the one that resumes the run tells.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ::metrics::counter;
use pmpo_service::files::write_atomically;

use crate::{LearnerError, metrics};

const FILE: &str = "not_finite.json";

/// The messages of all such stops of a run, the oldest first.
pub(crate) struct Stops {
    path: PathBuf,
    messages: Vec<String>,
}

impl Stops {
    /// Reads what the run's folder holds; what cannot be read is not worth a run.
    pub(crate) fn read(run_dir: &Path) -> Self {
        let path = run_dir.join(FILE);
        let messages = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "not a list of stops; begun anew");
                Vec::new()
            }),
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "stops of before are not known");
                }
                Vec::new()
            }
        };
        let stops = Self { path, messages };
        stops.tell();
        stops
    }

    /// Notes how a run ended, if it was this way.
    pub(crate) fn note<T>(&mut self, ended: &Result<T, LearnerError>) {
        let Err(error @ LearnerError::NotFinite { .. }) = ended else {
            return;
        };
        self.messages.push(error.to_string());
        self.tell();
        let json = serde_json::to_vec_pretty(&self.messages).expect("strings are JSON");
        if let Err(error) = write_atomically(&self.path, &json) {
            tracing::error!(path = %self.path.display(), %error, "stop not recorded");
        }
    }

    fn tell(&self) {
        counter!(metrics::NOT_FINITE_STOPS).absolute(self.messages.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pmpo_update::{BatchName, NotFinite};

    #[test]
    fn stops_of_this_kind_are_remembered_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut stops = Stops::read(folder.path());
        stops.note(&Ok(()));
        stops.note::<()>(&Err(LearnerError::Panicked("a thread")));
        assert!(!folder.path().join(FILE).exists());
        let stop = || {
            LearnerError::from(NotFinite {
                step: 7,
                statistic: "target",
                value: f32::NAN,
                batch: BatchName {
                    policy_versions: 1..=2,
                    rewards: 0.0..=1.0,
                },
            })
        };
        stops.note::<()>(&Err(stop()));
        let mut stops = Stops::read(folder.path());
        stops.note::<()>(&Err(stop()));
        assert_eq!(
            Stops::read(folder.path()).messages,
            [stop().to_string(), stop().to_string()]
        );
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(Stops::read(folder.path()).messages.is_empty());
    }
}
