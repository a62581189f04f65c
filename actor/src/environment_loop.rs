//! The thread of an environment, or of a vector of them: takes the newest policy before each step, and reports each
//! episode.

use std::time::Duration;

use pmpo_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::ActorError;
use crate::lane::Episode;
use crate::reports::EpisodeReports;
use crate::stepper::Acting;
use crate::weights::WeightsSource;

/// What an environment's thread works with.
pub(crate) struct EnvironmentLoop<W> {
    pub(crate) actor: String,
    pub(crate) stepper: Box<dyn Acting>,
    pub(crate) weights: W,
    pub(crate) episodes: EpisodeReports,
    pub(crate) shutdown: CancellationToken,
    /// How long the sink may take to store what is left at the end.
    pub(crate) grace: Duration,
}

impl<W: WeightsSource> EnvironmentLoop<W> {
    /// Acts until told to stop, then leaves nothing unstored that can be stored in time.
    pub(crate) fn run(self) -> Result<(), ActorError> {
        let Self {
            actor,
            mut stepper,
            mut weights,
            episodes,
            shutdown,
            grace,
        } = self;
        let Some(mut policy) = weights.wait() else {
            return Ok(());
        };
        let mut ended = |episode| report(&episodes, &actor, &episode);
        while !shutdown.is_cancelled() {
            if let Some(newer) = weights.newer() {
                policy = newer;
            }
            match stepper.act(&mut policy, &mut ended) {
                Ok(()) => {}
                // A push that was blocked when the time to stop came; its batch is lost, and logged.
                Err(ActorError::Replay(pmpo_replay_client::ClientError::Shutdown)) => break,
                Err(error) => return Err(error),
            }
        }
        stepper.finish(grace)
    }
}

