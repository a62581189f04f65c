//! Evaluation in a vector of environments that are stepped together.

use pmpo_policy::PolicyNetwork;
use pmpo_types::{StepType, TimeStep};
use tokio_util::sync::CancellationToken;

use crate::canonical::ActionScale;
use crate::environment::{EnvironmentError, VectorEnvironment};
use crate::evaluator::{EvaluationResult, Part, diverged};
use crate::lane::valid;
use crate::{ActorError, EvaluatorConfig};

/// As [`evaluate`](crate::evaluate), in a vector of environments, which play as many episodes each, or one more: who stops at the
/// first that end has short ones alone.
///
/// # Errors
/// As [`evaluate`](crate::evaluate).
///
/// # Panics
/// As [`evaluate`](crate::evaluate).
pub fn evaluate_vector(
    policy: &mut PolicyNetwork,
    environments: &mut dyn VectorEnvironment,
    config: &EvaluatorConfig,
) -> Result<EvaluationResult, ActorError> {
    let part = Part::all(config, environments.spec());
    let stop = CancellationToken::new();
    let returns = vector_returns(policy, environments, part, &stop)?;
    Ok(EvaluationResult::new(returns))
}

/// An environment of a vector that is evaluated.
#[derive(Clone)]
struct Player {
    /// Of the present state, as the policy sees it.
    observation: Vec<f32>,
    /// Return and steps of the episode under way; absent until the next one begins.
    episode: Option<(f64, usize)>,
    /// It goes on in the environment, and counts no more.
    cut_short: bool,
    returns: Vec<f64>,
    /// Episodes that it is to play.
    episodes: usize,
}

impl Player {
    fn is_done(&self) -> bool {
        self.returns.len() == self.episodes
    }

    /// What it has come to; or why the episode is void.
    fn take(&mut self, step: TimeStep<'_>, steps: usize) -> Result<Result<(), String>, ActorError> {
        let first = step.step_type == StepType::First;
        let (reward, _, last) = match valid(Ok(step), &mut self.observation)? {
            Ok(outcome) => outcome,
            Err(reason) => {
                self.observation.fill(0.0);
                self.cut_short = true;
                let counted = self.episode.take().is_some() || first;
                return Ok(if counted && !self.is_done() {
                    Err(reason)
                } else {
                    Ok(())
                });
            }
        };
        if first {
            self.episode = Some((0.0, 0));
            self.cut_short = false;
        } else if let Some((sum, taken)) = &mut self.episode {
            (*sum, *taken) = (*sum + reward, *taken + 1);
            if last || *taken >= steps {
                let sum = *sum;
                self.episode = None;
                self.cut_short = !last;
                if !self.is_done() {
                    self.returns.push(sum);
                }
            }
        }
        Ok(Ok(()))
    }
}

/// Returns of the episodes of a part, fewer where `stop` was cancelled, in the order of the environments.
pub(crate) fn vector_returns(
    policy: &mut PolicyNetwork,
    environments: &mut dyn VectorEnvironment,
    Part { episodes, steps }: Part,
    stop: &CancellationToken,
) -> Result<Vec<f64>, ActorError> {
    let (count, spec) = (environments.count(), environments.spec());
    let task = spec.task.clone();
    let mut scale = ActionScale::new(&spec.action);
    let mut action = vec![0.0; spec.action_size()];
    let player = |index| Player {
        observation: vec![0.0; spec.observation_size()],
        episode: None,
        cut_short: false,
        returns: Vec::new(),
        episodes: episodes / count + usize::from(index < episodes % count),
    };
    let mut players: Vec<Player> = (0..count).map(player).collect();
    let (mut observations, mut actions) = (Vec::new(), Vec::new());
    let (mut divergences, mut reset) = (0, true);
    while !players.iter().all(Player::is_done) && !stop.is_cancelled() {
        let call = if reset {
            environments.reset()
        } else {
            observations.clear();
            for player in &players {
                observations.extend_from_slice(&player.observation);
            }
            let mut rows = policy.batch(&observations);
            actions.clear();
            for row in 0..count {
                rows.mode(row, &mut action);
                actions.extend_from_slice(scale.scale(&action));
            }
            environments.step(&actions)
        };
        reset = match call {
            Ok(()) => false,
            Err(EnvironmentError::Void(error)) => {
                players.iter_mut().for_each(|player| player.episode = None);
                diverged(&mut divergences, episodes, &task, error)?;
                true
            }
            Err(error) => return Err(error.into()),
        };
        if reset {
            continue;
        }
        for (index, player) in players.iter_mut().enumerate() {
            let begun = environments.begun(index);
            for step in [Some(environments.outcome(index)), begun]
                .into_iter()
                .flatten()
            {
                if let Err(error) = player.take(step, steps)? {
                    diverged(&mut divergences, episodes, &task, error)?;
                }
            }
        }
        // Episodes that were cut short go on in their environments, some of them for ever.
        let mut open = players.iter().filter(|player| !player.is_done());
        reset = open.all(|player| player.episode.is_none() && player.cut_short);
    }
    Ok(players
        .into_iter()
        .flat_map(|player| player.returns)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate;
    use crate::testing::{SideBySide, policy};

    fn environment(seed: u64) -> pmpo_suite::Environment {
        pmpo_suite::load("cartpole-balance", seed).unwrap()
    }

    fn episodes(episodes: usize) -> EvaluatorConfig {
        EvaluatorConfig {
            episodes,
            ..EvaluatorConfig::default()
        }
    }

    /// Two of the three play twice, whichever way a vector begins anew.
    #[test]
    fn a_vector_s_environments_share_the_episodes() {
        let mut network = policy(environment(1).spec(), 1, 0).network;
        let bounded = EvaluatorConfig {
            max_episode_steps: Some(300),
            ..episodes(5)
        };
        for (config, same_step) in [(episodes(5), true), (episodes(5), false), (bounded, true)] {
            let environments = [1, 2, 3].map(environment).into();
            let mut vector = SideBySide::new(environments, same_step);
            let together = evaluate_vector(&mut network, &mut vector, &config).unwrap();
            let alone: Vec<f64> = [(1, 2), (2, 2), (3, 1)]
                .into_iter()
                .flat_map(|(seed, episodes)| {
                    let config = EvaluatorConfig {
                        episodes,
                        ..config.clone()
                    };
                    let result = evaluate(&mut network, &mut environment(seed), &config);
                    result.unwrap().returns
                })
                .collect();
            assert_eq!(together.returns, alone);
        }
    }
}
