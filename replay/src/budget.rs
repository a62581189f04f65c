//! Memory that a table takes beside the items it holds: one number of bytes, in parts for what is on its
//! way in, on its way out, and kept for writers that are gone. Whoever needs some takes it before the bytes
//! are there and waits where there is none, in turn.
//!
//! The parts are apart because their owners wait for each other: samples that the rate limiter holds
//! back wait for inserts, which must not wait for their memory, nor the other way round.

use std::sync::Arc;

use ::metrics::gauge;
use pmpo_service::grpc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics;

/// What a permit stands for: at a time 32 bits of them can be taken.
const UNIT_BYTES: u64 = 1 << 10;

/// What a writer's stream may hold that no message's share covers: what HTTP/2 lets its peer send ahead,
/// and a frame.
pub(crate) const STREAM_BYTES: u64 =
    grpc::SERVER_WINDOW_BYTES as u64 + grpc::SERVER_FRAME_BYTES as u64;

/// The budget of one table.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// Writers' streams, [`STREAM_BYTES`] each.
    pub(crate) streams: Pool,
    /// Their messages, from the first byte until they are stored and, with a disk, safe.
    pub(crate) inserts: Pool,
    /// Batches, from before they are drawn until they are sent.
    pub(crate) samples: Pool,
    /// Steps that are kept for the next items of writers, and of no item.
    pub(crate) tails_bytes: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            streams: Pool::new(bytes / 2),
            inserts: Pool::new(bytes / 4),
            samples: Pool::new(bytes / 8),
            tails_bytes: bytes / 8,
        }
    }

    /// Tells how much is in use.
    pub(crate) fn show(&self, table: &str, tails: u64) {
        let uses = [
            ("streams", self.streams.used()),
            ("inserts", self.inserts.used()),
            ("samples", self.samples.used()),
            ("tails", tails),
        ];
        for (used_by, bytes) in uses {
            let labels = [("table", table.to_owned()), ("use", used_by.to_owned())];
            gauge!(metrics::TRANSIT_BYTES, &labels).set(bytes as f64);
        }
    }
}

/// A part of a budget.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    free: Arc<Semaphore>,
    units: u32,
}

/// Bytes taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(units as usize)),
            units,
        }
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.units) * UNIT_BYTES
    }

    /// What is in use.
    pub(crate) fn used(&self) -> u64 {
        let free = self.free.available_permits() as u64 * UNIT_BYTES;
        self.bytes().saturating_sub(free)
    }

    fn units(&self, bytes: u64) -> Option<u32> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).ok()?;
        (units <= self.units).then_some(units)
    }

    /// Takes so many bytes, once there are; `None` where there never are so many.
    pub(crate) async fn take(self, bytes: u64) -> Option<Share> {
        let units = self.units(bytes)?;
        let permit = self.free.acquire_many_owned(units).await;
        let _permit = permit.expect("the semaphore is never closed");
        Some(Share { _permit })
    }

    /// Takes so many bytes if there are.
    pub(crate) fn try_take(&self, bytes: u64) -> Option<Share> {
        let units = self.units(bytes)?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(units);
        permit.ok().map(|_permit| Share { _permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_taken_is_counted_and_comes_back() {
        let pool = Budget::new(8 << 20).samples;
        assert_eq!((pool.bytes(), pool.used()), (1 << 20, 0));
        let most = pool.clone().take((1 << 20) - 1024).await.unwrap();
        assert_eq!(pool.used(), (1 << 20) - 1024);
        assert!(pool.try_take(1025).is_none());
        let last = pool.try_take(1).unwrap();
        assert_eq!(pool.used(), 1 << 20);
        drop((most, last));
        assert_eq!(pool.used(), 0);
        assert!(pool.clone().take((1 << 20) + 1).await.is_none());
    }

    /// A large share is not overtaken for ever by small ones.
    #[tokio::test]
    async fn who_waits_is_served_in_turn() {
        let pool = Budget::new(8 << 20).samples;
        let held = pool.try_take(1 << 19).unwrap();
        let large = tokio::spawn(pool.clone().take(1 << 20));
        tokio::task::yield_now().await;
        assert!(pool.try_take(1024).is_none());
        drop(held);
        assert!(large.await.unwrap().is_some());
    }
}
