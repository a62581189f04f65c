//! `pmpo data collect`: a policy acts, and what happens is written.

use std::path::PathBuf;

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use pmpo_actor::ENDLESS_EPISODE_STEPS;
use pmpo_actor::canonical::{ActionScale, narrow};
use pmpo_actor::environment::Environment;
use pmpo_data::{About, Episode, Writer};
use pmpo_policy::{PolicyNetwork, clip};
use pmpo_types::{Generator, derive_seed};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use super::super::eval::tell_endless;
use crate::environments;
use crate::failure::Usage;
use crate::output::answer;
use crate::policies::{Choice, Chosen};

#[derive(Debug, Args)]
pub(crate) struct CollectArgs {
    /// Task, as `domain-task`; with --policy that one's own.
    task: Option<String>,
    /// Folder to write, which must not be there.
    #[arg(long)]
    out: PathBuf,
    /// Episodes to write.
    #[arg(long, default_value_t = 10)]
    episodes: usize,
    /// What acts: the folder of a run, of a checkpoint, or a file of `pmpo export --safetensors`. Without it,
    /// actions are drawn evenly.
    #[arg(long, value_name = "RUN")]
    policy: Option<PathBuf>,
    /// Which of the run's policies: best, newest or a learner step.
    #[arg(long, default_value = "best")]
    checkpoint: Choice,
    /// Draw from the policy's distribution instead of taking its mode.
    #[arg(long)]
    sample: bool,
    /// Standard deviation of what is added to actions, as a share of half their range.
    #[arg(long, default_value_t = 0.0)]
    noise: f64,
    /// Steps after which an episode is cut.
    #[arg(long)]
    max_episode_steps: Option<usize>,
    /// Seed of environment and actions.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// What chooses actions.
struct Acting {
    policy: Option<PolicyNetwork>,
    sample: bool,
    noise: f64,
    rng: ChaCha8Rng,
}

impl Acting {
    /// Chooses a canonical action, within its range.
    fn act(&mut self, observation: &[f32], action: &mut [f32]) {
        match &mut self.policy {
            Some(policy) if self.sample => policy.sample(observation, &mut self.rng, action),
            Some(policy) => policy.mode(observation, action),
            None => action.fill_with(|| self.rng.random_range(-1.0..=1.0)),
        }
        if self.noise > 0.0 {
            for value in &mut *action {
                let noise: f64 = StandardNormal.sample(&mut self.rng);
                *value += (self.noise * noise) as f32;
            }
            clip(action);
        }
    }
}

/// Writes episodes, and says what they brought.
pub(super) fn collect(args: &CollectArgs) -> Result<()> {
    ensure!(
        args.episodes > 0,
        Usage::new(anyhow!("--episodes: expected at least 1"))
    );
    ensure!(
        args.noise >= 0.0 && args.noise.is_finite(),
        Usage::new(anyhow!(
            "--noise: expected a finite number, at least 0, got {}",
            args.noise
        ))
    );
    let (mut environment, policy) = load(args)?;
    let spec = environment.spec().clone();
    tell_endless(&spec, args.max_episode_steps);
    let limit = args.max_episode_steps.or(spec.decision_limit());
    let limit = limit.unwrap_or(ENDLESS_EPISODE_STEPS);
    let about = About {
        algorithm: match &args.policy {
            Some(policy) => format!("{}, noise {}", policy.display(), args.noise),
            None => "actions drawn evenly".to_owned(),
        },
        ..About::default()
    };
    let mut acting = Acting {
        policy,
        sample: args.sample,
        noise: args.noise,
        rng: ChaCha8Rng::seed_from_u64(derive_seed(args.seed, Generator::ActorPolicy, 0)),
    };
    let mut writer = Writer::create(&args.out, &spec, &about).map_err(super::failed)?;
    let mut sum = 0.0;
    for _ in 0..args.episodes {
        let episode = episode(environment.as_mut(), &mut acting, limit)?;
        sum += episode.undiscounted_return();
        writer.push(&episode).map_err(super::failed)?;
    }
    writer.finish().map_err(super::failed)?;
    let mean = sum / args.episodes as f64;
    let (episodes, out) = (args.episodes, args.out.display());
    answer!(
        "{episodes} episodes of {}, mean return {mean:.1}, in {out}",
        spec.task
    )?;
    Ok(())
}

fn load(args: &CollectArgs) -> Result<(Box<dyn Environment>, Option<PolicyNetwork>)> {
    let seed = derive_seed(args.seed, Generator::Environment, 0);
    let Some(path) = &args.policy else {
        let Some(task) = &args.task else {
            return Err(Usage::new(anyhow!("expected a task, or --policy")).into());
        };
        return Ok((environments::load(task, 1, seed)?, None));
    };
    let chosen = Chosen::load(path, args.checkpoint)?;
    if let Some(task) = args.task.as_ref().filter(|task| **task != chosen.task) {
        let error = anyhow!(
            "--policy: expected a policy of {task}, got one of {}",
            chosen.task
        );
        return Err(Usage::new(error).into());
    }
    let environment = chosen.environment(seed)?;
    Ok((environment, Some(chosen.policy)))
}

/// Steps an episode to its end, or to the limit.
fn episode(
    environment: &mut dyn Environment,
    acting: &mut Acting,
    limit: usize,
) -> Result<Episode> {
    let mut scale = ActionScale::new(&environment.spec().action);
    let mut canonical = vec![0.0; environment.spec().action_size()];
    let (mut episode, mut narrowed) = (Episode::default(), Vec::new());
    narrow(environment.reset()?.observation, &mut narrowed);
    episode.observations.extend_from_slice(&narrowed);
    while episode.steps() < limit {
        acting.act(&narrowed, &mut canonical);
        let action = scale.scale(&canonical);
        episode
            .actions
            .extend(action.iter().map(|&value| value as f32));
        let step = environment.step(action)?;
        episode.rewards.push(step.reward.unwrap_or(0.0));
        narrow(step.observation, &mut narrowed);
        episode.observations.extend_from_slice(&narrowed);
        if step.is_last() {
            episode.terminated = step.discount == Some(0.0);
            break;
        }
    }
    Ok(episode)
}
