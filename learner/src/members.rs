//! Who takes part in the run: places with an index, kept under leases.
//!
//! The state machine has no clock: time is what the caller says. A place is *held* by a stream that has
//! spoken within the lease; *vacant* once that stream was lost, when whoever asks for it by its index gets
//! it (the process that comes back, or the one that replaces it) but nobody is allotted it; and free after
//! the lease. A learner that was resumed allots nothing for as long either, for it knows nobody yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ::metrics::{counter, gauge};
use tokio::sync::watch;

use crate::metrics;

/// Indices that can be allotted or asked for.
const MAX_INDEX: u64 = 1 << 20;

/// What members do in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Actor,
    Evaluator,
}

impl Role {
    pub(crate) const ALL: [Self; 2] = [Self::Actor, Self::Evaluator];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Actor => "actor",
            Self::Evaluator => "evaluator",
        }
    }
}

/// A role's place in the run.
pub(crate) type Place = (Role, u64);

#[derive(Clone, Copy, Debug)]
enum Tenure {
    /// By the stream with this number.
    Held(u64),
    /// Since a stream was lost.
    Vacant { until: Instant },
}

/// Why there is no place now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Another member has it.
    Taken,
    /// Members of before may still claim theirs; try again.
    TooEarly,
    /// No such index.
    OutOfRange,
}

/// The places, by role and index.
#[derive(Debug)]
struct Places {
    places: BTreeMap<Place, Tenure>,
    lease: Duration,
    allots_from: Instant,
}

impl Places {
    fn join(
        &mut self,
        role: Role,
        index: Option<u64>,
        stream: u64,
        now: Instant,
    ) -> Result<u64, Refused> {
        self.places
            .retain(|_, tenure| !matches!(tenure, Tenure::Vacant { until } if *until <= now));
        let index = match index {
            Some(index) if index >= MAX_INDEX => return Err(Refused::OutOfRange),
            Some(index) => match self.places.get(&(role, index)) {
                Some(Tenure::Held(_)) => return Err(Refused::Taken),
                Some(Tenure::Vacant { .. }) | None => index,
            },
            None if now < self.allots_from => return Err(Refused::TooEarly),
            None => (0..MAX_INDEX)
                .find(|index| !self.places.contains_key(&(role, *index)))
                .ok_or(Refused::OutOfRange)?,
        };
        self.places.insert((role, index), Tenure::Held(stream));
        Ok(index)
    }

    /// The stream that holds a place is over: nothing happens if another one holds it by now.
    fn leave(&mut self, place: Place, stream: u64, end: End, now: Instant) {
        let held = matches!(self.places.get(&place), Some(Tenure::Held(by)) if *by == stream);
        if !held {
            return;
        }
        if end == End::Lost {
            let until = now + self.lease;
            self.places.insert(place, Tenure::Vacant { until });
        } else {
            self.places.remove(&place);
        }
    }

    fn count(&self, role: Role) -> usize {
        let held = |(place, tenure): &(&Place, &Tenure)| {
            place.0 == role && matches!(tenure, Tenure::Held(_))
        };
        self.places.iter().filter(held).count()
    }
}

/// How a member's stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It said good-bye.
    Left,
    /// The connection broke: the process may be dead, or come back.
    Lost,
    /// Nothing was heard for as long as the lease.
    Expired,
}

/// A cheap handle to the places.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    state: Arc<Mutex<(Places, u64)>>,
    lease: Duration,
    /// A place has become free.
    freed: Arc<watch::Sender<()>>,
}

impl Members {
    /// Nobody has joined; `resumed` if somebody may have, with the learner's process before.
    pub(crate) fn new(lease: Duration, resumed: bool) -> Self {
        let now = Instant::now();
        let places = Places {
            places: BTreeMap::new(),
            lease,
            allots_from: if resumed { now + lease } else { now },
        };
        let members = Self {
            state: Arc::new(Mutex::new((places, 0))),
            lease,
            freed: Arc::new(watch::Sender::new(())),
        };
        members.show(&members.lock().0);
        members
    }

    /// How long a member may be silent.
    pub(crate) fn lease(&self) -> Duration {
        self.lease
    }

    /// How much longer a member is listened to, should it be this process that was frozen.
    pub(crate) fn respite(&self) -> Duration {
        self.lease / 10
    }

    /// Takes a place. Where the one asked for is held, waits for longer than its holder can be silent.
    pub(crate) async fn join(&self, role: Role, index: Option<u64>) -> Result<Membership, Refused> {
        let deadline = tokio::time::Instant::now() + self.lease + 2 * self.respite();
        let mut freed = self.freed.subscribe();
        loop {
            let joined = self.try_join(role, index);
            if joined.as_ref().err() != Some(&Refused::Taken) {
                return joined;
            }
            let waited = tokio::time::timeout_at(deadline, freed.changed()).await;
            if waited.is_err() {
                return joined;
            }
        }
    }

    fn try_join(&self, role: Role, index: Option<u64>) -> Result<Membership, Refused> {
        let mut state = self.lock();
        let (places, streams) = &mut *state;
        *streams += 1;
        let index = places.join(role, index, *streams, Instant::now())?;
        self.show(places);
        Ok(Membership {
            members: self.clone(),
            place: (role, index),
            stream: *streams,
            end: End::Lost,
        })
    }

