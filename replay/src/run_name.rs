//! Which run the tables belong to, to the protocol their owner: the first that opened one by its name, and in a data directory also after a
//! restart. Items of two runs in one table would be learnt from as if they were of one. Clients that give no
//! name, tools for one, are nobody's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pmpo_service::files::write_atomically;
use pmpo_service::{identity, traces};
use tonic::{Code, Status};

use crate::ReplayError;
use crate::error::refusal;

/// The file in a data directory that has the name and, in a line of its own, the uid.
const FILE: &str = ".run";

/// A run as it calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    name: String,
    /// Tells runs of one name apart; empty where nobody has said it.
    uid: String,
}

impl Run {
    fn new(name: &str, uid: &str) -> Self {
        let [name, uid] = [name, uid].map(identity::cleaned);
        Self { name, uid }
    }

    fn write(&self, data_dir: &Path) -> io::Result<()> {
        let text = format!("{}\n{}\n", self.name, self.uid);
        write_atomically(&data_dir.join(FILE), text.as_bytes())
    }

    /// Whether a client that calls itself `other` may be of this run.
    fn is(&self, other: &Self) -> bool {
        let said = !self.uid.is_empty() && !other.uid.is_empty();
        self.name == other.name && (!said || self.uid == other.uid)
    }
}

/// The name, once there is one.
#[derive(Clone, Debug)]
pub(crate) struct RunName {
    held: Arc<Mutex<Option<Run>>>,
    data_dir: Option<PathBuf>,
}

impl RunName {
    /// The name that a data directory has, or none yet.
    pub(crate) fn read(data_dir: Option<&Path>) -> Result<Self, ReplayError> {
        let held = match &data_dir.map(|folder| folder.join(FILE)) {
            Some(path) if path.exists() => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|source| ReplayError::disk(path, source))?;
                let mut lines = text.lines();
                let mut line = || lines.next().unwrap_or_default();
                Some(Run::new(line(), line())).filter(|run| !run.name.is_empty())
            }
            _ => None,
        };
        Ok(Self {
            held: Arc::new(Mutex::new(held)),
            data_dir: data_dir.map(Path::to_owned),
        })
    }

    /// Writes the name, if there is one yet, into another data directory.
    pub(crate) fn write(&self, data_dir: &Path) -> io::Result<()> {
        let held = self.held.lock().expect("its holders do not panic");
        held.as_ref().map_or(Ok(()), |run| run.write(data_dir))
    }

    /// Refuses a run that the tables do not belong to.
    pub(crate) fn check(&self, name: &str, uid: &str) -> Result<(), Status> {
        let run = Run::new(name, uid);
        match &*self.held.lock().expect("its holders do not panic") {
            Some(held) if !run.name.is_empty() && !held.is(&run) => Err(self.refusal(held, &run)),
            _ => Ok(()),
        }
    }

    /// A run has opened a stream: the tables are its own from here on.
    pub(crate) fn claim(&self, name: &str, uid: &str) -> Result<(), Status> {
        let run = Run::new(name, uid);
        if run.name.is_empty() {
            return Ok(());
        }
        let mut held = self.held.lock().expect("its holders do not panic");
        let news = match &*held {
            Some(held) if !held.is(&run) => return Err(self.refusal(held, &run)),
            // A tool that knows the name alone may have come first.
            Some(held) => held.uid.is_empty() && !run.uid.is_empty(),
            None => true,
        };
        if news {
            let written = self.data_dir.as_ref().map(|folder| run.write(folder));
            if let Some(Err(error)) = written {
                // A full disk ends no run; until a restart it is known all the same.
                tracing::warn!(%error, "the run's name is not in the data directory");
            }
            *held = Some(run.clone());
        }
        if identity::set_run(&run.name, &run.uid) {
            tracing::info!("serving this run");
            traces::start();
        }
        Ok(())
    }

    fn refusal(&self, held: &Run, run: &Run) -> Status {
        let help = match &self.data_dir {
            None => "start another replay".to_owned(),
            Some(folder) => {
                let path = folder.join(FILE);
                let path = path.display();
                format!(
                    "start another replay, with another data directory, or stop this one and remove {path}"
                )
            }
        };
        let whose = if held.name == run.name {
            format!(
                "an earlier owner of the name `{}`, with another id",
                held.name
            )
        } else {
            format!("`{}`, not to `{}`", held.name, run.name)
        };
        let message = format!("owner: these tables belong to {whose}; {help}");
        refusal(Code::FailedPrecondition, "OTHER_OWNER", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_belong_to_the_run_that_opened_them_first_also_after_a_restart() {
        let memory = RunName::read(None).unwrap();
        memory.check("a", "").unwrap();
        memory.claim("", "").unwrap();
        memory.claim("a", "").unwrap();
        memory.claim("a", "").unwrap();
        memory.check("", "").unwrap();
        let refused = memory.check("b", "").unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        let expected = "owner: these tables belong to `a`, not to `b`; start another replay";
        assert_eq!(refused.message(), expected);
        assert!(memory.claim("b", "").is_err());

        let folder = tempfile::tempdir().unwrap();
        RunName::read(Some(folder.path()))
            .unwrap()
            .claim("a\n", "")
            .unwrap();
        let again = RunName::read(Some(folder.path())).unwrap();
        again.claim("a\n", "").unwrap();
        assert!(
            again
                .check("b", "")
                .unwrap_err()
                .message()
                .contains("/.run")
        );
    }

    #[test]
    fn two_runs_of_one_name_are_told_apart_by_their_uids() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunName::read(Some(folder.path())).unwrap();
        // A tool that knows the name alone, then the run itself.
        first.claim("a", "").unwrap();
        first.claim("a", "1").unwrap();
        first.check("a", "").unwrap();
        let again = RunName::read(Some(folder.path())).unwrap();
        again.claim("a", "1").unwrap();
        let refused = again.check("a", "2").unwrap_err();
        let expected =
            "owner: these tables belong to an earlier owner of the name `a`, with another id; ";
        assert!(refused.message().starts_with(expected), "{refused}");
        assert!(again.claim("a", "2").is_err());
    }
}
