//! `pmpo train --lockstep` as a user runs it: the same run again, stopped and resumed, on more threads; and
//! what it learns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs to the end of `flags`, and fails with what the run said.
fn train(run_dir: &Path, flags: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_pmpo"))
        .args(["train", "--lockstep", "--run-dir"])
        .arg(run_dir)
        .args(flags)
        .output()
        .expect("pmpo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// `progress.csv`, each row without its first column, `wall_s`.
fn progress(run_dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(run_dir.join("progress.csv")).expect("progress");
    let row = |line: &str| line.split_once(',').expect("columns").1.to_owned();
    text.lines().map(row).collect()
}

fn newest_checkpoint(run_dir: &Path) -> PathBuf {
    let entries = fs::read_dir(run_dir.join("checkpoints")).expect("checkpoints");
    let paths = entries.map(|entry| entry.expect("entry").path());
    let steps = paths.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("step-")
    });
    steps.max().expect("a checkpoint")
}

fn file(run_dir: &Path, name: &str) -> Vec<u8> {
    let path = newest_checkpoint(run_dir).join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Small, and short enough to be run some times; with a period that no episode's end falls on.
const SMALL: [&str; 10] = [
    "--seed",
    "7",
    "--set",
    "policy.torso.hidden_sizes=[32, 32]",
    "--set",
    "critic.torso.hidden_sizes=[32, 32]",
    "--set",
    "evaluator.period_learner_steps=90",
    "--set",
    "evaluator.episodes=1",
];

fn same_however_it_is_run(settings: &[&str], [half, whole]: [&str; 2]) {
    let folder = tempfile::tempdir().unwrap();
    // The name is part of a run.
    let run_dir = |name: &str| folder.path().join(name).join("run");
    let flags = |more: &[&'static str]| -> Vec<String> {
        let all = SMALL.iter().chain(settings).chain(more);
        all.map(|flag| (*flag).to_owned()).collect()
    };
    let run = |name: &str, flags: Vec<String>| {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        train(&run_dir(name), &flags);
    };
    let limit = |steps: &str| vec!["--env-steps".to_owned(), steps.to_owned()];
    let task = || vec!["cartpole-swingup".to_owned()];
    run("once", [task(), flags(&[]), limit(whole)].concat());
    run(
        "threads",
        [task(), flags(&["--threads", "2"]), limit(whole)].concat(),
    );
    run("resumed", [task(), flags(&[]), limit(half)].concat());
    run("resumed", [flags(&["--resume"]), limit(whole)].concat());

    let expected = progress(&run_dir("once"));
    assert!(expected.len() > 3, "{expected:?}");
    for other in ["threads", "resumed"] {
        assert_eq!(progress(&run_dir(other)), expected, "{other}");
        for name in ["state.safetensors", "policy.safetensors"] {
            let same = file(&run_dir(other), name) == file(&run_dir("once"), name);
            assert!(same, "{other}: {name}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run_stopped_and_resumed_or_on_more_threads() {
    same_however_it_is_run(&[], ["2345", "5678"]);
}

#[test]
fn so_it_does_with_repeated_actions_and_noise_normalised_observations_priorities_and_a_running_scale()
 {
    let settings = [
        "--preset",
        "efficient",
        "--set",
        "run.action_repeat=2",
        "--set",
        "update.discount=\"episode_length\"",
        // Stopped in the middle of one.
        "--set",
        "actor.noise_repeat=7",
        "--set",
        "replay.table.sampler=\"prioritized\"",
        "--set",
        "update.priorities={ kind = \"td_error\" }",
        "--set",
        "replay.table.min_size_to_sample=200",
    ];
    same_however_it_is_run(&settings, ["690", "1356"]);
}

/// From a return of 0 to half of all that there is; its seed is fixed. Without improvement of the policy
/// it stays below 200, whatever the seed.
#[test]
fn a_small_network_learns_the_swingup() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let flags = [
        "cartpole-swingup",
        "--seed",
        "1",
        "--learner-steps",
        "20000",
        "--stop-at-return",
        "500",
        "--set",
        "policy.torso.hidden_sizes=[64, 64]",
        "--set",
        "critic.torso.hidden_sizes=[64, 64]",
        "--set",
        "update.batch_size=128",
        "--set",
        "evaluator.period_learner_steps=1000",
        "--set",
        "evaluator.episodes=3",
    ];
    train(&run_dir, &flags);
    let mut reader = csv::Reader::from_path(run_dir.join("progress.csv")).unwrap();
    let means: Vec<f64> = reader
        .records()
        .map(|row| row.unwrap()[4].parse().unwrap())
        .collect();
    assert!(means[0] < 200.0, "{means:?}");
    assert!(means.last().is_some_and(|&mean| mean >= 500.0), "{means:?}");
}