    fn show(&self, places: &Places) {
        for role in Role::ALL {
            gauge!(metrics::MEMBERS, "role" => role.as_str()).set(places.count(role) as f64);
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Places, u64)> {
        self.state.lock().expect("no holder of the lock panics")
    }
}

/// A place that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Membership {
    members: Members,
    place: Place,
    stream: u64,
    end: End,
}

impl Membership {
    pub(crate) fn index(&self) -> u64 {
        self.place.1
    }

    /// Gives the place up. One line for each member that came and went.
    pub(crate) fn end(mut self, end: End) {
        let (role, index) = (self.place.0.as_str(), self.place.1);
        self.end = end;
        match end {
            End::Left => tracing::info!(role, index, "left the run"),
            End::Lost => tracing::warn!(role, index, "lost the connection of a member"),
            End::Expired => {
                counter!(metrics::LEASES_EXPIRED, "role" => role).increment(1);
                let lease_s = self.members.lease.as_secs_f64();
                tracing::warn!(
                    role,
                    index,
                    lease_s,
                    "a member was silent: its lease ran out"
                );
            }
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = self.members.lock();
        state
            .0
            .leave(self.place, self.stream, self.end, Instant::now());
        self.members.show(&state.0);
        drop(state);
        self.members.freed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn places(now: Instant) -> Places {
        Places {
            places: BTreeMap::new(),
            lease: LEASE,
            allots_from: now,
        }
    }

    #[test]
    fn the_lowest_free_index_is_allotted_to_each_role() {
        let now = Instant::now();
        let mut places = places(now);
        assert_eq!(places.join(Role::Actor, Some(1), 1, now), Ok(1));
        assert_eq!(places.join(Role::Actor, None, 2, now), Ok(0));
        assert_eq!(places.join(Role::Actor, None, 3, now), Ok(2));
        assert_eq!(places.join(Role::Evaluator, None, 4, now), Ok(0));
        assert_eq!(
            (places.count(Role::Actor), places.count(Role::Evaluator)),
            (3, 1)
        );
        places.leave((Role::Actor, 0), 2, End::Left, now);
        assert_eq!(places.join(Role::Actor, None, 5, now), Ok(0));
        let far = places.join(Role::Actor, Some(MAX_INDEX), 6, now);
        assert_eq!(far, Err(Refused::OutOfRange));
    }

    #[test]
    fn a_held_index_is_refused_and_a_lost_one_waits_for_its_own() {
        let now = Instant::now();
        let mut places = places(now);
        places.join(Role::Actor, Some(0), 1, now).unwrap();
        assert_eq!(
            places.join(Role::Actor, Some(0), 2, now),
            Err(Refused::Taken)
        );
        places.leave((Role::Actor, 0), 1, End::Lost, now);
        assert_eq!(places.count(Role::Actor), 0);
        // Whoever scales up in the meantime does not get it, the actor started again does.
        assert_eq!(places.join(Role::Actor, None, 3, now), Ok(1));
        assert_eq!(places.join(Role::Actor, Some(0), 4, now), Ok(0));
        // The end of the first stream, noticed late, is nobody's business any more.
        places.leave((Role::Actor, 0), 1, End::Expired, now);
        assert_eq!(
            places.join(Role::Actor, Some(0), 5, now),
            Err(Refused::Taken)
        );
        places.leave((Role::Actor, 0), 4, End::Lost, now);
        assert_eq!(places.join(Role::Actor, None, 6, now + LEASE), Ok(0));
    }

    #[test]
    fn a_silent_members_index_is_free_at_once() {
        let now = Instant::now();
        let mut places = places(now);
        places.join(Role::Actor, None, 1, now).unwrap();
        places.leave((Role::Actor, 0), 1, End::Expired, now);
        assert_eq!(places.join(Role::Actor, None, 2, now), Ok(0));
        assert_eq!(
            places.join(Role::Actor, Some(0), 3, now),
            Err(Refused::Taken)
        );
    }

    #[test]
    fn a_learner_that_came_back_lets_the_old_members_claim_first() {
        let now = Instant::now();
        let mut places = Places {
            allots_from: now + LEASE,
            ..places(now)
        };
        assert_eq!(
            places.join(Role::Actor, None, 1, now),
            Err(Refused::TooEarly)
        );
        assert_eq!(places.join(Role::Actor, Some(0), 2, now), Ok(0));
        assert_eq!(places.join(Role::Actor, None, 3, now + LEASE), Ok(1));
    }

    #[tokio::test]
    async fn a_second_member_waits_for_as_long_as_the_first_may_be_silent() {
        let lease = Duration::from_millis(200);
        let members = Members::new(lease, false);
        let first = members.join(Role::Actor, Some(3)).await.unwrap();
        let start = Instant::now();
        let second = members.join(Role::Actor, Some(3)).await;
        assert_eq!(second.unwrap_err(), Refused::Taken);
        assert!(start.elapsed() >= lease);
        let (third, ()) = tokio::join!(members.join(Role::Actor, Some(3)), async {
            first.end(End::Expired);
        });
        assert_eq!(third.unwrap().index(), 3);
    }
}
