//! All tables of the service: opened together, created and copied while they are served, stopped together.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::metrics::gauge;
use pmpo_replay_core::{Table, TableConfig};
use pmpo_service::files;
use pmpo_service::folder_lock::FolderLock;
use pmpo_types::{Generator, derive_seed};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::checkpoint::Checkpoint;
use crate::config::ReplayConfig;
use crate::created;
use crate::disk::files::SystemFiles;
use crate::disk::{Copied, Disk, lock, recover};
use crate::error::{ReplayError, failed, refusal, shutting_down};
use crate::metrics;
use crate::owner::Bounds;
use crate::run_name::RunName;
use crate::table::{Description, TableHandle, spawn};
use crate::wire::config_to_wire;

/// How often gauges and counters are brought up to date.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the room in the file system is asked for.
const SPACE_INTERVAL: Duration = Duration::from_secs(5);

/// A cheap handle to all tables.
#[derive(Clone)]
pub(crate) struct Tables(Arc<Inner>);

struct Inner {
    config: ReplayConfig,
    /// Whose they are.
    run: RunName,
    served: RwLock<BTreeMap<String, TableHandle>>,
    /// A table's thread is gone.
    lost: CancellationToken,
    /// Held, by a thread that may wait, for as long as a table is created or all are copied; gone once the
    /// service stops.
    kept: Mutex<Option<Kept>>,
}

/// What is kept until the service stops.
struct Kept {
    /// Tables that the configuration does not have.
    created: Vec<TableConfig>,
    threads: Vec<Thread>,
    /// Held for as long as they write to the data directory.
    _lock: Option<FolderLock>,
}

type Thread = (String, JoinHandle<io::Result<()>>);

