//! Every task that `pmpo tasks` lists is trained, evaluated and drawn.

mod common;

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use common::wait_for;

/// An update as small as they come, and episodes that are over after a moment.
const SMALL: [&str; 9] = [
    "policy.hidden_sizes=[8]",
    "learner.batch_size=8",
    "replay.table.samples_per_insert=8.0",
    "replay.table.min_size_to_sample=10",
    "replay.table.max_size=100",
    "replay.table.max_batch_size=8",
    "evaluator.episodes=1",
    "evaluator.period_learner_steps=1000",
    "evaluator.max_episode_steps=20",
];

fn pmpo(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pmpo"));
    command
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("pmpo")
}

fn succeeded(output: &Output, what: &str) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn tasks(folder: &Path) -> Vec<serde_json::Value> {
    let listed = succeeded(&pmpo(folder, &["tasks", "--json"]), "tasks");
    serde_json::from_str(&listed).expect("an array")
}

fn try_task(folder: &Path, task: &str) {
    let mut train = vec![
        "train",
        task,
        "--lockstep",
        "--run-dir",
        task,
        "--learner-steps",
        "3",
    ];
    for setting in &SMALL {
        train.extend(["--set", setting]);
    }
    succeeded(&pmpo(folder, &train), task);
    let rows = std::fs::read_to_string(folder.join(task).join("progress.csv")).expect("rows");
    assert_eq!(rows.lines().count(), 2, "{task}: {rows}");
    let short = ["--max-episode-steps", "20"];
    let eval = [&["eval", task, "--episodes", "1"][..], &short].concat();
    let said = succeeded(&pmpo(folder, &eval), task);
    assert!(said.contains("over 1 episodes"), "{task}: {said}");
    let render = [
        "render",
        task,
        "--width",
        "64",
        "--height",
        "48",
        "--out",
        "episode.gif",
    ];
    let said = pmpo(folder, &[&render[..], &short].concat());
    if let Some(reason) = no_graphics(&said) {
        eprintln!("{task} is not drawn: {reason}");
        return;
    }
    assert!(succeeded(&said, task).contains("frames"), "{task}");
}

/// Why this machine cannot draw; its packages are no part of a test.
fn no_graphics(output: &Output) -> Option<String> {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    stderr.contains("libegl1").then_some(stderr)
}

#[test]
fn every_task_can_be_trained_evaluated_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = tasks(folder.path());
    assert!(tasks.len() >= 51, "{} tasks", tasks.len());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let names: Vec<&str> = tasks
        .iter()
        .map(|task| task["name"].as_str().unwrap())
        .collect();
    std::thread::scope(|scope| {
        for share in names.chunks(names.len().div_ceil(threads)) {
            let folder = tempfile::tempdir_in(folder.path()).unwrap();
            scope.spawn(move || {
                for task in share {
                    try_task(folder.path(), task);
                }
            });
        }
    });
}

/// lqr ends by itself at rest in the origin alone, which no policy reaches.
#[test]
fn a_task_whose_episodes_have_no_end_is_evaluated_and_ended_like_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let endless: Vec<_> = tasks(folder.path())
        .into_iter()
        .filter(|task| task["episode_length"].is_null())
        .collect();
    assert_eq!(endless.len(), 2, "{endless:?}");
    let run_dir = folder.path().join("run");
    let mut train = Command::new(env!("CARGO_BIN_EXE_pmpo"));
    train.args([
        "train",
        "lqr-lqr-2-1",
        "--set",
        "evaluator.max_episode_steps=1000000000",
    ]);
    let mut train = train.arg("--run-dir").arg(&run_dir).spawn().unwrap();
    wait_for("the evaluator", || {
        let log = std::fs::read_to_string(run_dir.join("logs/evaluator-0.log"));
        log.is_ok_and(|log| log.contains("evaluating"))
            .then_some(())
    });
    std::thread::sleep(Duration::from_millis(500));
    let pid = train.id().to_string();
    Command::new("kill").args(["-INT", &pid]).status().unwrap();
    wait_for("the end", || train.try_wait().unwrap());
    let log = std::fs::read_to_string(run_dir.join("logs/evaluator-0.log")).unwrap();
    assert!(log.contains("stopping"), "{log}");
    assert!(train.wait().unwrap().success());

    let run_dir = run_dir.display().to_string();
    let output = pmpo(folder.path(), &["eval", &run_dir, "--episodes", "2"]);
    succeeded(&output, "eval");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("an episode ends after 1000 steps"), "{said}");
}
