//! The suite against dm_control itself: random episodes are played there, replayed here, and every
//! number is compared.
//!
//! Observations, discounts, kinds of step and lengths must be equal, observations to the last bit;
//! rewards may differ by one unit in the last place at 1.0. See `REWARD_TOLERANCE`.
//!
//! The private Python environment comes from `parity_env.sh`. `PMPO_PARITY_SEEDS=11,12` tries other
//! seeds (which also choose the actions), `PMPO_PARITY_ONLY=walker` some of the tasks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use pmpo_suite::SuiteError;
use pmpo_types::{StepType, TimeStep};
use serde::Deserialize;

/// NumPy's SIMD `exp` and glibc's, which Rust uses, may differ in the last place. Rewards are at
/// most one, so this is one unit in their last place, at the most.
const REWARD_TOLERANCE: f64 = f64::EPSILON;

const EPISODES: &str = "2";
const BENCHMARK_STEPS: &str = "1000";
const EXTRA_STEPS: &str = "200";
const PROCESSES: usize = 2;
/// dm_control's task count.
const TASKS: usize = 51;

/// Kind of a row: a step that raised dm_control's PhysicsError. Smaller ones are step types.
const PHYSICS_ERROR: f64 = 3.0;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("parity: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let only = std::env::var("PMPO_PARITY_ONLY").unwrap_or_default();
    let recordings = record(&only)?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    for path in &recordings {
        replay_file(path, &mut outcomes)?;
        fs::remove_file(path)?;
    }
    outcomes.sort_by(|a, b| a.task.cmp(&b.task));
    Ok(report(&outcomes, only.is_empty()))
}

fn python() -> Result<PathBuf> {
    if let Some(chosen) = std::env::var_os("PMPO_PARITY_PYTHON") {
        return Ok(chosen.into());
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = workspace.join("third_party/venv-parity/bin/python");
    ensure!(
        python.exists(),
        "no dm_control to compare with: run actor/suite/tests/parity_env.sh"
    );
    Ok(python)
}

/// Lets dm_control play, in several processes.
fn record(only: &str) -> Result<Vec<PathBuf>> {
    let python = python()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity_record.py");
    let seeds = std::env::var("PMPO_PARITY_SEEDS").unwrap_or_else(|_| "1,2,3".to_owned());
    let mut running: Vec<(Child, PathBuf)> = Vec::new();
    for part in 0..PROCESSES {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("parity-{}-{part}.bin", process::id()));
        let child = Command::new(&python)
            .arg(&script)
            .arg("--out")
            .arg(&out)
            .arg("--seeds")
            .args(seeds.split(','))
            .args(["--episodes", EPISODES, "--benchmark-steps", BENCHMARK_STEPS])
            .args(["--extra-steps", EXTRA_STEPS, "--only", only])
            .args([
                "--part",
                &part.to_string(),
                "--parts",
                &PROCESSES.to_string(),
            ])
            .env("MUJOCO_GL", "disable")
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        running.push((child, out));
    }
    let mut recordings = Vec::new();
    for (child, out) in running {
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "dm_control failed:\n{said}");
        recordings.push(out);
    }
    Ok(recordings)
}

#[derive(Deserialize)]
struct Header {
    task: String,
    benchmarking: bool,
    seed: u64,
    rows: usize,
    width: usize,
    actions: usize,
    control_timestep: f64,
}

/// What the comparison of one task found, over its seeds.
#[derive(Default)]
struct Outcome {
    task: String,
    steps: usize,
    observation_difference: f64,
    observations_differing: usize,
    observations: usize,
    reward_difference: f64,
    physics_errors: usize,
    failure: Option<String>,
}

impl Outcome {
    fn fail(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
    }
}

fn replay_file(path: &Path, outcomes: &mut Vec<Outcome>) -> Result<()> {
    let bytes = fs::read(path)?;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let line_end = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .context("cut recording")?;
        let header: Header = serde_json::from_slice(&rest[..line_end])?;
        rest = &rest[line_end + 1..];
        let (block, after) = rest
            .split_at_checked(header.rows * header.width * size_of::<f64>())
            .context("cut recording")?;
        rest = after;
        let (words, _) = block.as_chunks();
        let values: Vec<f64> = words.iter().map(|word| f64::from_le_bytes(*word)).collect();
        if outcomes
            .last()
            .is_none_or(|outcome| outcome.task != header.task)
        {
            outcomes.push(Outcome {
                task: header.task.clone(),
                ..Outcome::default()
            });
        }
        let outcome = outcomes.last_mut().context("just pushed")?;
        if let Err(error) = replay(&header, &values, outcome) {
            outcome.fail(format!("seed {}: {error:#}", header.seed));
        }
    }
    Ok(())
}

