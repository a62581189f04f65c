//! Places for connections: so many in all, and so many of one network. No clock.
//!
//! Where no place is left, the connection that has waited longest for its first call gives its own to a
//! newcomer; where a network has all of its places, one of its own does. So however many strangers hold
//! connections, from wherever, one that means to make a call gets in.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use ::metrics::Gauge;
use tokio_util::sync::CancellationToken;

use super::refusals::Reason;

/// Connections that have lost their place and are not gone yet, at which newcomers have to wait: they
/// end in a moment, and until then they are more than there should be.
const MOST_LEAVING: usize = 64;

/// The places of one listening socket.
pub(crate) struct Limits {
    max_connections: usize,
    max_connections_per_peer: usize,
    gauge: Gauge,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    connections: usize,
    by_network: HashMap<IpAddr, usize>,
    /// Connections that have not settled, by their number.
    waiting: BTreeMap<u64, (IpAddr, CancellationToken)>,
    /// Connections that have lost their place.
    leaving: usize,
    next_number: u64,
}

impl Limits {
    /// Limits of so many connections, whose number `gauge` shows.
    pub(crate) fn new(max_connections: usize, max_per_peer: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self {
            max_connections,
            max_connections_per_peer: max_per_peer,
            gauge,
            taken: Mutex::default(),
        })
    }

    /// Takes a place for a connection, until the answer is dropped.
    pub(crate) fn admit(self: &Arc<Self>, peer: IpAddr) -> Result<Place, Reason> {
        let network = network(peer);
        let mut guard = self.lock();
        let taken = &mut *guard;
        let held = taken.by_network.get(&network).copied().unwrap_or(0);
        let of_network = held >= self.max_connections_per_peer;
        if of_network || taken.connections >= self.max_connections + taken.leaving {
            let reason = match of_network {
                true => Reason::ConnectionsPerPeer,
                false => Reason::Connections,
            };
            let mut waiting = taken.waiting.iter();
            let oldest = waiting.find(|(_, (other, _))| !of_network || *other == network);
            let oldest = oldest.map(|(&number, _)| number).ok_or(reason)?;
            taken.evict(oldest);
        }
        taken.connections += 1;
        *taken.by_network.entry(network).or_default() += 1;
        let (number, lost) = (taken.next_number, CancellationToken::new());
        taken.next_number += 1;
        taken.waiting.insert(number, (network, lost.clone()));
        drop(guard);
        self.gauge.increment(1.0);
        Ok(Place {
            limits: Arc::clone(self),
            network,
            number,
            taken: lost,
        })
    }

    /// Whether so many connections have lost their place without being gone that nobody should be let in.
    pub(crate) fn crowded(&self) -> bool {
        self.lock().leaving >= MOST_LEAVING
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("holders of the lock do not panic")
    }
}

impl Taken {
    /// A connection that waits loses its place, and does no longer count among its network's.
    fn evict(&mut self, number: u64) {
        if let Some((network, lost)) = self.waiting.remove(&number) {
            lost.cancel();
            self.leaving += 1;
            self.leave(network);
        }
    }

    fn leave(&mut self, network: IpAddr) {
        if let Some(held) = self.by_network.get_mut(&network) {
            *held -= 1;
            if *held == 0 {
                self.by_network.remove(&network);
            }
        }
    }
}

/// Whose the address is, as far as one can tell: of IPv6 everybody has 2^64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// A connection's place.
pub(crate) struct Place {
    limits: Arc<Limits>,
    network: IpAddr,
    number: u64,
    taken: CancellationToken,
}

impl Place {
    /// Cancelled when a newcomer has been given the place.
    pub(crate) fn taken(&self) -> &CancellationToken {
        &self.taken
    }

    /// Keeps the place for good, unless it is lost already.
    pub(crate) fn settle(&self) -> bool {
        self.limits.lock().waiting.remove(&self.number).is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.limits.lock();
        taken.connections -= 1;
        if self.taken.is_cancelled() {
            taken.leaving -= 1;
        } else {
            taken.waiting.remove(&self.number);
            taken.leave(self.network);
        }
        drop(taken);
        self.limits.gauge.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(all: usize, one: usize) -> Arc<Limits> {
        Limits::new(all, one, Gauge::noop())
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn places_are_bounded_in_all_and_for_each_network_and_come_back() {
        let limits = limits(3, 2);
        let admit = |last| limits.admit(address(last));
        let settled = |last| admit(last).ok().filter(Place::settle).unwrap();
        let (first, _second) = (settled(1), settled(1));
        assert_eq!(admit(1).err(), Some(Reason::ConnectionsPerPeer));
        let third = settled(2);
        assert_eq!(admit(3).err(), Some(Reason::Connections));
        drop(third);
        assert_eq!(admit(3).err(), None);
        drop(first);
        assert_eq!(admit(1).err(), None);
        let taken = limits.lock();
        assert_eq!((taken.connections, taken.waiting.len()), (1, 0));
        assert_eq!(taken.by_network, HashMap::from([(address(1), 1)]));
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_one_that_has_waited_longest() {
        let limits = limits(3, 3);
        let admit = |last| limits.admit(address(last)).ok().unwrap();
        let (settled, oldest, older) = (admit(1), admit(2), admit(2));
        assert!(settled.settle());
        let newcomer = admit(3);
        let taken =
            [&settled, &oldest, &older, &newcomer].map(|place| place.taken().is_cancelled());
        assert_eq!(taken, [false, true, false, false]);
        assert!(!oldest.settle(), "it is too late");
    }

    /// Who shares an address with idle connections is not kept out by them, nor are others evicted.
    #[test]
    fn where_a_network_has_all_its_places_one_of_its_own_goes() {
        let limits = limits(9, 2);
        let admit = |last| limits.admit(address(last)).ok().unwrap();
        let (other, oldest, older) = (admit(2), admit(1), admit(1));
        let newcomer = admit(1);
        let taken = [&other, &oldest, &older, &newcomer].map(|place| place.taken().is_cancelled());
        assert_eq!(taken, [false, true, false, false]);
    }

    /// Those that have lost their place and stay all the same do not add up.
    #[test]
    fn it_is_crowded_where_those_evicted_stay() {
        let limits = limits(8, 8);
        let admit = |last| limits.admit(address(last)).ok().unwrap();
        let mut admitted: Vec<_> = (0..8).map(admit).collect();
        while !limits.crowded() {
            admitted.push(admit(admitted.len() as u8));
        }
        assert_eq!(admitted.len(), 8 + MOST_LEAVING);
        admitted.remove(0);
        assert!(!limits.crowded(), "one is gone");
        drop(admitted);
        let taken = limits.lock();
        assert_eq!((taken.connections, taken.leaving), (0, 0));
        assert!(taken.by_network.is_empty());
    }

    #[test]
    fn of_ipv6_a_network_is_one_peer() {
        let at = |text: &str| network(text.parse().unwrap());
        assert_eq!(at("2001:db8:0:1::5"), at("2001:db8:0:1:ffff::"));
        assert_ne!(at("2001:db8:0:1::5"), at("2001:db8:0:2::5"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
    }
}
