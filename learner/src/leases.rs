//! Who takes part in the run: members with an index each, kept under leases.
//!
//! The state machine has no clock: time is what the caller says. An index is *held* by a stream that has
//! spoken within the lease; *reserved* once that stream was lost, when whoever asks for it gets it (the
//! process that comes back, or the one that replaces it) but nobody is assigned it; and free after the
//! lease. A learner that was resumed assigns nothing for as long either, for it knows nobody yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ::metrics::{counter, gauge};
use pmpo_service::security::Role;
use tokio::sync::watch;

use crate::metrics;

/// Indices that can be assigned or asked for.
const MAX_INDEX: u64 = 1 << 20;

/// What members may be.
pub(crate) const ROLES: [Role; 2] = [Role::Actor, Role::Evaluator];

/// A member of the run: what it is, and its index.
pub(crate) type Member = (Role, u64);

#[derive(Clone, Copy, Debug)]
enum Lease {
    /// By the stream with this number.
    Held(u64),
    /// Since a stream was lost.
    Reserved { until: Instant },
}

/// Why there is no lease now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Another member has it.
    Taken,
    /// Members of before may still claim theirs; try again.
    TooEarly,
    /// No such index.
    OutOfRange,
}

/// The leases of all members.
#[derive(Debug)]
struct Leases {
    held: HashMap<Member, Lease>,
    duration: Duration,
    assigns_from: Instant,
}

impl Leases {
    fn join(
        &mut self,
        role: Role,
        index: Option<u64>,
        stream: u64,
        now: Instant,
    ) -> Result<u64, Refused> {
        self.held
            .retain(|_, lease| !matches!(lease, Lease::Reserved { until } if *until <= now));
        let index = match index {
            Some(index) if index >= MAX_INDEX => return Err(Refused::OutOfRange),
            Some(index) => match self.held.get(&(role, index)) {
                Some(Lease::Held(_)) => return Err(Refused::Taken),
                Some(Lease::Reserved { .. }) | None => index,
            },
            None if now < self.assigns_from => return Err(Refused::TooEarly),
            None => (0..MAX_INDEX)
                .find(|index| !self.held.contains_key(&(role, *index)))
                .ok_or(Refused::OutOfRange)?,
        };
        self.held.insert((role, index), Lease::Held(stream));
        Ok(index)
    }

    /// The stream that holds an index is over: nothing happens if another one holds it by now.
    fn leave(&mut self, member: Member, stream: u64, end: End, now: Instant) {
        let held = matches!(self.held.get(&member), Some(Lease::Held(by)) if *by == stream);
        if !held {
            return;
        }
        if end == End::Lost {
            let until = now + self.duration;
            self.held.insert(member, Lease::Reserved { until });
        } else {
            self.held.remove(&member);
        }
    }

