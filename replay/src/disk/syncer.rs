//! Makes written bytes safe, away from the table's thread, and answers those who wait for that.
//!
//! A file that is no longer written is synced under every policy, and before the next one is: so a power
//! failure costs what was written lately, and where that begins can be read off the log.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::metrics::{counter, gauge};
use crossbeam::channel::{Receiver, Sender, bounded};

use super::{Copied, CopyLog, Segment, segment_name};
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
    /// These bytes, then this segment goes.
    Delete(Arc<Segment>, u32),
    /// These bytes, then they and the segments before get other names, which somebody waits for.
    Copy(Arc<Segment>, Copy),
}

struct Copy {
    segments: Vec<u32>,
    copied: Copied,
    asked: CopyLog,
}

impl Copy {
    /// A copy that fails does the log no harm.
    fn make(self, segment: &Segment) {
        let link = |&number: &u32| {
            let name = segment_name(number);
            segment.folder.link(&name, &self.asked.folder.join(&name))
        };
        let made = self.segments.iter().try_for_each(link);
        // Whoever asked may have gone.
        drop(self.asked.reply.send(made.map(|()| self.copied)));
    }
}

/// The table's thread's end.
pub(super) struct Syncer {
    fsync: Fsync,
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    /// Until it is spawned.
    worker: Option<Worker>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// A sync of the newest file is to come that covers what is being written now.
    pending: AtomicBool,
    /// All records up to this one are safe.
    safe: AtomicU64,
    error: Mutex<Option<io::Error>>,
}

impl Syncer {
    pub(super) fn new(config: &DiskConfig) -> Self {
        let (jobs, queue) = bounded(QUEUE);
        let shared = Arc::<Shared>::default();
        let worker = Worker {
            queue,
            shared: Arc::clone(&shared),
            pause: match config.fsync {
                Fsync::Interval => Duration::from_millis(config.fsync_interval_ms),
                Fsync::EachBatch | Fsync::Never => Duration::ZERO,
            },
        };
        Self {
            fsync: config.fsync,
            shared,
            jobs,
            worker: Some(worker),
            thread: None,
        }
    }

    pub(super) fn spawn(&mut self) -> io::Result<()> {
        if let Some(worker) = self.take_worker() {
            let thread = std::thread::Builder::new().name("replay-sync".to_owned());
            self.thread = Some(thread.spawn(move || worker.run())?);
        }
        Ok(())
    }

    pub(super) fn take_worker(&mut self) -> Option<Worker> {
        self.worker.take()
    }

    /// All records up to this one are safe.
    pub(super) fn safe(&self) -> u64 {
        self.shared.safe.load(Ordering::Acquire)
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

    /// What was moved out of the segment `dead`, to `segment` at last, has to be safe first.
    pub(super) fn delete(&self, segment: &Arc<Segment>, dead: u32) -> io::Result<()> {
        self.send(Job::Delete(Arc::clone(segment), dead))
    }

    /// All of these segments, of which `last` is the last and ended, are to be copied.
    pub(super) fn copy(
        &self,
        last: &Arc<Segment>,
        segments: Vec<u32>,
        copied: Copied,
        asked: CopyLog,
    ) -> io::Result<()> {
        let copy = Copy {
            segments,
            copied,
            asked,
        };
        self.send(Job::Copy(Arc::clone(last), copy))
    }

    /// Syncs what there is.
    pub(super) fn close(mut self, segment: &Arc<Segment>) -> io::Result<()> {
        self.ended(segment)?;
        drop(self.jobs);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            return Err(io::Error::other("the thread that syncs it has panicked"));
        }
        self.shared.check()
    }

    fn send(&self, job: Job) -> io::Result<()> {
        let Err(_) = self.jobs.send(job) else {
            return Ok(());
        };
        self.check()?;
        Err(io::Error::other("the thread that syncs it has ended"))
    }

    fn check(&self) -> io::Result<()> {
        self.shared.check()
    }
}

impl Shared {
    /// The error of the syncing thread, which has ended it.
    fn check(&self) -> io::Result<()> {
        let error = self.error.lock().expect("its holders do not panic").take();
        error.map_or(Ok(()), Err)
    }
}

/// The syncing thread's end.
pub(crate) struct Worker {
    queue: Receiver<Job>,
    shared: Arc<Shared>,
    pause: Duration,
}

impl Worker {
    fn run(self) {
        let mut last = Instant::now();
        while let Ok(first) = self.queue.recv() {
            let mut jobs = vec![first];
            // All that comes until the next sync is due, or somebody waits, and what is there already.
            while !matches!(jobs.last(), Some(Job::Copy(..)))
                && let Ok(job) = self.queue.recv_deadline(last + self.pause)
            {
                jobs.push(job);
            }
            last = Instant::now();
            if self.work(jobs).is_err() {
                return;
            }
        }
    }

    /// Does these jobs and those that are there already.
    fn work(&self, mut jobs: Vec<Job>) -> io::Result<()> {
        jobs.extend(self.queue.try_iter());
        // Before the sync: what is written from here on may come too late for it.
        self.shared.pending.store(false, Ordering::Release);
        self.sync(jobs).inspect_err(|error| {
            tracing::error!(%error, "syncing the log");
            let copy = error.raw_os_error().map(io::Error::from_raw_os_error);
            let copy = copy.unwrap_or_else(|| io::Error::other(error.to_string()));
            *self.shared.error.lock().expect("its holders do not panic") = Some(copy);
        })
    }

    /// One round, for a test.
    #[cfg(test)]
    pub(crate) fn round(&self) -> io::Result<()> {
        self.work(Vec::new())
    }

    fn sync(&self, jobs: Vec<Job>) -> io::Result<()> {
        let start = Instant::now();
        let mut synced: Vec<*const Segment> = Vec::new();
        // In the order in which they were written: the log is safe up to the end of the last.
        for job in &jobs {
            let (Job::Sync(segment, _) | Job::Delete(segment, _) | Job::Copy(segment, _)) = job;
            if !synced.contains(&Arc::as_ptr(segment)) {
                let written = segment.sync()?;
                self.shared.safe.fetch_max(written, Ordering::AcqRel);
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
                Job::Copy(segment, copy) => copy.make(&segment),
                Job::Delete(segment, dead) => {
                    segment.folder.unlink(&segment_name(dead))?;
                    // Each by itself: were a later one gone and this one not, there would be a hole.
                    segment.folder.sync()?;
                }
            }
        }
        Ok(())
    }
}