fn replay(header: &Header, values: &[f64], outcome: &mut Outcome) -> Result<()> {
    let info = pmpo_suite::tasks()
        .iter()
        .find(|info| info.name == header.task);
    let info = info.context("not in the registry")?;
    ensure!(
        info.benchmarking == header.benchmarking,
        "benchmarking is {}",
        info.benchmarking
    );
    let mut environment = pmpo_suite::load(&header.task, header.seed)?;
    let spec = environment.spec();
    ensure!(
        spec.control_timestep == header.control_timestep,
        "other control timestep"
    );
    ensure!(spec.action_size() == header.actions, "other action size");
    ensure!(
        spec.observation_size() + header.actions + 3 == header.width,
        "other observation size"
    );
    for (index, row) in values.chunks_exact(header.width).enumerate() {
        let (theirs, action) = row.split_at(row.len() - header.actions);
        let outcome_here = if theirs[0] == StepType::First as usize as f64 {
            environment.reset()
        } else {
            environment.step(action)
        };
        outcome.steps += 1;
        match outcome_here {
            Ok(ours) => compare(&ours, theirs, outcome).with_context(|| format!("row {index}"))?,
            Err(SuiteError::Physics(_)) if theirs[0] == PHYSICS_ERROR => {
                outcome.physics_errors += 1
            }
            Err(error) => bail!("row {index}: {error}"),
        }
    }
    Ok(())
}

fn compare(ours: &TimeStep<'_>, theirs: &[f64], outcome: &mut Outcome) -> Result<()> {
    let (kind, reward, discount, observation) = (theirs[0], theirs[1], theirs[2], &theirs[3..]);
    ensure!(
        ours.step_type as usize as f64 == kind,
        "{:?} against {kind}",
        ours.step_type
    );
    if ours.step_type != StepType::First {
        ensure!(
            ours.discount == Some(discount),
            "discount {:?} against {discount}",
            ours.discount
        );
        let difference = (ours.reward.context("no reward")? - reward).abs();
        outcome.reward_difference = outcome.reward_difference.max(difference);
        if difference.is_nan() || difference > REWARD_TOLERANCE {
            outcome.fail(format!("reward {:?} against {reward}", ours.reward));
        }
    }
    outcome.observations += observation.len();
    for (index, (a, b)) in ours.observation.iter().zip(observation).enumerate() {
        if a.to_bits() != b.to_bits() {
            outcome.observations_differing += 1;
            outcome.observation_difference = outcome.observation_difference.max((a - b).abs());
            outcome.fail(format!("observation[{index}] {a:e} against {b:e}"));
        }
    }
    Ok(())
}

fn report(outcomes: &[Outcome], complete: bool) -> bool {
    println!(
        "{:<28} {:>7} {:>10} {:>18} {:>12} {:>7}",
        "task", "steps", "max |dObs|", "differing values", "max |dRew|", "errors"
    );
    for outcome in outcomes {
        let share = format!(
            "{}/{}",
            outcome.observations_differing, outcome.observations
        );
        println!(
            "{:<28} {:>7} {:>10.1e} {:>18} {:>12.1e} {:>7}  {}",
            outcome.task,
            outcome.steps,
            outcome.observation_difference,
            share,
            outcome.reward_difference,
            outcome.physics_errors,
            outcome
                .failure
                .as_ref()
                .map_or("ok".to_owned(), |why| format!("FAILED: {why}")),
        );
    }
    let failed: Vec<&str> = outcomes
        .iter()
        .filter(|outcome| outcome.failure.is_some())
        .map(|outcome| outcome.task.as_str())
        .collect();
    let missing = complete && outcomes.len() != TASKS;
    if missing {
        println!("{} tasks were compared instead of {TASKS}", outcomes.len());
    }
    let good = failed.is_empty() && !missing && !outcomes.is_empty();
    if !failed.is_empty() {
        println!("tasks that differ from dm_control: {}", failed.join(", "));
    }
    println!(
        "\n{} passed, {} failed",
        outcomes.len() - failed.len(),
        failed.len()
    );
    good
}