    fn count(&self, role: Role) -> usize {
        let held = |(member, lease): &(&Member, &Lease)| {
            member.0 == role && matches!(lease, Lease::Held(_))
        };
        self.held.iter().filter(held).count()
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

/// A cheap handle to the leases.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    state: Arc<Mutex<(Leases, u64)>>,
    lease: Duration,
    /// An index has become free.
    freed: Arc<watch::Sender<()>>,
}

impl Members {
    /// Nobody has joined; `resumed` if somebody may have, with the learner's process before.
    pub(crate) fn new(lease: Duration, resumed: bool) -> Self {
        let now = Instant::now();
        let leases = Leases {
            held: HashMap::new(),
            duration: lease,
            assigns_from: if resumed { now + lease } else { now },
        };
        let members = Self {
            state: Arc::new(Mutex::new((leases, 0))),
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
    pub(crate) fn grace(&self) -> Duration {
        self.lease / 10
    }

    /// Takes an index. Where the one asked for is held, waits for longer than its holder can be silent.
    pub(crate) async fn join(&self, role: Role, index: Option<u64>) -> Result<Membership, Refused> {
        let deadline = tokio::time::Instant::now() + self.lease + 2 * self.grace();
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
        let (leases, streams) = &mut *state;
        *streams += 1;
        let index = leases.join(role, index, *streams, Instant::now())?;
        self.show(leases);
        Ok(Membership {
            members: self.clone(),
            member: (role, index),
            stream: *streams,
            end: End::Lost,
        })
    }

    fn show(&self, leases: &Leases) {
        for role in ROLES {
            gauge!(metrics::MEMBERS, "role" => role.as_str()).set(leases.count(role) as f64);
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Leases, u64)> {
        self.state.lock().expect("no holder of the lock panics")
    }
}

/// An index that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Membership {
    members: Members,
    member: Member,
    stream: u64,
    end: End,
}

impl Membership {
    pub(crate) fn index(&self) -> u64 {
        self.member.1
    }

    /// Gives the index up. One line for each member that came and went.
    pub(crate) fn end(mut self, end: End) {
        let (role, index) = (self.member.0.as_str(), self.member.1);
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
            .leave(self.member, self.stream, self.end, Instant::now());
        self.members.show(&state.0);
        drop(state);
        self.members.freed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn leases(now: Instant) -> Leases {
        Leases {
            held: HashMap::new(),
            duration: LEASE,
            assigns_from: now,
        }
    }

    #[test]
    fn the_lowest_free_index_is_assigned_to_each_role() {
        let now = Instant::now();
        let mut leases = leases(now);
        assert_eq!(leases.join(Role::Actor, Some(1), 1, now), Ok(1));
        assert_eq!(leases.join(Role::Actor, None, 2, now), Ok(0));
        assert_eq!(leases.join(Role::Actor, None, 3, now), Ok(2));
        assert_eq!(leases.join(Role::Evaluator, None, 4, now), Ok(0));
        assert_eq!(
            (leases.count(Role::Actor), leases.count(Role::Evaluator)),
            (3, 1)
        );
        leases.leave((Role::Actor, 0), 2, End::Left, now);
        assert_eq!(leases.join(Role::Actor, None, 5, now), Ok(0));
        let far = leases.join(Role::Actor, Some(MAX_INDEX), 6, now);
        assert_eq!(far, Err(Refused::OutOfRange));
    }

    #[test]
    fn a_held_index_is_refused_and_a_lost_one_waits_for_its_own() {
        let now = Instant::now();
        let mut leases = leases(now);
        leases.join(Role::Actor, Some(0), 1, now).unwrap();
        assert_eq!(
            leases.join(Role::Actor, Some(0), 2, now),
            Err(Refused::Taken)
        );
        leases.leave((Role::Actor, 0), 1, End::Lost, now);
        assert_eq!(leases.count(Role::Actor), 0);
        // Whoever scales up in the meantime does not get it, the actor started again does.
        assert_eq!(leases.join(Role::Actor, None, 3, now), Ok(1));
        assert_eq!(leases.join(Role::Actor, Some(0), 4, now), Ok(0));
        // The end of the first stream, noticed late, is nobody's business any more.
        leases.leave((Role::Actor, 0), 1, End::Expired, now);
        assert_eq!(
            leases.join(Role::Actor, Some(0), 5, now),
            Err(Refused::Taken)
        );
        leases.leave((Role::Actor, 0), 4, End::Lost, now);
        assert_eq!(leases.join(Role::Actor, None, 6, now + LEASE), Ok(0));
    }

    #[test]
    fn a_silent_members_index_is_free_at_once() {
        let now = Instant::now();
        let mut leases = leases(now);
        leases.join(Role::Actor, None, 1, now).unwrap();
        leases.leave((Role::Actor, 0), 1, End::Expired, now);
        assert_eq!(leases.join(Role::Actor, None, 2, now), Ok(0));
        assert_eq!(
            leases.join(Role::Actor, Some(0), 3, now),
            Err(Refused::Taken)
        );
    }

    #[test]
    fn a_learner_that_came_back_lets_the_old_members_claim_first() {
        let now = Instant::now();
        let mut leases = Leases {
            assigns_from: now + LEASE,
            ..leases(now)
        };
        assert_eq!(
            leases.join(Role::Actor, None, 1, now),
            Err(Refused::TooEarly)
        );
        assert_eq!(leases.join(Role::Actor, Some(0), 2, now), Ok(0));
        assert_eq!(leases.join(Role::Actor, None, 3, now + LEASE), Ok(1));
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
