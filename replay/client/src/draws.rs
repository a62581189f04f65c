//! What a sampler's thread and its tasks share: the batches drawn ahead, and whose is next.
//!
//! The shards take turns in proportion to their sizes. One whose turn it is and that has nothing at hand
//! is waited for, unless its rate limiter holds it back: then it gives what its limiter admits, whenever
//! that is, and the others go on meanwhile. So no shard sets the pace of another.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ::metrics::gauge;
use tokio::sync::Semaphore;

use crate::balance::Balance;
use crate::shares::Shares;
use crate::{ClientError, SampledBatch, metrics};

/// How long the shard whose turn it is may have nothing to give before it counts as held back.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// Reports for which a shard counts as held back after one that said so: its sampler may just have been
/// served when it is asked.
const HELD_REPORTS: u8 = 4;

/// The batches drawn ahead.
pub(crate) struct Draws {
    state: Mutex<State>,
    changed: Condvar,
    /// For each shard the free places in its queue that it has not been told about.
    free: Vec<Semaphore>,
}

struct State {
    shards: Vec<Shard>,
    balance: Balance,
    shares: Shares,
    /// Whose turn it is, and since when.
    turn: Option<(usize, Instant)>,
    ended: Option<ClientError>,
    /// Nobody will take a batch any more.
    abandoned: bool,
}

#[derive(Default)]
struct Shard {
    batches: VecDeque<SampledBatch>,
    /// Items it held by its newest answer.
    size: u64,
    open: bool,
    /// While above 0 it is held back, by its own word: it was so many reports ago, or it has kept the others
    /// waiting since.
    held: u8,
    /// Why it had nothing, in its own words.
    blocked: Option<String>,
}

impl Shard {
    /// Batches at hand count even if the shard has gone since, or gave its last items for them.
    fn weight(&self) -> u64 {
        if !self.batches.is_empty() {
            self.size.max(1)
        } else if self.held > 0 || !self.open {
            0
        } else {
            self.size
        }
    }
}

/// What the thread is to do.
pub(crate) enum Turn {
    /// Take this.
    Batch(Box<SampledBatch>),
    /// Wait for a change, or until then.
    Wait(Option<Instant>),
}

impl Draws {
    pub(crate) fn new(shards: usize, prefetch_batches: usize) -> Self {
        let state = State {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            balance: Balance::new(shards),
            shares: Shares::new(shards),
            turn: None,
            ended: None,
            abandoned: false,
        };
        let free = (0..shards).map(|_| Semaphore::new(prefetch_batches));
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            free: free.collect(),
        }
    }

    pub(crate) fn shards(&self) -> usize {
        self.free.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("holders of the lock do not panic")
    }

    /// The next batch, or what to wait for.
    pub(crate) fn turn(&self, now: Instant) -> Result<Turn, ClientError> {
        let mut state = self.lock();
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        let (taken, until) = state.next(now);
        let Some((shard, mut batch)) = taken else {
            return Ok(Turn::Wait(until));
        };
        state.shares.taken(shard);
        let sizes: Vec<u64> = state.shards.iter().map(|shard| shard.size).collect();
        batch.weight = state.shares.weight(shard, &sizes);
        drop(state);
        gauge!(metrics::PREFETCHED_BATCHES).decrement(1.0);
        self.free[shard].add_permits(1);
        Ok(Turn::Batch(Box::new(batch)))
    }

    /// Waits for a change.
    pub(crate) fn wait(&self, until: Instant) {
        let state = self.lock();
        if state.ended.is_none() && !state.ready() {
            let timeout = until.saturating_duration_since(Instant::now());
            drop(self.changed.wait_timeout(state, timeout));
        }
    }

    /// A free place in a shard's queue; it is the caller's to fill.
    pub(crate) async fn place(&self, shard: usize) {
        let permit = self.free[shard].acquire().await;
        permit.expect("the semaphore is never closed").forget();
    }

    /// A shard has accepted a stream, or is away.
    pub(crate) fn open(&self, shard: usize, open: bool) {
        self.lock().shards[shard].open = open;
        self.changed.notify_all();
    }

    /// A shard has said how many items it holds, and whether its limiter holds samples back.
    pub(crate) fn report(&self, shard: usize, size: u64, held: bool) {
        let mut state = self.lock();
        let entry = &mut state.shards[shard];
        entry.size = size;
        entry.held = match held {
            true => HELD_REPORTS,
            false => entry.held.saturating_sub(1),
        };
        drop(state);
        self.changed.notify_all();
    }

    /// A shard has said why it gives nothing.
    pub(crate) fn blocked(&self, shard: usize, reason: &str) {
        self.lock().shards[shard].blocked = Some(reason.to_owned());
    }

    /// Why the shards that give nothing do so.
    pub(crate) fn reasons(&self) -> Option<String> {
        let state = self.lock();
        let reasons = state
            .shards
            .iter()
            .filter_map(|shard| shard.blocked.clone());
        let reasons: Vec<String> = reasons.collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// A batch has arrived.
    pub(crate) fn deliver(&self, shard: usize, batch: SampledBatch) {
        let mut state = self.lock();
        if state.abandoned {
            return;
        }
        let entry = &mut state.shards[shard];
        entry.size = batch.counters.size;
        entry.open = true;
        entry.blocked = None;
        entry.batches.push_back(batch);
        drop(state);
        gauge!(metrics::PREFETCHED_BATCHES).increment(1.0);
        self.changed.notify_all();
    }

    /// The thread is gone.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.abandoned = true;
        let left: usize = state.shards.iter().map(|shard| shard.batches.len()).sum();
        gauge!(metrics::PREFETCHED_BATCHES).decrement(left as f64);
    }

    /// A guard that ends the sampler, for a task that may be dropped with its runtime.
    pub(crate) fn end_on_drop(self: &Arc<Self>) -> EndOnDrop {
        EndOnDrop(Arc::clone(self))
    }

    /// Only the first reason counts.
    fn end(&self, error: ClientError) {
        self.lock().ended.get_or_insert(error);
        self.changed.notify_all();
    }
}

impl State {
    fn ready(&self) -> bool {
        match self.turn {
            Some((shard, _)) => {
                self.shards[shard].held > 0 || !self.shards[shard].batches.is_empty()
            }
            None => self.shards.iter().any(|shard| shard.weight() > 0),
        }
    }

    /// The batch of the shard whose turn it is; until when to wait for it if there is none.
    fn next(&mut self, now: Instant) -> (Option<(usize, SampledBatch)>, Option<Instant>) {
        loop {
            let (shard, since) = match self.turn {
                Some(turn) => turn,
                None => {
                    let weights = self.shards.iter().map(Shard::weight);
                    let Some(shard) = self.balance.next(weights) else {
                        return (None, None);
                    };
                    *self.turn.insert((shard, now))
                }
            };
            let entry = &mut self.shards[shard];
            if let Some(batch) = entry.batches.pop_front() {
                self.turn = None;
                return (Some((shard, batch)), None);
            }
            let until = since + PATIENCE;
            if entry.open && entry.held == 0 && now < until {
                return (None, Some(until));
            }
            entry.held = HELD_REPORTS;
            self.turn = None;
        }
    }
}

/// Ends the sampler when its task does.
pub(crate) struct EndOnDrop(Arc<Draws>);

impl EndOnDrop {
    pub(crate) fn with(&self, error: ClientError) {
        self.0.end(error);
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(ClientError::Shutdown);
    }
}
