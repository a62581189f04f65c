//! A copy of all tables, made while they are served: `<data-dir>/.checkpoints/<number>`, which is a data
//! directory itself.
//!
//! It is filled under another name and gets its own once all of it is safe, so it is whole or not there. The
//! segments in it are the tables' own under other names: the log never changes one that has ended. So a
//! copy takes no time, and no room but for what the log lets go later.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::files::{Files, Folder, make_folder};

/// In the data directory; no table has a name that begins with a dot.
const FOLDER: &str = ".checkpoints";
/// Where one is filled.
const NEW: &str = ".new";

/// One that is being made.
pub(crate) struct Checkpoint<'a> {
    files: &'a dyn Files,
    all: Box<dyn Folder>,
    new: PathBuf,
    /// Its tables' folders.
    tables: Vec<PathBuf>,
    name: String,
}

impl<'a> Checkpoint<'a> {
    /// Only one may be made at a time.
    pub(crate) fn begin(files: &'a dyn Files, data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(FOLDER);
        make_folder(files, &path)?;
        let all = files.folder(&path)?;
        let names = all.list()?;
        let new = path.join(NEW);
        // Of a process that ended while it made one.
        if names.iter().any(|name| name == NEW) {
            files.remove_folder(&new)?;
        }
        let last = numbered(&names).last().map(|&(number, _)| number);
        let number = last.map_or(0, |last| last.saturating_add(1));
        files.make_folder(&new)?;
        Ok(Self {
            files,
            all,
            new,
            tables: Vec::new(),
            name: format!("{number:06}"),
        })
    }

    /// The data directory to be.
    pub(crate) fn folder(&self) -> &Path {
        &self.new
    }

    /// Makes the folder that a table's log is to be copied to.
    pub(crate) fn table(&mut self, name: &str) -> io::Result<PathBuf> {
        let path = self.new.join(name);
        self.files.make_folder(&path)?;
        self.tables.push(path.clone());
        Ok(path)
    }

    /// Makes safe what is in it, then that it is there.
    pub(crate) fn finish(&self) -> io::Result<PathBuf> {
        for path in self.tables.iter().chain([&self.new]) {
            self.files.folder(path)?.sync()?;
        }
        self.all.rename(NEW, &self.name)?;
        self.all.sync()?;
        Ok(self.new.with_file_name(&self.name))
    }

    /// Removes all copies but the newest `keep`; one that is still read, or may not be removed, is left.
    pub(crate) fn remove_older(&self, keep: usize) {
        let left_over = |error: io::Error| {
            let path = self.new.with_file_name("");
            tracing::warn!(path = %path.display(), %error, "a checkpoint beyond those to keep is left over");
        };
        let names = match self.all.list() {
            Ok(names) => names,
            Err(error) => return left_over(error),
        };
        for (_, name) in numbered(&names).iter().rev().skip(keep) {
            if let Err(error) = self.files.remove_folder(&self.new.with_file_name(name)) {
                left_over(error);
            }
        }
    }

    /// Nothing is left of it, under either name.
    pub(crate) fn remove(&self) {
        for path in [&self.new, &self.new.with_file_name(&self.name)] {
            match self.files.remove_folder(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a checkpoint that failed is left over");
                }
                _ => {}
            }
        }
    }
}

/// The copies' numbers and names, the oldest first.
fn numbered(names: &[String]) -> Vec<(u64, &String)> {
    let number = |name: &'_ String| name.parse::<u64>().ok();
    let mut all: Vec<_> = names
        .iter()
        .filter_map(|name| Some((number(name)?, name)))
        .collect();
    all.sort_unstable();
    all
}
