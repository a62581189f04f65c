//! Makes written bytes safe, away from the table's thread, and answers those who wait for that.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::metrics::{counter, gauge};
use crossbeam::channel::{Receiver, Sender, bounded};

use super::Segment;
use crate::config::{DiskConfig, Fsync};
use crate::metrics;
use crate::owner::Release;

/// Jobs that may wait. Streams wait for a few answers at a time and segments are few, so the table's thread
/// waits for room only where the disk is far behind.
const QUEUE: usize = 1024;

/// What there is to do.
enum Job {
    /// These bytes, then these answers.
    Sync(Arc<Segment>, Vec<Release>),
    /// These bytes, then this file goes.
    Delete(Arc<Segment>, PathBuf),
}

pub(super) struct Syncer {
    fsync: Fsync,
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// A sync of the newest file is to come that covers what is being written now.
    pending: AtomicBool,
    error: Mutex<Option<io::Error>>,
}

impl Syncer {
    pub(super) fn spawn(config: &DiskConfig) -> io::Result<Self> {
        let (jobs, queue) = bounded(QUEUE);
        let shared = Arc::<Shared>::default();
        let fsync = config.fsync;
        let pause = match fsync {
            Fsync::Interval => Duration::from_millis(config.fsync_interval_ms),
            Fsync::EachBatch | Fsync::Never => Duration::ZERO,
        };
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("replay-sync".to_owned())
            .spawn(move || run(&queue, &theirs, fsync, pause))?;
        Ok(Self {
            fsync,
            shared,
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// The table's thread has written to `segment`; `waiting` are answered when the policy's promise
    /// holds.
    pub(super) fn written(
        &self,
        segment: &Arc<Segment>,
        anything: bool,
        waiting: Vec<Release>,
    ) -> io::Result<()> {
        self.check()?;
        if self.fsync == Fsync::EachBatch {
            // A batch that was drawn promises nothing: losing its count with the machine does no harm.
            let (wait, go): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(Release::promises_to_keep);
            go.into_iter().for_each(Release::release);
            if wait.is_empty() {
                return Ok(());
            }
            return self.send(Job::Sync(Arc::clone(segment), wait));
        }
        waiting.into_iter().for_each(Release::release);
        if self.fsync == Fsync::Interval
            && anything
            && !self.shared.pending.swap(true, Ordering::AcqRel)
        {
            self.send(Job::Sync(Arc::clone(segment), Vec::new()))?;
        }
        Ok(())
    }

    /// Nothing more will be written to `segment`.
    pub(super) fn ended(&self, segment: &Arc<Segment>) -> io::Result<()> {
        // The next write is to another file, which a pending sync does not cover.
        self.shared.pending.store(false, Ordering::Release);
        self.send(Job::Sync(Arc::clone(segment), Vec::new()))
    }

    pub(super) fn delete(&self, after: &Arc<Segment>, path: PathBuf) -> io::Result<()> {
        self.send(Job::Delete(Arc::clone(after), path))
    }

    fn send(&self, job: Job) -> io::Result<()> {
        let jobs = self.jobs.as_ref().expect("it is open until it is dropped");
        match jobs.send(job) {
            Ok(()) => Ok(()),
            Err(_) => self.check(),
        }
    }

    /// The first error of the syncing thread, which ends it.
    fn check(&self) -> io::Result<()> {
        let error = self
            .shared
            .error
            .lock()
            .expect("its holders do not panic")
            .take();
        error.map_or(Ok(()), Err)
    }
}

impl Drop for Syncer {
    /// Syncs what there is.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that syncs the log has panicked");
        }
    }
}

fn run(queue: &Receiver<Job>, shared: &Shared, fsync: Fsync, pause: Duration) {
    let mut last = Instant::now();
    while let Ok(first) = queue.recv() {
        let mut jobs = vec![first];
        collect(queue, &mut jobs, last + pause);
        last = Instant::now();
        // Before the sync: what is written from here on may come too late for it.
        shared.pending.store(false, Ordering::Release);
        if let Err(error) = work(jobs, fsync) {
            tracing::error!(%error, "syncing the log");
            *shared.error.lock().expect("its holders do not panic") = Some(error);
            return;
        }
    }
}

/// All that comes until `due`, and what is there already.
fn collect(queue: &Receiver<Job>, jobs: &mut Vec<Job>, due: Instant) {
    while let Ok(job) = queue.recv_deadline(due) {
        jobs.push(job);
    }
    jobs.extend(queue.try_iter());
}

fn work(jobs: Vec<Job>, fsync: Fsync) -> io::Result<()> {
    let start = Instant::now();
    let mut synced: Vec<*const Segment> = Vec::new();
    for job in &jobs {
        let (Job::Sync(segment, _) | Job::Delete(segment, _)) = job;
        if fsync != Fsync::Never && !synced.contains(&Arc::as_ptr(segment)) {
            segment.sync()?;
            synced.push(Arc::as_ptr(segment));
        }
    }
    if !synced.is_empty() {
        counter!(metrics::SYNCS).increment(1);
        gauge!(metrics::SYNC_SECONDS).set(start.elapsed().as_secs_f64());
    }
    for job in jobs {
        match job {
            Job::Sync(_, waiting) => waiting.into_iter().for_each(Release::release),
            Job::Delete(_, path) => std::fs::remove_file(path)?,
        }
    }
    Ok(())
}
