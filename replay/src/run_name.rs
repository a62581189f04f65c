//! Which run the tables belong to: the first that opened one by its name, and in a data directory also after a
//! restart. Items of two runs in one table would be learnt from as if they were of one. Clients that give no
//! name, tools for one, are nobody's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pmpo_service::files::write_atomically;
use pmpo_service::{identity, traces};
use tonic::Status;

use crate::ReplayError;

/// The file in a data directory that has the name.
const FILE: &str = ".run";

/// The name, once there is one.
#[derive(Clone, Debug)]
pub(crate) struct RunName {
    held: Arc<Mutex<Option<String>>>,
    file: Option<PathBuf>,
}

impl RunName {
    /// The name that a data directory has, or none yet.
    pub(crate) fn read(data_dir: Option<&Path>) -> Result<Self, ReplayError> {
        let file = data_dir.map(|folder| folder.join(FILE));
        let held = match &file {
            Some(path) if path.exists() => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|source| ReplayError::disk(path, source))?;
                Some(text.trim_end().to_owned()).filter(|name| !name.is_empty())
            }
            _ => None,
        };
        Ok(Self {
            held: Arc::new(Mutex::new(held)),
            file,
        })
    }

    /// Refuses a run that the tables do not belong to.
    pub(crate) fn check(&self, run: &str) -> Result<(), Status> {
        let run = identity::cleaned(run);
        match &*self.held.lock().expect("its holders do not panic") {
            Some(held) if !run.is_empty() && *held != run => Err(self.refusal(held, &run)),
            _ => Ok(()),
        }
    }

    /// A run has opened a stream: the tables are its own from here on.
    pub(crate) fn claim(&self, run: &str) -> Result<(), Status> {
        if run.is_empty() {
            return Ok(());
        }
        let run = identity::cleaned(run);
        let mut held = self.held.lock().expect("its holders do not panic");
        match &*held {
            Some(held) if *held != run => return Err(self.refusal(held, &run)),
            Some(_) => {}
            None => {
                let written = self
                    .file
                    .as_ref()
                    .map(|path| write_atomically(path, run.as_bytes()));
                if let Some(Err(error)) = written {
                    // A full disk ends no run; until a restart it is known all the same.
                    tracing::warn!(%error, "the run's name is not in the data directory");
                }
                *held = Some(run.clone());
            }
        }
        if identity::set_run(&run) {
            tracing::info!("serving this run");
            traces::start();
        }
        Ok(())
    }

    fn refusal(&self, held: &str, run: &str) -> Status {
        let help = match &self.file {
            None => "start another replay".to_owned(),
            Some(path) => {
                let path = path.display();
                format!(
                    "start another replay, with another data directory, or stop this one and remove {path}"
                )
            }
        };
        Status::failed_precondition(format!(
            "run: these tables belong to the run `{held}`, not to `{run}`; {help}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_belong_to_the_run_that_opened_them_first_also_after_a_restart() {
        let memory = RunName::read(None).unwrap();
        memory.check("a").unwrap();
        memory.claim("").unwrap();
        memory.claim("a").unwrap();
        memory.claim("a").unwrap();
        memory.check("").unwrap();
        let refused = memory.check("b").unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        let expected = "run: these tables belong to the run `a`, not to `b`; start another replay";
        assert_eq!(refused.message(), expected);
        assert!(memory.claim("b").is_err());

        let folder = tempfile::tempdir().unwrap();
        RunName::read(Some(folder.path()))
            .unwrap()
            .claim("a\n")
            .unwrap();
        let again = RunName::read(Some(folder.path())).unwrap();
        again.claim("a\n").unwrap();
        assert!(again.check("b").unwrap_err().message().contains("/.run"));
    }
}
