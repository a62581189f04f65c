//! How a process tells others where it listens: a small JSON file, written once it serves. With port
//! 0 this is how the port that the system chose becomes known.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::write_atomically;
use crate::identity::instance;

/// A process that serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Role, for example `actor`.
    pub role: String,
    /// Number within the role; absent where the learner allots it.
    pub index: Option<u64>,
    /// Process id.
    pub pid: u32,
    /// Address of its gRPC services, where it has any.
    pub listen: Option<SocketAddr>,
    /// Address of `/metrics`.
    pub metrics: Option<SocketAddr>,
}

impl Announcement {
    /// Writes the announcement atomically, and beside it, as `*.targets.json`, what Prometheus' file
    /// discovery reads: the job is the role, and the instance keeps its name over restarts where it
    /// has a number of its own.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(metrics) = self.metrics {
            let instance = instance(&self.role, self.index, self.pid);
            let targets = serde_json::json!([{
                "targets": [metrics.to_string()],
                "labels": { "job": self.role, "instance": instance },
            }]);
            let path = path.with_extension("targets.json");
            write_atomically(&path, targets.to_string().as_bytes())?;
        }
        let json = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        write_atomically(path, &json)
    }

    /// Reads an announcement; `None` while there is none.
    ///
    /// # Errors
    /// The file cannot be read or is not an announcement.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_read_back_and_absence_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay-0.json");
        assert_eq!(Announcement::read(&path).unwrap(), None);
        let announcement = Announcement {
            role: "replay".to_owned(),
            index: Some(0),
            pid: 7,
            listen: Some(([127, 0, 0, 1], 7001).into()),
            metrics: Some(([127, 0, 0, 1], 9001).into()),
        };
        announcement.write(&path).unwrap();
        assert_eq!(Announcement::read(&path).unwrap(), Some(announcement));
        let targets = std::fs::read_to_string(folder.path().join("replay-0.targets.json")).unwrap();
        assert_eq!(
            targets,
            r#"[{"labels":{"instance":"replay-0","job":"replay"},"targets":["127.0.0.1:9001"]}]"#
        );
        std::fs::write(&path, "{").unwrap();
        assert!(Announcement::read(&path).is_err());
    }
}
