//! A folder that appears whole or not at all.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use tempfile::TempDir;

use crate::error::{DataError, InFile, refused};

/// A folder in the making, hidden beside the one it becomes; removed unless it is published.
#[derive(Debug)]
pub(crate) struct Draft {
    folder: TempDir,
    target: PathBuf,
}

impl Draft {
    /// Of a folder that is not there yet.
    pub(crate) fn new(target: &Path) -> Result<Self, DataError> {
        if target.symlink_metadata().is_ok() {
            return refused(
                target,
                "folder",
                "a path where nothing is",
                "something that is there",
            );
        }
        Self::beside(target)
    }

    /// Of a folder that will take another's place.
    pub(crate) fn beside(target: &Path) -> Result<Self, DataError> {
        let Some(name) = target.file_name() else {
            return refused(target, "folder", "a path with a name", "one without");
        };
        let parent = parent(target);
        fs::create_dir_all(parent).in_file(parent)?;
        // Readable as any new folder is, subject to the umask; tempfile's own default is the owner alone.
        let folder = tempfile::Builder::new()
            .prefix(&format!(".{}.", name.to_string_lossy()))
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(parent)
            // Its own error names a folder that nobody asked for.
            .map_err(|error| std::io::Error::from(error.kind()))
            .in_file(target)?;
        Ok(Self {
            folder,
            target: target.to_owned(),
        })
    }

    /// Where to write.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes it the folder that it was to become.
    pub(crate) fn publish(self) -> Result<(), DataError> {
        self.sync()?;
        fs::rename(self.folder.path(), &self.target).in_file(&self.target)?;
        let _now_there = self.folder.keep();
        sync(parent(&self.target))
    }

    /// Puts it in the place of the folder that is there, which is then removed.
    pub(crate) fn replace(self) -> Result<(), DataError> {
        self.sync()?;
        let (new, old) = (self.folder.path(), self.target.as_path());
        // Where the file system cannot exchange, as over NFS, the old one is out of the way for a moment.
        if rustix::fs::renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE).is_err() {
            let aside = new.with_extension("old");
            fs::rename(old, &aside).in_file(old)?;
            if let Err(error) = fs::rename(new, old) {
                fs::rename(&aside, old).in_file(old)?;
                return Err(error).in_file(old);
            }
            fs::rename(&aside, new).in_file(new)?;
        }
        sync(parent(old))?;
        self.folder.close().in_file(&self.target)
    }

    /// One call for all files: a sync of each of thousands would take minutes.
    fn sync(&self) -> Result<(), DataError> {
        let folder = File::open(self.path()).in_file(self.path())?;
        rustix::fs::syncfs(&folder)
            .map_err(std::io::Error::from)
            .in_file(self.path())
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync(folder: &Path) -> Result<(), DataError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .in_file(folder)
}
