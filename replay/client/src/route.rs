//! Which of several shards a writer inserts into. Pure: time is what the caller says.
//!
//! Shards are in the writer's order of preference, the first is its home. It inserts into the first
//! that is open. A shard that stays away for [`FAILOVER_AFTER`] has the next one tried; when none is
//! open, what is pushed waits where it was pushed last. Shards never tried have no connection, so a
//! writer costs a shard nothing until it needs it.

use std::time::{Duration, Instant};

/// How long a shard is waited for before another is tried; a restart on the same machine is faster.
pub(crate) const FAILOVER_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    /// Never tried.
    Untried,
    Away {
        since: Instant,
    },
    Open,
}

/// The shards' health, and the one in use.
#[derive(Debug)]
pub(crate) struct Route {
    shards: Vec<Health>,
    current: usize,
}

impl Route {
    /// A route over `shards` shards whose home is being connected to.
    pub(crate) fn new(shards: usize, now: Instant) -> Self {
        let mut shards = vec![Health::Untried; shards];
        shards[0] = Health::Away { since: now };
        Self { shards, current: 0 }
    }

    /// The shard to insert into.
    pub(crate) fn current(&self) -> usize {
        self.current
    }

    /// A shard has accepted a stream.
    pub(crate) fn opened(&mut self, shard: usize) {
        self.shards[shard] = Health::Open;
        self.choose();
    }

    /// A connection was lost, or not made; answers a shard to connect to in its place.
    pub(crate) fn failed(&mut self, shard: usize, now: Instant) -> Option<usize> {
        if !matches!(self.shards[shard], Health::Away { .. }) {
            self.shards[shard] = Health::Away { since: now };
        }
        self.choose();
        let patience = |health: &Health| match health {
            Health::Open => true,
            Health::Away { since } => now.duration_since(*since) < FAILOVER_AFTER,
            Health::Untried => false,
        };
        if self.shards.iter().any(patience) {
            return None;
        }
        let next = self.shards.iter().position(|&h| h == Health::Untried)?;
        self.shards[next] = Health::Away { since: now };
        Some(next)
    }

    /// Takes the first open shard.
    fn choose(&mut self) {
        let open = self.shards.iter().position(|&h| h == Health::Open);
        self.current = open.unwrap_or(self.current);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_stays_away_is_left_and_taken_back_when_it_returns() {
        let start = Instant::now();
        let mut route = Route::new(3, start);
        route.opened(0);
        assert_eq!(route.failed(0, start), None, "it may be back at once");
        assert_eq!(route.failed(0, start + FAILOVER_AFTER), Some(1));
        assert_eq!(route.current(), 0, "nothing better is open yet");
        route.opened(1);
        assert_eq!(route.current(), 1);
        assert_eq!(route.failed(0, start + 9 * FAILOVER_AFTER), None);
        route.opened(0);
        assert_eq!(route.current(), 0);
    }

    #[test]
    fn shards_are_tried_one_after_the_other() {
        let start = Instant::now();
        let at = |times: u32| start + times * FAILOVER_AFTER;
        let mut route = Route::new(3, start);
        assert_eq!(route.failed(0, at(1)), Some(1));
        assert_eq!(route.failed(0, at(1)), None, "the second has its time");
        assert_eq!(route.failed(1, at(2)), Some(2));
        assert_eq!(route.failed(2, at(3)), None, "there is no other");
        route.opened(2);
        assert_eq!(route.current(), 2);
        route.opened(1);
        assert_eq!(route.current(), 1);
        route.failed(1, at(4));
        assert_eq!(route.current(), 2);
    }

    #[test]
    fn a_single_shard_is_waited_for() {
        let start = Instant::now();
        let mut route = Route::new(1, start);
        assert_eq!(route.failed(0, start + 100 * FAILOVER_AFTER), None);
        route.opened(0);
        assert_eq!(route.current(), 0);
    }
}
