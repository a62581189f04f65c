//! Why a data set cannot be read or written: one line, with the file, the row and the column where they are known.

use std::io;
use std::path::{Path, PathBuf};

use pmpo_types::ConfigError;
use thiserror::Error;

/// A data set that cannot be used, or not be written.
#[derive(Debug, Error)]
pub enum DataError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is there is not what has to be there.
    #[error("{}: {refusal}", path.display())]
    Content {
        /// The file, or the folder where none is to blame.
        path: PathBuf,
        /// Which part of it, what was expected, what was there.
        refusal: ConfigError,
    },
}

/// Puts a file's name before what is wrong with it.
pub(crate) trait InFile<T> {
    fn in_file(self, path: &Path) -> Result<T, DataError>;
}

impl<T> InFile<T> for Result<T, io::Error> {
    fn in_file(self, path: &Path) -> Result<T, DataError> {
        self.map_err(|source| DataError::Io {
            path: path.to_owned(),
            source,
        })
    }
}

impl<T> InFile<T> for Result<T, ConfigError> {
    fn in_file(self, path: &Path) -> Result<T, DataError> {
        self.map_err(|refusal| DataError::Content {
            path: path.to_owned(),
            refusal,
        })
    }
}

/// A refusal of a whole file, in one line whatever its reader said.
pub(crate) fn unreadable<T>(what: &str, error: impl ToString) -> Result<T, ConfigError> {
    let said = error.to_string();
    let said = said.lines().next().unwrap_or_default().to_owned();
    Err(ConfigError::new("content", what, said))
}

/// A refusal of a whole file or folder.
pub(crate) fn refused<T>(
    path: &Path,
    field: impl Into<String>,
    expected: impl Into<String>,
    got: impl ToString,
) -> Result<T, DataError> {
    Err(ConfigError::new(field, expected, got)).in_file(path)
}