fn report(episodes: &EpisodeReports, actor: &str, episode: &Episode) {
    let discounted = episode.discounted;
    episodes.report(v1::ReportEpisodeRequest {
        actor: actor.to_owned(),
        episode_return: episode.undiscounted,
        length: episode.length,
        policy_version: episode.policy_version.0,
        discounted: Some(v1::DiscountedReturns {
            mean: discounted.mean,
            square: discounted.square,
            largest: discounted.largest,
        }),
    });
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use pmpo_replay_client::ClientError;
    use pmpo_suite::SuiteError;
    use pmpo_types::{StepBatch, StepType, TimeStep, step};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::collector::Collector;
    use crate::insertion::StepSink;
    use crate::lane::valid;
    use crate::noise::{Noise, NoiseRepeat};
    use crate::run_info::Window;
    use crate::stepper::Stepper;
    use crate::testing::{Script, SideBySide, policy};
    use crate::vector_stepper::VectorStepper;

    struct ChannelSink(Sender<StepBatch>);

    impl StepSink for ChannelSink {
        fn push(&mut self, batch: &StepBatch) -> Result<(), ClientError> {
            self.0
                .send(batch.clone())
                .map_err(|_| ClientError::Shutdown)
        }

        fn flush(&mut self, _: Duration) -> Result<(), ClientError> {
            Ok(())
        }
    }

    fn stepper(window: Window, sender: Sender<StepBatch>) -> Stepper<ChannelSink> {
        repeating(NoiseRepeat::default(), window, sender)
    }

    fn repeating(
        repeat: NoiseRepeat,
        window: Window,
        sender: Sender<StepBatch>,
    ) -> Stepper<ChannelSink> {
        let environment = pmpo_suite::load("cartpole-swingup", 5).unwrap();
        let sink = ChannelSink(sender);
        let collector = Collector::new(window, environment.spec(), 32, sink);
        let noise = Noise::new(repeat, ChaCha8Rng::seed_from_u64(3));
        Stepper::new(environment, collector, noise, 0.99)
    }

    const TRANSITIONS: Window = Window {
        steps: 3,
        period: 1,
    };

    /// Acts for `steps` steps on cartpole swingup, with policy version 1 and, from step `switch` on,
    /// version 2.
    fn act(
        window: Window,
        steps: usize,
        switch: usize,
    ) -> (
        Receiver<StepBatch>,
        tokio::sync::mpsc::Receiver<v1::ReportEpisodeRequest>,
    ) {
        let spec = stepper_spec();
        let shutdown = CancellationToken::new();
        let mut weights = Script::new(&shutdown);
        weights.first = Some(policy(&spec, 1, 0));
        weights.later.insert(switch, policy(&spec, 2, 100));
        weights.steps = steps;
        let (sender, batches) = channel();
        let (episodes, reports) = EpisodeReports::new(8);
        let work = EnvironmentLoop {
            actor: "actor-0".to_owned(),
            stepper: Box::new(stepper(window, sender)),
            weights,
            episodes,
            shutdown,
            grace: Duration::ZERO,
        };
        work.run().unwrap();
        (batches, reports)
    }

    fn versions(batches: &[StepBatch], column: usize) -> Vec<i64> {
        batches
            .iter()
            .flat_map(|batch| batch.steps().columns()[column].chunks_exact(8))
            .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
            .collect()
    }

    fn floats(batches: &[StepBatch], column: usize) -> Vec<f32> {
        batches
            .iter()
            .flat_map(|batch| batch.steps().columns()[column].chunks_exact(4))
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect()
    }

    /// The step types of all rows, and how many windows end in them.
    fn shape(batches: &[StepBatch]) -> (Vec<i64>, usize) {
        let windows = batches.iter().map(StepBatch::items).sum();
        (versions(batches, step::STEP_TYPE), windows)
    }

    /// Episodes of 1000 steps: 1000 rows and three for the last windows, then the steps of another with
    /// the state that the actor was stopped in.
    #[test]
    fn every_step_becomes_one_window_of_the_version_that_acted() {
        // The first time the source is asked is before the first step; the last, nothing is done.
        let (batches, mut reports) = act(TRANSITIONS, 1500, 600);
        let batches: Vec<_> = batches.iter().collect();
        let (types, windows) = shape(&batches);
        let steps = 1500;
        assert_eq!((types.len(), windows), (steps + 6, steps));
        let lasts: Vec<usize> = (0..types.len())
            .filter(|&row| types[row] == StepType::Last.number())
            .collect();
        assert_eq!(lasts, [1000, 1001, 1002, 1503, 1504, 1505]);
        let firsts = types
            .iter()
            .filter(|&&kind| kind == StepType::First.number());
        assert_eq!(firsts.count(), 2);
        let versions = versions(&batches, step::POLICY_VERSION);
        assert!(versions[..600].iter().all(|version| *version == 1));
        assert!(versions[600..].iter().all(|version| *version == 2));

        let report = reports.try_recv().unwrap();
        assert_eq!((report.length, report.policy_version), (1000, 2));
        assert!((0.0..1000.0).contains(&report.episode_return));
        let discounted = report.discounted.unwrap();
        assert!(discounted.mean > 0.0 && discounted.mean < discounted.largest);
        assert!(discounted.square > discounted.mean.powi(2));
        assert!(
            reports.try_recv().is_err(),
            "the second episode did not finish"
        );
    }

    #[test]
    fn rows_hold_actions_as_drawn_with_their_log_probabilities() {
        let window = Window {
            steps: 8,
            period: 4,
        };
        let (batches, _) = act(window, 1500, 600);
        let batches: Vec<_> = batches.iter().collect();
        let (types, windows) = shape(&batches);
        assert_eq!(windows, 1500 / 4);
        let actions = floats(&batches, step::ACTION);
        assert!(
            actions.iter().any(|action| action.abs() > 1.0),
            "not clipped"
        );
        let log_probs = floats(&batches, step::LOG_PROB);
        // The untrained policy's mean is 0, its standard deviation 0.7.
        for ((action, log_prob), kind) in actions.iter().zip(log_probs).zip(types) {
            let density = -0.5 * (action / 0.7).powi(2) - (0.7 * std::f32::consts::TAU.sqrt()).ln();
            let expected = if kind == StepType::Last.number() {
                0.0
            } else {
                density
            };
            assert!((log_prob - expected).abs() < 1e-4, "{log_prob}, {expected}");
        }
    }

    /// The mean is 0 in every state, so that the same noise is the same action.
    #[test]
    fn noise_is_repeated_over_steps_and_retaken_with_them() {
        let begin = || {
            let (sender, batches) = channel();
            (
                repeating(NoiseRepeat::Fixed(4), TRANSITIONS, sender),
                batches,
            )
        };
        let (mut stepper, _batches) = begin();
        let mut policy = policy(&stepper_spec(), 1, 0);
        let mut noise = None;
        let actions: Vec<Vec<f32>> = (0..14)
            .map(|at| {
                if at == 6 {
                    noise = Some(stepper.noise().clone());
                }
                stepper.step(&mut policy).unwrap();
                stepper.drawn().to_vec()
            })
            .collect();
        for (at, pair) in actions.windows(2).enumerate() {
            assert_eq!(pair[0] == pair[1], (at + 1) % 4 != 0, "{at}: {actions:?}");
        }
        // As a run that is resumed in the middle of a repetition.
        let (mut stepper, _batches) = begin();
        assert!(stepper.retake(&actions[..6], noise.unwrap()).unwrap());
        for action in &actions[6..] {
            stepper.step(&mut policy).unwrap();
            assert_eq!(stepper.drawn(), action);
        }
    }

    /// What a vector's environments are taken through is what each is taken through alone: actions drawn from its
    /// own noise in one pass over the weights, its own episodes, and nothing of the steps between them.
    #[test]
    fn a_vector_is_so_many_environments() {
        let (seeds, steps) = ([5, 6, 7], 1300);
        let environment = |&seed: &u64| pmpo_suite::load("cartpole-swingup", seed).unwrap();
        let lane = |&seed: &u64| {
            let (sender, batches) = channel();
            let spec = stepper_spec();
            let collector = Collector::new(TRANSITIONS, &spec, 32, ChannelSink(sender));
            let noise = Noise::new(NoiseRepeat::Fixed(2), ChaCha8Rng::seed_from_u64(seed));
            ((collector, noise), batches)
        };
        let mut policy = policy(&stepper_spec(), 1, 0);
        let alone: Vec<_> = seeds
            .iter()
            .map(|seed| {
                let ((collector, noise), batches) = lane(seed);
                let mut stepper = Stepper::new(environment(seed), collector, noise, 0.99);
                let mut ended = Vec::new();
                for _ in 0..steps {
                    ended.extend(stepper.step(&mut policy).unwrap());
                }
                (batches.try_iter().collect::<Vec<_>>(), ended)
            })
            .collect();
        for same_step in [true, false] {
            let vector = SideBySide::new(seeds.iter().map(environment).collect(), same_step);
            let (lanes, batches): (Vec<_>, Vec<_>) = seeds.iter().map(lane).unzip();
            let mut stepper = VectorStepper::new(Box::new(vector), lanes, 0.99);
            let mut ended = Vec::new();
            // Where the next episode begins with the next step, that step is one more.
            for _ in 0..steps + usize::from(!same_step) {
                stepper
                    .act(&mut policy, &mut |episode| ended.push(episode))
                    .unwrap();
            }
            let expected: Vec<_> = alone.iter().flat_map(|(_, ended)| ended.clone()).collect();
            assert_eq!((expected.len(), &ended), (3, &expected));
            for (batches, (expected, _)) in batches.iter().zip(&alone) {
                let batches: Vec<_> = batches.try_iter().collect();
                assert!(batches == *expected, "same_step {same_step}");
            }
        }
    }

    fn stepper_spec() -> pmpo_types::EnvironmentSpec {
        pmpo_suite::load("cartpole-swingup", 5)
            .unwrap()
            .spec()
            .clone()
    }

    #[test]
    fn the_same_seeds_give_the_same_experience() {
        let experience = || act(TRANSITIONS, 300, 200).0.iter().collect::<Vec<_>>();
        let first = experience();
        assert!(!first.is_empty());
        assert_eq!(first, experience());
    }

    #[test]
    fn without_a_policy_nothing_happens() {
        let shutdown = CancellationToken::new();
        let (sender, batches) = channel();
        let work = EnvironmentLoop {
            actor: "actor-0".to_owned(),
            stepper: Box::new(stepper(TRANSITIONS, sender)),
            weights: Script::new(&shutdown),
            episodes: EpisodeReports::new(8).0,
            shutdown,
            grace: Duration::ZERO,
        };
        work.run().unwrap();
        assert_eq!(batches.iter().count(), 0);
    }

    #[test]
    fn steps_that_cannot_be_learned_from_void_the_episode() {
        let step = |reward, observation| {
            Ok(TimeStep {
                step_type: pmpo_types::StepType::Mid,
                reward: Some(reward),
                discount: Some(1.0),
                observation,
            })
        };
        let mut observation = Vec::new();
        assert_eq!(
            valid(step(0.5, &[1.0]), &mut observation).unwrap(),
            Ok((0.5, 1.0, false))
        );
        assert_eq!(observation, [1.0]);
        for bad in [
            step(f64::NAN, &[1.0]),
            step(1e300, &[1.0]),
            step(0.0, &[f64::INFINITY]),
        ] {
            assert!(valid(bad, &mut observation).unwrap().is_err());
        }
        let broken = SuiteError::ActionSize {
            found: 1,
            expected: 2,
        };
        assert!(
            valid(Err(broken.into()), &mut observation).is_err(),
            "not every error is a divergence"
        );
    }
}
