//! What a start finds in the data directory.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use ::metrics::gauge;
use pmpo_replay_core::{Found, Restorer, Table, TableConfig};
use pmpo_service::folder_lock::FolderLock;

use super::{Disk, segment_path};
use crate::ReplayError;
use crate::config::DiskConfig;
use crate::metrics;

/// The data directory is one process's alone. Makes it if there is none.
pub(crate) fn lock(data_dir: &Path) -> Result<FolderLock, ReplayError> {
    std::fs::create_dir_all(data_dir).map_err(|source| ReplayError::disk(data_dir, source))?;
    Ok(FolderLock::take(data_dir, "pmpo replay")?)
}

/// A table out of its folder, and where its log goes on.
pub(crate) struct Recovered {
    pub(crate) table: Table,
    pub(crate) disk: Disk,
}

/// Recovers a table and says what was found.
pub(crate) fn recover(
    data_dir: &Path,
    config: TableConfig,
    disk: &DiskConfig,
    seed: u64,
) -> Result<Recovered, ReplayError> {
    let start = Instant::now();
    let folder = data_dir.join(&config.name);
    let error = |source| ReplayError::disk(&folder, source);
    std::fs::create_dir_all(&folder).map_err(error)?;
    let segments = segments(&folder).map_err(error)?;
    let mut restorer = Restorer::new(config)?;
    // One buffer for all: fresh memory for each segment would cost more than reading it.
    let mut bytes = Vec::new();
    let mut sizes = BTreeMap::new();
    let last = segments.last().copied();
    for &number in &segments {
        let path = segment_path(&folder, number);
        read(&path, &mut bytes).map_err(error)?;
        let kept = restorer.scan(number, &bytes, Some(number) == last)?;
        if kept < bytes.len() {
            truncate(&path, kept as u64).map_err(error)?;
        }
        sizes.insert(number, kept as u64);
    }
    let mut loader = restorer.finish(seed)?;
    for &number in &segments {
        read(&segment_path(&folder, number), &mut bytes).map_err(error)?;
        loader.load(number, &bytes);
    }
    let (mut table, found) = loader.finish();
    let disk = Disk::start(folder.clone(), disk.clone(), sizes, &mut table).map_err(error)?;
    report(table.config(), &folder, &found, start.elapsed());
    Ok(Recovered { table, disk })
}

/// Numbers of the segments, oldest first. Segments are deleted oldest first, but a power loss may
/// undo the first deletion and not the second: what lies before a gap was deleted, or the folder has
/// been tampered with; it is put aside.
fn segments(folder: &Path) -> io::Result<Vec<u32>> {
    let mut numbers: Vec<u32> = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
        numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    let gap = (1..numbers.len()).rfind(|&i| numbers[i] != numbers[i - 1] + 1);
    for number in numbers.drain(..gap.unwrap_or(0)) {
        let path = segment_path(folder, number);
        tracing::warn!(path = %path.display(), "segment before a gap, put aside");
        std::fs::rename(&path, path.with_extension("unused"))?;
    }
    Ok(numbers)
}

fn read(path: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    File::open(path)?.read_to_end(bytes)?;
    Ok(())
}

/// Not synced: were it undone, the torn end would be found again and do as little harm.
fn truncate(path: &Path, len: u64) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.set_len(len)
}

/// One line and the metrics of a recovery.
fn report(config: &TableConfig, folder: &Path, found: &Found, took: Duration) {
    let table = || config.name.clone();
    gauge!(metrics::RECOVERY_SECONDS, "table" => table()).set(took.as_secs_f64());
    gauge!(metrics::RECOVERED_ITEMS, "table" => table()).set(found.items as f64);
    gauge!(metrics::DAMAGED_RECORDS, "table" => table()).set(found.damaged as f64);
    let Found {
        segments,
        items,
        inserts,
        samples,
        writers,
        torn_bytes,
        damaged,
        incomplete_items,
        removed,
        changed,
    } = found;
    let (name, folder, seconds) = (&config.name, folder.display(), took.as_secs_f64());
    if *damaged > 0 {
        tracing::warn!(
            table = name, %folder, seconds, segments, items, inserts, samples, writers, torn_bytes,
            damaged, incomplete_items, removed, ?changed,
            "replay is durable: recovered a damaged log, what the damaged stretches held is lost"
        );
    } else {
        tracing::info!(
            table = name, %folder, seconds, segments, items, inserts, samples, writers, torn_bytes,
            removed, ?changed, "replay is durable: recovered"
        );
    }
}
