//! What a start finds in the data directory.
//!
//! What was read came through the system's cache, and says nothing about the disk: the process before this
//! one may have been killed between writing and syncing, or have ended because a sync had failed, after
//! which the system takes the pages for clean and would never write them again. So every segment with
//! records that the log does not itself say to be safe is written anew, and synced, before anybody is told
//! that they are stored.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::gauge;
use pmpo_replay_core::{Believed, Found, Restorer, Table, TableConfig, is_of_an_older_version};
use pmpo_service::folder_lock::FolderLock;

use super::files::{Files, Folder, SystemFiles, make_folder};
use super::{Disk, segment_name};
use crate::ReplayError;
use crate::config::DiskConfig;
use crate::metrics;

/// Behind the name of a segment while it is written anew.
const NEW: &str = ".new";

/// The data directory is one process's alone. Makes it if there is none.
pub(crate) fn lock(data_dir: &Path) -> Result<FolderLock, ReplayError> {
    make_folder(&SystemFiles, data_dir).map_err(|source| ReplayError::disk(data_dir, source))?;
    Ok(FolderLock::take(data_dir, "pmpo replay")?)
}

/// A table out of its folder, and where its log goes on.
pub(crate) struct Recovered {
    pub(crate) table: Table,
    pub(crate) disk: Disk,
    pub(crate) found: Found,
    folder: PathBuf,
    took: Duration,
}

/// Recovers a table. What is refused has changed nothing.
pub(crate) fn recover(
    files: &dyn Files,
    data_dir: &Path,
    config: TableConfig,
    disk: &DiskConfig,
    seed: u64,
) -> Result<Recovered, ReplayError> {
    let start = Instant::now();
    let path = data_dir.join(&config.name);
    let error = |source| ReplayError::disk(&path, source);
    make_folder(files, &path).map_err(error)?;
    let folder: Arc<dyn Folder> = files.folder(&path).map_err(error)?.into();
    let segments = segments(&*folder).map_err(error)?;
    let mut restorer = Restorer::new(config)?;
    // One buffer for all: fresh memory for each segment would cost more than reading it.
    let mut bytes = Vec::new();
    for &number in segments.iter().rev() {
        folder
            .read(&segment_name(number), &mut bytes)
            .map_err(error)?;
        if is_of_an_older_version(&bytes) {
            let message = "written by an older version, whose log this one cannot read; choose another \
                           data directory";
            return Err(error(io::Error::other(message)));
        }
        if restorer.survey(&bytes) {
            break;
        }
    }
    let mut sizes = BTreeMap::new();
    for number in segments {
        folder
            .read(&segment_name(number), &mut bytes)
            .map_err(error)?;
        restorer.scan(number, &bytes)?;
        sizes.insert(number, bytes.len());
    }
    let believed = restorer.believed();
    let mut loader = restorer.finish(seed)?;
    make_safe(&*folder, &path, &mut sizes, believed).map_err(error)?;
    for &number in sizes.keys() {
        folder
            .read(&segment_name(number), &mut bytes)
            .map_err(error)?;
        loader.load(number, &bytes);
    }
    let (mut table, found) = loader.finish();
    let sizes = sizes
        .into_iter()
        .map(|(n, bytes)| (n, bytes as u64))
        .collect();
    let disk = Disk::start(folder, disk.clone(), sizes, &mut table).map_err(error)?;
    Ok(Recovered {
        table,
        disk,
        found,
        folder: path,
        took: start.elapsed(),
    })
}

/// Numbers of the segments, oldest first.
fn segments(folder: &dyn Folder) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for name in folder.list()? {
        let number = name.strip_suffix(".log").and_then(|n| n.parse().ok());
        numbers.extend(number.filter(|&number| segment_name(number) == name));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes what is believed safe, and what is not believed go, so that it cannot come back either.
fn make_safe(
    folder: &dyn Folder,
    path: &Path,
    sizes: &mut BTreeMap<u32, usize>,
    believed: Option<Believed>,
) -> io::Result<()> {
    let end = believed.map(|believed| believed.segment);
    let mut changed = false;
    for name in folder.list()? {
        if name.ends_with(NEW) {
            folder.unlink(&name)?;
        }
    }
    let mut bytes = Vec::new();
    for (&number, len) in &mut *sizes {
        let name = segment_name(number);
        let kept = match believed {
            Some(believed) if number < believed.segment => *len,
            Some(believed) if number == believed.segment => believed.bytes,
            _ => 0,
        };
        if kept < *len {
            tracing::warn!(
                path = %path.join(&name).display(), bytes = *len, kept,
                "the log ends here: a part of what follows is missing, and nobody was told that it is safe"
            );
        }
        if Some(number) > end {
            folder.unlink(&name)?;
            changed = true;
        } else if kept < *len || believed.is_some_and(|b| number >= b.unproven_from) {
            folder.read(&name, &mut bytes)?;
            let new = format!("{name}{NEW}");
            let file = folder.create(&new)?;
            file.append(&bytes[..kept])?;
            file.sync()?;
            folder.rename(&new, &name)?;
            changed = true;
        }
        *len = kept;
    }
    sizes.retain(|&number, _| Some(number) <= end);
    if changed {
        folder.sync()?;
    }
    Ok(())
}
impl Recovered {
    /// One line and the metrics of what was found.
    pub(crate) fn report(&self) {
        let (found, name) = (&self.found, &self.table.config().name);
        let (folder, seconds) = (self.folder.display(), self.took.as_secs_f64());
        let table = || name.clone();
        gauge!(metrics::RECOVERY_SECONDS, "table" => table()).set(seconds);
        gauge!(metrics::RECOVERED_ITEMS, "table" => table()).set(found.items as f64);
        gauge!(metrics::DAMAGED_RECORDS, "table" => table()).set(found.damaged as f64);
        if found.removed > 0 {
            tracing::warn!(
                table = name, %folder, removed = found.removed, held = found.items - found.removed,
                "items that the configuration in force has no room for have been removed"
            );
        }
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
}
