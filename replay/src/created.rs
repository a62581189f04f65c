//! Tables that were created while the service ran: a file of the data directory, as `[[replay.tables]]` of a
//! configuration has them, in which the next start finds them.

use std::io;
use std::path::Path;

use pmpo_replay_core::TableConfig;
use pmpo_service::files::write_atomically;
use serde::{Deserialize, Serialize};

use crate::ReplayError;

const FILE: &str = ".tables.toml";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Created {
    tables: Vec<TableConfig>,
}

/// Those of a data directory.
pub(crate) fn read(data_dir: &Path) -> Result<Vec<TableConfig>, ReplayError> {
    let path = data_dir.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|source| ReplayError::disk(&path, source))?,
    };
    let broken = |message: &str| {
        let source = io::Error::new(io::ErrorKind::InvalidData, message);
        ReplayError::disk(&path, source)
    };
    let Created { tables } = toml::from_str(&text).map_err(|error| broken(error.message()))?;
    for (i, table) in tables.iter().enumerate() {
        let checked = table.validate();
        checked.map_err(|error| broken(&error.within(&format!("tables[{i}]")).to_string()))?;
    }
    Ok(tables)
}

/// From here on these are those of a data directory, or after an error the ones before.
pub(crate) fn write(data_dir: &Path, tables: Vec<TableConfig>) -> io::Result<()> {
    let text = toml::to_string(&Created { tables }).map_err(io::Error::other)?;
    write_atomically(&data_dir.join(FILE), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_to_the_last_bit_and_what_is_broken_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), []);
        let table = TableConfig {
            priority_exponent: 0.1 + 0.2,
            age_decay: 1.0 - f64::EPSILON,
            samples_per_insert: 1e-7 / 3.0,
            error_buffer: Some(1e300),
            max_bytes: i64::MAX as u64,
            ..TableConfig::default()
        };
        write(folder.path(), vec![table.clone(); 2]).unwrap();
        assert_eq!(read(folder.path()).unwrap(), [table.clone(), table]);
        for (text, expected) in [
            ("tables = 1", "invalid type: integer `1`"),
            ("[[tables]]\nmax_size = 0", "tables[0].max_size: expected 1"),
        ] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            let refused = read(folder.path()).unwrap_err().to_string();
            let named = refused.contains(FILE) && refused.contains(expected);
            assert!(named && !refused.contains('\n'), "{refused}");
        }
    }
}
