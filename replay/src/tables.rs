//! All tables of the service: opened together, stopped together.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use ::metrics::gauge;
use pmpo_replay_core::Table;
use pmpo_service::files;
use pmpo_service::folder_lock::FolderLock;
use pmpo_types::{Generator, derive_seed};
use tokio::task::JoinSet;

use crate::config::ReplayConfig;
use crate::disk::files::SystemFiles;
use crate::disk::{lock, recover};
use crate::error::ReplayError;
use crate::metrics;
use crate::owner::Bounds;
use crate::run_name::RunName;
use crate::table::{TableHandle, spawn};

/// How often gauges and counters are brought up to date.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the room in the file system is asked for.
const SPACE_INTERVAL: Duration = Duration::from_secs(5);

/// The tables' threads.
pub(crate) struct Tables {
    pub(crate) handles: BTreeMap<String, TableHandle>,
    threads: Vec<(String, JoinHandle<io::Result<()>>)>,
    data_dir: Option<PathBuf>,
    /// Whose they are.
    pub(crate) run: RunName,
    /// Held for as long as they write to the data directory.
    _lock: Option<FolderLock>,
}

impl Tables {
    /// Makes all tables, or recovers them.
    pub(crate) fn open(config: &ReplayConfig) -> Result<Self, ReplayError> {
        let mut tables = Self {
            handles: BTreeMap::new(),
            threads: Vec::new(),
            data_dir: config.data_dir.clone(),
            _lock: config.data_dir.as_deref().map(lock).transpose()?,
            run: RunName::read(config.data_dir.as_deref())?,
        };
        if let Some(data_dir) = &config.data_dir {
            warn_of_strangers(data_dir, config)?;
        }
        let mut opened = Vec::new();
        for (i, table) in config.all_tables().enumerate() {
            let seed = derive_seed(config.seed, Generator::Replay, i as u64);
            opened.push(match &config.data_dir {
                None => {
                    let name = &table.name;
                    tracing::info!(table = name, "replay is in memory: a restart begins anew");
                    (Table::new(table.clone(), seed)?, None)
                }
                Some(data_dir) => {
                    let recovered =
                        recover(&SystemFiles, data_dir, table.clone(), &config.disk, seed)?;
                    recovered.report();
                    (recovered.table, Some(recovered.disk))
                }
            });
        }
        for (table, mut disk) in opened {
            if let Some(disk) = &mut disk {
                disk.spawn_syncer()?;
            }
            let name = table.config().name.clone();
            let (handle, thread) = spawn(table, disk, config.command_queue, Bounds::from(config))?;
            tables.handles.insert(name.clone(), handle);
            tables.threads.push((name, thread));
        }
        Ok(tables)
    }

    /// Keeps the metrics up to date; returns when a table's thread is gone.
    pub(crate) async fn keep_metrics(&self) {
        let mut keepers = JoinSet::new();
        for handle in self.handles.values() {
            let handle = handle.clone();
            keepers.spawn(async move { handle.keep_metrics(METRICS_INTERVAL).await });
        }
        if let Some(data_dir) = self.data_dir.clone() {
            keepers.spawn(watch_space(data_dir));
        }
        keepers.join_next().await;
    }

    /// Ends all threads, and answers the first failure of one.
    pub(crate) async fn stop(self) -> Result<(), ReplayError> {
        for handle in self.handles.values() {
            handle.stop().await;
        }
        let mut failure = None;
        for (name, thread) in self.threads {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            let failed = match joined {
                Ok(Ok(Ok(()))) => continue,
                Ok(Ok(Err(source))) => ReplayError::Log {
                    table: name,
                    source,
                },
                _ => ReplayError::TableThread(name),
            };
            failure.get_or_insert(failed);
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Tells how much room is left for the log; never returns.
async fn watch_space(data_dir: PathBuf) {
    let mut ticks = tokio::time::interval(SPACE_INTERVAL);
    loop {
        ticks.tick().await;
        let folder = data_dir.clone();
        let asked = tokio::task::spawn_blocking(move || files::space(&folder)).await;
        // Where the system does not say, the last answer stands; writing would fail soon enough.
        if let Ok(Ok(space)) = asked {
            gauge!(metrics::FREE_BYTES).set(space.free_bytes as f64);
            gauge!(metrics::SIZE_BYTES).set(space.size_bytes as f64);
        }
    }
}

/// What else the data directory holds, for instance tables of another configuration.
fn warn_of_strangers(data_dir: &Path, config: &ReplayConfig) -> Result<(), ReplayError> {
    let error = |source| ReplayError::disk(data_dir, source);
    let ours: BTreeSet<&str> = config.all_tables().map(|table| &table.name[..]).collect();
    for entry in std::fs::read_dir(data_dir).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && !ours.contains(&name[..]) {
            tracing::warn!(%name, "the data directory holds what no table of now uses");
        }
    }
    Ok(())
}
