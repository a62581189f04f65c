//! What the log needs of a file system, and nothing else: so that tests can put one beneath it that
//! loses what was not synced, fails, and fills up.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A file system.
pub(crate) trait Files: Send + Sync {
    /// Makes a folder in one that is there; answers whether it was not there yet.
    fn make_folder(&self, path: &Path) -> io::Result<bool>;
    /// Opens a folder that is there.
    fn folder(&self, path: &Path) -> io::Result<Box<dyn Folder>>;
    /// Removes a folder with all that is in it.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
}

/// An open folder. What is done to its names is safe from a power failure after the next `sync` of it.
pub(crate) trait Folder: Send + Sync {
    fn list(&self) -> io::Result<Vec<String>>;
    /// Replaces `bytes` by a file's.
    fn read(&self, name: &str, bytes: &mut Vec<u8>) -> io::Result<()>;
    /// Makes a file that must not be there yet.
    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>>;
    /// Gives a file another name as well, in a folder of the same file system.
    fn link(&self, name: &str, other: &Path) -> io::Result<()>;
    /// Of a file or a folder, to a name that nothing has.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn unlink(&self, name: &str) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

/// A file that is written from its beginning to its end. What was appended is safe after the next `sync`.
pub(crate) trait AppendFile: Send + Sync {
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

/// Makes a folder and those it is in, each safe before anything is put into it.
pub(crate) fn make_folder(files: &dyn Files, path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    let made = match files.make_folder(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(files, parent)?;
            files.make_folder(path)?
        }
        made => made?,
    };
    match files.folder(parent).and_then(|parent| parent.sync()) {
        // One that was there may be in a folder that is not ours to open.
        Err(error) if !made && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        // Synced also where it was there: who made it may have been killed before this.
        synced => synced,
    }
}

/// The system's.
pub(crate) struct SystemFiles;

struct SystemFolder {
    path: PathBuf,
    /// Kept open: a process that is out of descriptors can still sync it.
    handle: File,
}

impl Files for SystemFiles {
    fn make_folder(&self, path: &Path) -> io::Result<bool> {
        match DirBuilder::new().create(path) {
            Ok(()) => Ok(true),
            Err(_) if path.is_dir() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn folder(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        Ok(Box::new(SystemFolder {
            path: path.to_owned(),
            handle: File::open(path)?,
        }))
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(path)
    }
}

impl Folder for SystemFolder {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn read(&self, name: &str, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.clear();
        File::open(self.path.join(name))?.read_to_end(bytes)?;
        Ok(())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true);
        Ok(Box::new(file.open(self.path.join(name))?))
    }

    fn link(&self, name: &str, other: &Path) -> io::Result<()> {
        std::fs::hard_link(self.path.join(name), other)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

impl AppendFile for File {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = self;
        file.write_all(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cannot be synced shows that the system is asked to: the simulated file system of the other tests
    /// knows nothing of this one.
    #[test]
    fn the_system_is_asked_to_sync() {
        let (_reader, pipe) = io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
        let refused = |synced: io::Result<()>| synced.unwrap_err().kind();
        assert_eq!(
            refused(AppendFile::sync(&pipe)),
            io::ErrorKind::InvalidInput
        );
        let folder = SystemFiles.folder(Path::new("/proc/self")).unwrap();
        assert_eq!(refused(folder.sync()), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn folders_are_made_in_folders_that_are_made_and_a_file_is_none() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/c");
        for _ in 0..2 {
            make_folder(&SystemFiles, &path).unwrap();
            assert!(path.is_dir());
        }
        std::fs::write(path.join("file"), b"").unwrap();
        assert!(make_folder(&SystemFiles, &path.join("file")).is_err());
    }
}
