//! Who waits for whom: which share of their time the threads of a station spent in each state.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::exposition::Exposition;

/// Shares are taken over at least this long: the counters know whole seconds.
const WINDOW: Duration = Duration::from_secs(10);
/// Less counted time than this says nothing, in seconds.
const LEAST_SECONDS: f64 = 2.0;

/// A kind of threads that count where their time goes, by the label `state`.
#[derive(Clone, Copy)]
pub(super) struct Station {
    name: &'static str,
    metric: &'static str,
}

pub(super) const LEARNER: Station = Station {
    name: "learner",
    metric: pmpo_learner::metrics::WORKER_SECONDS,
};
pub(super) const ACTOR: Station = Station {
    name: "actor",
    metric: pmpo_actor::metrics::WORKER_SECONDS,
};
pub(super) const REPLAY: Station = Station {
    name: "replay",
    metric: pmpo_replay::metrics::WORKER_SECONDS,
};
pub(super) const LOCKSTEP: Station = Station {
    name: "lockstep",
    metric: crate::lockstep::WORKER_SECONDS,
};

/// Seconds by station and state.
type Spent = BTreeMap<(&'static str, String), f64>;

/// The newest looks at the counters, as many as a window takes.
#[derive(Default)]
pub(super) struct Shares(VecDeque<(Instant, Spent)>);

impl Shares {
    /// `time/<station>/<state>`, in 0 to 1, since the beginning of the window.
    pub(super) fn take(
        &mut self,
        stations: &[Station],
        answers: &[Exposition],
    ) -> Vec<(String, f64)> {
        let mut spent = Spent::new();
        for Station { name, metric } in stations {
            let states = answers
                .iter()
                .flat_map(|answer| answer.by_label(metric, "state"));
            for (state, seconds) in states {
                *spent.entry((*name, state.to_owned())).or_default() += seconds;
            }
        }
        let shares = self.since_window(&spent);
        self.0.push_back((Instant::now(), spent));
        // The newest that is older than a window stays: the next window begins there.
        while self.0.get(1).is_some_and(|(at, _)| at.elapsed() >= WINDOW) {
            self.0.pop_front();
        }
        shares
    }

    fn since_window(&self, now: &Spent) -> Vec<(String, f64)> {
        let before = self.0.front().map(|(_, spent)| spent);
        // A process that was started again counts from 0.
        let since = |(key, seconds): (&(&'static str, String), &f64)| {
            let before = before.and_then(|spent| spent.get(key)).unwrap_or(&0.0);
            (key.clone(), (seconds - before).max(0.0))
        };
        let since: Spent = now.iter().map(since).collect();
        let total = |station: &str| -> f64 {
            let of = since.iter().filter(|((name, _), _)| *name == station);
            of.map(|(_, seconds)| seconds).sum()
        };
        let share = |((station, state), seconds): (&(&'static str, String), &f64)| {
            let total = total(station);
            (total >= LEAST_SECONDS).then(|| (format!("time/{station}/{state}"), seconds / total))
        };
        since.iter().filter_map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(waiting: u64, updating: u64) -> Exposition {
        let metric = LEARNER.metric;
        Exposition(format!(
            "{metric}{{state=\"waiting\"}} {waiting}\n{metric}{{state=\"updating\"}} {updating}\n"
        ))
    }

    fn named(name: &str, share: f64) -> (String, f64) {
        (format!("time/learner/{name}"), share)
    }

    #[test]
    fn shares_are_of_the_time_since_the_window_began() {
        let mut shares = Shares::default();
        // Too little to say anything, then all since the beginning.
        assert_eq!(shares.take(&[LEARNER], &[answer(1, 0)]), []);
        let expected = [named("updating", 0.75), named("waiting", 0.25)];
        assert_eq!(shares.take(&[LEARNER], &[answer(2, 3)]), expected);
        // Of two processes together; the window still begins at the first look.
        let expected = [named("updating", 0.5), named("waiting", 0.5)];
        let two = [answer(3, 3), answer(1, 0)];
        assert_eq!(shares.take(&[LEARNER], &two), expected);
    }

    #[test]
    fn a_process_that_starts_again_counts_for_what_it_does_now() {
        let mut shares = Shares::default();
        shares.take(&[LEARNER], &[answer(100, 100)]);
        assert_eq!(shares.take(&[LEARNER], &[answer(2, 3)]), []);
        let expected = [named("updating", 1.0), named("waiting", 0.0)];
        assert_eq!(shares.take(&[LEARNER], &[answer(100, 104)]), expected);
    }
}