impl Tables {
    /// Makes all tables, or recovers them. Within a runtime, on a thread that may wait.
    pub(crate) fn open(config: ReplayConfig) -> Result<Self, ReplayError> {
        let data_dir = config.data_dir.as_deref();
        let _lock = data_dir.map(lock).transpose()?;
        let run = RunName::read(data_dir)?;
        let mut created = data_dir.map_or_else(|| Ok(Vec::new()), created::read)?;
        created.retain(|table| config.all_tables().all(|own| own.name != table.name));
        let all: Vec<TableConfig> = config.all_tables().chain(&created).cloned().collect();
        if let Some(data_dir) = data_dir {
            warn_of_strangers(data_dir, &all)?;
        }
        let tables = Self(Arc::new(Inner {
            config,
            run,
            served: RwLock::default(),
            lost: CancellationToken::new(),
            kept: Mutex::new(None),
        }));
        let mut opened = Vec::new();
        for (i, table) in all.into_iter().enumerate() {
            opened.push(tables.open_table(table, i)?);
        }
        let start = |(table, disk)| tables.start(table, disk);
        let started: Vec<_> = opened.into_iter().map(start).collect::<Result<_, _>>()?;
        let serve = |(handle, thread)| tables.serve(handle, thread);
        *tables.kept() = Some(Kept {
            created,
            threads: started.into_iter().map(serve).collect(),
            _lock,
        });
        Ok(tables)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        // Whatever ends a creation, it is as it was: it changes when nothing can fail any more.
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose the tables are.
    pub(crate) fn run(&self) -> &RunName {
        &self.0.run
    }

    /// All that are served, in the order of their names.
    pub(crate) fn all(&self) -> Vec<TableHandle> {
        let served = self.0.served.read().expect("its holders do not panic");
        served.values().cloned().collect()
    }

    pub(crate) fn named(&self, name: &str) -> Result<TableHandle, Status> {
        let served = self.0.served.read().expect("its holders do not panic");
        served.get(name).cloned().ok_or_else(|| {
            let names: Vec<String> = served.keys().map(|name| format!("`{name}`")).collect();
            let names = names.join(" or ");
            let message = format!("table: expected {names}, got `{name}`");
            refusal(Code::NotFound, "TABLE_NOT_FOUND", message)
        })
    }

    /// Makes or recovers the table that is the `index`th.
    fn open_table(
        &self,
        table: TableConfig,
        index: usize,
    ) -> Result<(Table, Option<Disk>), ReplayError> {
        let config = &self.0.config;
        let seed = derive_seed(config.seed, Generator::Replay, index as u64);
        let Some(data_dir) = &config.data_dir else {
            let name = &table.name;
            tracing::info!(table = name, "replay is in memory: a restart begins anew");
            return Ok((Table::new(table, seed)?, None));
        };
        let recovered = recover(&SystemFiles, data_dir, table, &config.disk, seed)?;
        recovered.report();
        Ok((recovered.table, Some(recovered.disk)))
    }

    /// Gives a table its threads, which end when its handle is dropped.
    fn start(
        &self,
        table: Table,
        mut disk: Option<Disk>,
    ) -> Result<(TableHandle, Thread), ReplayError> {
        if let Some(disk) = &mut disk {
            disk.spawn_syncer()?;
        }
        let (config, name) = (&self.0.config, table.config().name.clone());
        let (handle, thread) = spawn(table, disk, config.command_queue, Bounds::from(config))?;
        Ok((handle, (name, thread)))
    }

    /// Lets everybody have a table that has been started.
    fn serve(&self, handle: TableHandle, thread: Thread) -> Thread {
        let (keeper, lost) = (handle.clone(), self.0.lost.clone());
        tokio::spawn(async move {
            keeper.keep_metrics(METRICS_INTERVAL).await;
            lost.cancel();
        });
        let mut served = self.0.served.write().expect("its holders do not panic");
        served.insert(thread.0.clone(), handle);
        thread
    }

    /// Makes a table, unless there is one of this name and configuration, and says what it is.
    pub(crate) async fn create(&self, config: TableConfig) -> Result<Description, Status> {
        let (tables, wanted) = (self.clone(), config_to_wire(&config));
        // Whoever asked may go meanwhile: it is done to its end all the same.
        let table = spawn_blocking(move || tables.find_or_make(config)).await;
        let table = table.map_err(failed)??;
        let description = table.describe().await?;
        let there = config_to_wire(&description.config);
        if there != wanted {
            let name = table.name();
            let message = format!(
                "config: expected that of the table `{name}` which is there, as ListTables says it, got \
                 another"
            );
            return Err(refusal(Code::AlreadyExists, "TABLE_EXISTS", message));
        }
        Ok(description)
    }

    fn find_or_make(&self, config: TableConfig) -> Result<TableHandle, Status> {
        let mut kept = self.kept();
        let kept = kept.as_mut().ok_or_else(shutting_down)?;
        if let Ok(table) = self.named(&config.name) {
            return Ok(table);
        }
        let most = self.0.config.max_tables;
        if kept.threads.len() >= most {
            let message = format!("max_tables: there are {most} tables, no more fit");
            return Err(refusal(
                Code::FailedPrecondition,
                "TOO_MANY_TABLES",
                message,
            ));
        }
        let folder = self
            .0
            .config
            .data_dir
            .as_ref()
            .map(|data_dir| data_dir.join(&config.name));
        let was_there = folder.as_ref().is_some_and(|folder| folder.exists());
        let made = self.make(config, kept);
        if let (Err(_), Some(folder), false) = (&made, folder, was_there) {
            remove(&folder);
        }
        made
    }

    /// What the next start makes of the data directory changes last, when nothing can fail any more.
    fn make(&self, config: TableConfig, kept: &mut Kept) -> Result<TableHandle, Status> {
        let opened = self.open_table(config.clone(), kept.threads.len());
        let (table, disk) = opened.map_err(failed)?;
        let (name, inserts) = (&config.name, table.counters().inserts);
        if inserts > 0 {
            let message = format!(
                "config.name: expected none that was served before, got `{name}`, of which the data \
                 directory has {inserts} inserts; configure it, or remove its folder"
            );
            return Err(refusal(Code::AlreadyExists, "TABLE_EXISTS", message));
        }
        let (handle, thread) = self.start(table, disk).map_err(failed)?;
        let mut created = kept.created.clone();
        created.push(config);
        if let Some(data_dir) = &self.0.config.data_dir
            && let Err(error) = created::write(data_dir, created.clone())
        {
            drop(handle);
            // Its folder is not removed under it.
            drop(thread.1.join());
            return Err(failed(ReplayError::disk(data_dir, error)));
        }
        kept.created = created;
        kept.threads.push(self.serve(handle.clone(), thread));
        tracing::info!(table = handle.name(), "table created");
        Ok(handle)
    }

    /// Copies all tables, and removes copies but the newest `keep`, if that is not 0; answers where they are
    /// and what was copied.
    pub(crate) async fn checkpoint(
        &self,
        keep: usize,
    ) -> Result<(PathBuf, Vec<(String, Copied)>), Status> {
        let tables = self.clone();
        // As a creation, to its end.
        let made = spawn_blocking(move || tables.copy(keep)).await;
        made.map_err(failed)?
    }

    fn copy(&self, keep: usize) -> Result<(PathBuf, Vec<(String, Copied)>), Status> {
        let start = Instant::now();
        let kept = self.kept();
        let kept = kept.as_ref().ok_or_else(shutting_down)?;
        let data_dir = self.0.config.data_dir.as_ref().ok_or_else(|| {
            let message = "data_dir: expected a server that has one, to copy it, got none";
            refusal(Code::FailedPrecondition, "NO_DATA_DIR", message)
        })?;
        let error = |source| failed(ReplayError::disk(data_dir, source));
        let mut checkpoint = Checkpoint::begin(&SystemFiles, data_dir).map_err(error)?;
        let copied = self.copy_to(&mut checkpoint, kept).and_then(|copied| {
            let path = checkpoint.finish().map_err(error)?;
            Ok((std::path::absolute(path).map_err(error)?, copied))
        });
        let (path, copied) = copied.inspect_err(|_| checkpoint.remove())?;
        if keep > 0 {
            checkpoint.remove_older(keep);
        }
        let seconds = start.elapsed().as_secs_f64();
        tracing::info!(path = %path.display(), tables = copied.len(), seconds, "checkpoint");
        Ok((path, copied))
    }

    /// Each table as it is when its turn comes: they share nothing that would have to be of one instant.
    fn copy_to(
        &self,
        checkpoint: &mut Checkpoint<'_>,
        kept: &Kept,
    ) -> Result<Vec<(String, Copied)>, Status> {
        self.0.run.write(checkpoint.folder()).map_err(failed)?;
        created::write(checkpoint.folder(), kept.created.clone()).map_err(failed)?;
        let mut all = Vec::new();
        for table in self.all() {
            let folder = checkpoint.table(table.name()).map_err(failed)?;
            let copied = Handle::current().block_on(table.copy(folder))?;
            let error = |error| failed(format!("log of table `{}`: {error}", table.name()));
            all.push((table.name().to_owned(), copied.map_err(error)?));
        }
        Ok(all)
    }

    /// Keeps the metrics up to date; returns when a table's thread is gone.
    pub(crate) async fn keep_metrics(&self) {
        let space = async {
            match self.0.config.data_dir.clone() {
                Some(data_dir) => watch_space(data_dir).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.0.lost.cancelled() => {}
            () = space => {}
        }
    }

    /// Ends all threads, and answers the first failure of one.
    pub(crate) async fn stop(&self) -> Result<(), ReplayError> {
        let tables = self.clone();
        let kept = spawn_blocking(move || tables.kept().take()).await;
        let Ok(Some(Kept { threads, _lock, .. })) = kept else {
            return Ok(());
        };
        for handle in self.all() {
            handle.stop().await;
        }
        let mut failure = None;
        for (name, thread) in threads {
            let joined = spawn_blocking(move || thread.join()).await;
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

/// Removes the folder of a table that was not to be.
fn remove(folder: &Path) {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let path = folder.display();
            tracing::warn!(%path, %error, "the folder of a table that was refused is left over");
        }
        _ => {}
    }
}

/// Tells how much room is left for the log; never returns.
async fn watch_space(data_dir: PathBuf) {
    let mut ticks = tokio::time::interval(SPACE_INTERVAL);
    loop {
        ticks.tick().await;
        let folder = data_dir.clone();
        let asked = spawn_blocking(move || files::space(&folder)).await;
        // Where the system does not say, the last answer stands; writing would fail soon enough.
        if let Ok(Ok(space)) = asked {
            gauge!(metrics::FREE_BYTES).set(space.free_bytes as f64);
            gauge!(metrics::SIZE_BYTES).set(space.size_bytes as f64);
        }
    }
}

/// What else the data directory holds, for instance tables of another configuration.
fn warn_of_strangers(data_dir: &Path, tables: &[TableConfig]) -> Result<(), ReplayError> {
    let error = |source| ReplayError::disk(data_dir, source);
    let ours: BTreeSet<&str> = tables.iter().map(|table| &table.name[..]).collect();
    for entry in std::fs::read_dir(data_dir).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && !ours.contains(&name[..]) {
            tracing::warn!(%name, "the data directory holds what no table of now uses");
        }
    }
    Ok(())
}
