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

/// What a change of health led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The shard in use before, if it is another now.
    pub(crate) left: Option<usize>,
    /// A shard to connect to.
    pub(crate) connect: Option<usize>,
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
    pub(crate) fn opened(&mut self, shard: usize) -> Changes {
        self.shards[shard] = Health::Open;
        Changes {
            left: self.choose(),
            connect: None,
        }
    }

    /// A connection was lost, or not made.
    pub(crate) fn failed(&mut self, shard: usize, now: Instant) -> Changes {
        if !matches!(self.shards[shard], Health::Away { .. }) {
            self.shards[shard] = Health::Away { since: now };
        }
        let left = self.choose();
        let patience = |health: &Health| match health {
            Health::Open => true,
            Health::Away { since } => now.duration_since(*since) < FAILOVER_AFTER,
            Health::Untried => false,
        };
        let connect = if self.shards.iter().any(patience) {
            None
        } else {
            self.shards.iter().position(|&h| h == Health::Untried)
        };
        if let Some(next) = connect {
            self.shards[next] = Health::Away { since: now };
        }
        Changes { left, connect }
    }

    /// Takes the first open shard; answers the one in use before, if that is another.
    fn choose(&mut self) -> Option<usize> {
        let open = self.shards.iter().position(|&h| h == Health::Open)?;
        let before = std::mem::replace(&mut self.current, open);
        (before != open).then_some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(connect: usize) -> Changes {
        Changes {
            connect: Some(connect),
            ..Changes::default()
        }
    }

    fn left(left: usize) -> Changes {
        Changes {
            left: Some(left),
            ..Changes::default()
        }
    }

    #[test]
    fn a_shard_that_stays_away_is_left_and_taken_back_when_it_returns() {
        let start = Instant::now();
        let mut route = Route::new(3, start);
        assert_eq!(route.opened(0), Changes::default());
        assert_eq!(route.failed(0, start), Changes::default(), "it may be back at once");
        assert_eq!(route.failed(0, start + FAILOVER_AFTER), connect(1));
        assert_eq!(route.current(), 0, "nothing better is open yet");
        assert_eq!(route.opened(1), left(0));
        assert_eq!(route.current(), 1);
        assert_eq!(route.failed(0, start + 9 * FAILOVER_AFTER), Changes::default());
        assert_eq!(route.opened(0), left(1));
        assert_eq!(route.current(), 0);
    }

    #[test]
    fn shards_are_tried_one_after_the_other() {
        let start = Instant::now();
        let at = |times: u32| start + times * FAILOVER_AFTER;
        let mut route = Route::new(3, start);
        assert_eq!(route.failed(0, at(1)), connect(1));
        assert_eq!(route.failed(0, at(1)), Changes::default(), "the second has its time");
        assert_eq!(route.failed(1, at(2)), connect(2));
        assert_eq!(route.failed(2, at(3)), Changes::default(), "there is no other");
        assert_eq!(route.opened(2), left(0));
        assert_eq!(route.opened(1), left(2));
        assert_eq!(route.failed(1, at(4)), left(1));
        assert_eq!(route.current(), 2);
    }

    #[test]
    fn a_single_shard_is_waited_for() {
        let start = Instant::now();
        let mut route = Route::new(1, start);
        assert_eq!(route.failed(0, start + 100 * FAILOVER_AFTER), Changes::default());
        assert_eq!(route.opened(0), Changes::default());
    }
}
