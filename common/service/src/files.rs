//! Files that others read: never half-written.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Replaces `path` with `bytes`: written to a temporary file beside it, synced, renamed, and the
/// folder synced, so that after a crash the old or the new content is there, whole.
///
/// # Errors
/// Those of the file system; `path` then has its old content.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Readable as any new file is, subject to the umask; tempfile's own default is the owner alone.
    write(path, bytes, 0o666)
}

/// As [`write_atomically`], for a secret: only the owner may read it, from its first byte on.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_secret_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes, 0o600)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)
        .map_err(without_path)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(folder)
}

/// What the system said, without the temporary file's name, which tells nobody anything.
fn without_path(error: io::Error) -> io::Error {
    match error.to_string().split_once(" at path ") {
        Some((cause, _)) => io::Error::new(error.kind(), cause.to_owned()),
        None => error,
    }
}

/// Makes what was created, renamed or removed in a folder outlast a crash of the machine.
///
/// # Errors
/// Those of the file system.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A file system's room.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Bytes that this user may still write.
    pub free_bytes: u64,
    /// Bytes in all.
    pub size_bytes: u64,
}

/// Room in the file system that holds `path`.
///
/// # Errors
/// There is no such path.
pub fn space(path: &Path) -> io::Result<Space> {
    let found = rustix::fs::statvfs(path)?;
    Ok(Space {
        free_bytes: found.f_bavail * found.f_frsize,
        size_bytes: found.f_blocks * found.f_frsize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_content_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        write_atomically(&path, b"old").unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_error_names_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_atomically(&folder.path().join("no/a.toml"), b"new").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!error.to_string().contains("tmp"), "{error}");
    }

    #[test]
    fn secrets_are_the_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_secret_atomically(&path, b"secret").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_system_has_room_and_an_absent_path_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let space = super::space(folder.path()).unwrap();
        assert!(space.size_bytes > 0 && space.free_bytes <= space.size_bytes);
        assert!(super::space(&folder.path().join("no")).is_err());
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write_atomically(&folder.path().join("no/a"), b"").is_err());
    }
}
