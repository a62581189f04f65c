//! A folder that one process writes to: an exclusive lock on the file `.lock` in it, which the kernel gives
//! back however its holder ends. The file says who that is, for the one that is refused.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::io::Errno;
use thiserror::Error;

const FILE: &str = ".lock";

/// A look at a lock holds it for an instant, which must refuse nobody.
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// Why a folder is not this process's.
#[derive(Debug, Error)]
pub enum LockError {
    /// It is another's.
    #[error(
        "{}: in use by {holder}; wait for its end, or choose another folder",
        folder.display()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The other process.
        holder: String,
    },
    /// The lock cannot be made.
    #[error("{}: {source}", path.display())]
    File {
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A folder that is this process's alone, until this is dropped.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Takes the folder, which must be there, for `program`.
    ///
    /// # Errors
    /// Another process has it, which the error names, or the file cannot be made.
    pub fn take(folder: &Path, program: &str) -> Result<Self, LockError> {
        let path = folder.join(FILE);
        let error = |source| LockError::File {
            path: path.clone(),
            source,
        };
        // Not truncated: until it is ours it names another.
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true);
        let mut file = file.open(&path).map_err(error)?;
        for _ in 1..TRIES {
            if file.try_lock().is_ok() {
                break;
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::InUse {
                    folder: folder.to_owned(),
                    holder: named(&path),
                });
            }
            Err(TryLockError::Error(source)) if is_without_locks(&source) => {
                // Some network file systems have none. That is no reason not to run.
                tracing::warn!(path = %path.display(), %source, "no locks here: see to it that nobody else writes");
            }
            Err(TryLockError::Error(source)) => return Err(error(source)),
        }
        // A full disk may keep the name from being written; the lock holds without it.
        if let Err(error) = sign(&mut file, program) {
            tracing::debug!(path = %path.display(), %error, "a lock without a name");
        }
        Ok(Self { file })
    }

    /// Who has the folder; `None` if nobody has. Changes nothing.
    pub fn holder(folder: &Path) -> Option<String> {
        let path = folder.join(FILE);
        let file = File::open(&path).ok()?;
        let held = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        held.then(|| named(&path))
    }

    /// The lock as a child's standard input, which shares it: the folder is free once both have ended.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn share(&self) -> io::Result<Stdio> {
        Ok(Stdio::from(self.file.try_clone()?))
    }
}

fn is_without_locks(error: &io::Error) -> bool {
    let none = [Errno::NOLCK, Errno::NOSYS, Errno::OPNOTSUPP];
    let code = error.raw_os_error();
    none.iter().any(|errno| code == Some(errno.raw_os_error()))
}

fn sign(file: &mut File, program: &str) -> io::Result<()> {
    let (pid, host) = (std::process::id(), host());
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "process {pid} on {host} ({program})")
}

fn named(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let text = text.trim();
    if text.is_empty() {
        "another process".to_owned()
    } else {
        text.to_owned()
    }
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "this host".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_a_folder_and_the_other_is_told_which() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(FolderLock::holder(folder.path()), None);
        let lock = FolderLock::take(folder.path(), "pmpo train").unwrap();
        let name = format!("process {} on {} (pmpo train)", std::process::id(), host());
        assert_eq!(FolderLock::holder(folder.path()), Some(name.clone()));
        let refused = FolderLock::take(folder.path(), "pmpo learner").unwrap_err();
        assert!(matches!(refused, LockError::InUse { .. }));
        assert!(refused.to_string().contains(&name), "{refused}");

        // Shared with a child, it outlives its first holder.
        let spawn = || {
            let mut command = std::process::Command::new("sleep");
            command.arg("60").stdin(lock.share().unwrap());
            command.spawn().unwrap()
        };
        let mut child = spawn();
        drop(lock);
        assert_eq!(FolderLock::holder(folder.path()), Some(name));
        child.kill().unwrap();
        child.wait().unwrap();
        FolderLock::take(folder.path(), "pmpo learner").unwrap();
        assert_eq!(FolderLock::holder(folder.path()), None);
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = FolderLock::take(&folder.path().join("no"), "pmpo").unwrap_err();
        assert!(error.to_string().contains("no/.lock: "), "{error}");
    }
}
