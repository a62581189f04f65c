//! What peers take of a server: connections, in all and of one address, and calls a second. No clock:
//! the time is passed in.
//!
//! Where all places are taken, the connection that has waited longest without a call gives its own to a
//! newcomer: however many strangers hold connections, one that means to make a call gets in.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ::metrics::gauge;
use tokio_util::sync::CancellationToken;

use super::refusals::Reason;
use super::{SecurityConfig, metrics};

/// How long a peer's allowance of calls takes to be whole again.
const ALLOWANCE_PERIOD: Duration = Duration::from_secs(1);

/// The counts of one server.
pub(crate) struct Limits {
    max_connections: usize,
    max_connections_per_peer: usize,
    max_requests_per_second: f64,
    peers: Mutex<Peers>,
}

#[derive(Default)]
struct Peers {
    connections: usize,
    by_address: HashMap<IpAddr, PeerState>,
    /// Connections that have not made a call, by their number.
    waiting: BTreeMap<u64, CancellationToken>,
    next_number: u64,
    /// When addresses without a connection were last forgotten.
    pruned: Option<Instant>,
}

/// An address with a connection, or that had one a moment ago: calling again on a new connection earns
/// nothing.
struct PeerState {
    connections: usize,
    /// Calls that it may make now; grows with time up to a second's worth.
    allowance: f64,
    since: Instant,
}

impl Limits {
    pub(crate) fn new(config: &SecurityConfig) -> Self {
        Self {
            max_connections: config.max_connections,
            max_connections_per_peer: config.max_connections_per_peer,
            max_requests_per_second: config.max_requests_per_second_per_peer.into(),
            peers: Mutex::default(),
        }
    }

    /// Takes a place for a connection, until the answer is dropped.
    pub(crate) fn admit(self: &Arc<Self>, peer: IpAddr, now: Instant) -> Result<Place, Reason> {
        let mut guard = self.lock();
        let peers = &mut *guard;
        let is_full = peers.connections >= self.max_connections;
        if is_full && peers.waiting.is_empty() {
            return Err(Reason::Connections);
        }
        // After so long the allowance of one that calls nothing is whole again.
        let idle = |since: Instant| now.duration_since(since) >= ALLOWANCE_PERIOD;
        if peers.pruned.is_none_or(idle) {
            peers.pruned = Some(now);
            let by_address = &mut peers.by_address;
            by_address.retain(|_, state| state.connections > 0 || !idle(state.since));
        }
        let state = peers.by_address.entry(peer).or_insert(PeerState {
            connections: 0,
            allowance: self.max_requests_per_second,
            since: now,
        });
        if state.connections >= self.max_connections_per_peer {
            return Err(Reason::ConnectionsPerPeer);
        }
        state.connections += 1;
        peers.connections += 1;
        if is_full && let Some((_, oldest)) = peers.waiting.pop_first() {
            // It ends in a moment, and until then there is one more than there should be.
            oldest.cancel();
        }
        let (number, taken) = (peers.next_number, CancellationToken::new());
        peers.next_number += 1;
        peers.waiting.insert(number, taken.clone());
        drop(guard);
        gauge!(metrics::CONNECTIONS).increment(1.0);
        Ok(Place {
            limits: Arc::clone(self),
            peer,
            number,
            taken,
        })
    }

    /// Whether `peer` may make one more call.
    pub(crate) fn request(&self, peer: IpAddr, now: Instant) -> bool {
        let mut peers = self.lock();
        let Some(state) = peers.by_address.get_mut(&peer) else {
            return true;
        };
        let earned = now.duration_since(state.since).as_secs_f64() * self.max_requests_per_second;
        state.allowance = (state.allowance + earned).min(self.max_requests_per_second);
        state.since = now;
        if state.allowance < 1.0 {
            return false;
        }
        state.allowance -= 1.0;
        true
    }

    fn lock(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().expect("holders of the lock do not panic")
    }
}

/// A connection's place.
pub(crate) struct Place {
    limits: Arc<Limits>,
    peer: IpAddr,
    number: u64,
    taken: CancellationToken,
}

impl Place {
    /// Cancelled when a newcomer has been given the place.
    pub(crate) fn taken(&self) -> &CancellationToken {
        &self.taken
    }

    /// The connection has made a call and keeps its place.
    pub(crate) fn settle(&self) {
        self.limits.lock().waiting.remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        gauge!(metrics::CONNECTIONS).decrement(1.0);
        let mut peers = self.limits.lock();
        peers.connections -= 1;
        peers.waiting.remove(&self.number);
        if let Some(state) = peers.by_address.get_mut(&self.peer) {
            state.connections -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(all: usize, one: usize, rate: u32) -> Arc<Limits> {
        Arc::new(Limits::new(&SecurityConfig {
            max_connections: all,
            max_connections_per_peer: one,
            max_requests_per_second_per_peer: rate,
            ..SecurityConfig::default()
        }))
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn places_are_bounded_in_all_and_for_each_address_and_come_back() {
        let (limits, now) = (limits(3, 2, 1), Instant::now());
        let first = limits.admit(address(1), now).ok().unwrap();
        let second = limits.admit(address(1), now).ok().unwrap();
        let refused = |last| limits.admit(address(last), now).err();
        assert_eq!(refused(1), Some(Reason::ConnectionsPerPeer));
        let third = limits.admit(address(2), now).ok().unwrap();
        for place in [&first, &second, &third] {
            place.settle();
        }
        assert_eq!(refused(3), Some(Reason::Connections));
        drop(third);
        assert_eq!(refused(3), None);
        drop(first);
        assert_eq!(refused(1), None);
        let peers = limits.lock();
        assert_eq!(peers.waiting.len(), 0);
        let held: usize = peers
            .by_address
            .values()
            .map(|state| state.connections)
            .sum();
        assert_eq!(held, peers.connections);
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_one_that_has_waited_longest() {
        let (limits, now) = (limits(3, 3, 1), Instant::now());
        let admit = |last| limits.admit(address(last), now).ok().unwrap();
        let (settled, oldest, older) = (admit(1), admit(2), admit(2));
        settled.settle();
        let newcomer = admit(3);
        let taken =
            [&settled, &oldest, &older, &newcomer].map(|place| place.taken().is_cancelled());
        assert_eq!(taken, [false, true, false, false]);
    }

    #[test]
    fn calls_are_bounded_by_a_rate_and_a_burst_of_one_second() {
        let (limits, start) = (limits(3, 2, 10), Instant::now());
        let _place = limits.admit(address(1), start).ok().unwrap();
        let allowed = |at: Duration| {
            let calls = (0..100).filter(|_| limits.request(address(1), start + at));
            calls.count()
        };
        assert_eq!(allowed(Duration::ZERO), 10);
        assert_eq!(allowed(Duration::from_millis(500)), 5);
        assert_eq!(allowed(Duration::from_secs(60)), 10);
    }

    #[test]
    fn a_new_connection_earns_no_calls_and_who_has_gone_is_forgotten() {
        let (limits, start) = (limits(3, 2, 10), Instant::now());
        let admit = |last, at| limits.admit(address(last), start + at).ok().unwrap();
        for _ in 0..10 {
            let place = admit(1, Duration::ZERO);
            assert!(limits.request(address(1), start));
            drop(place);
        }
        let _again = admit(1, Duration::ZERO);
        assert!(!limits.request(address(1), start));
        drop(admit(2, Duration::ZERO));
        let _later = admit(3, 2 * ALLOWANCE_PERIOD);
        assert!(!limits.lock().by_address.contains_key(&address(2)));
    }
}
