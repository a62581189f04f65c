//! Data sets and offline learning as a user runs them: collected, looked at, labelled, learned from, ended and
//! resumed, and taken on line; and what is refused.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn pmpo(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pmpo"));
    let command = command.args(arguments).current_dir(folder);
    command.output().expect("pmpo runs")
}

fn said(folder: &Path, arguments: &[&str]) -> String {
    let output = pmpo(folder, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(folder: &Path, arguments: &[&str], expected: &str) {
    let output = pmpo(folder, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    assert_eq!(stderr.trim().lines().count(), 1, "{arguments:?}: {stderr}");
}

fn info(folder: &Path, data: &str) -> serde_json::Value {
    serde_json::from_str(&said(folder, &["data", "info", data, "--json"])).expect("one object")
}

const SMALL: [&str; 8] = [
    "--set",
    "policy.torso.hidden_sizes=[16]",
    "--set",
    "critic.torso.hidden_sizes=[16]",
    "--set",
    "evaluator.episodes=1",
    "--set",
    "evaluator.period_learner_steps=25",
];

fn collect(folder: &Path, task: &str, out: &str, episodes: &str) {
    let arguments = [
        "--max-episode-steps",
        "60",
        "--seed",
        "3",
        "--episodes",
        episodes,
    ];
    let all = [&["data", "collect", task, "--out", out], &arguments[..]].concat();
    said(folder, &all);
}

/// `progress.csv`, each row without its first column, `wall_s`.
fn progress(run_dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(run_dir.join("progress.csv")).expect("progress");
    let row = |line: &str| line.split_once(',').expect("columns").1.to_owned();
    text.lines().map(row).collect()
}

fn newest(run_dir: &Path, name: &str) -> Vec<u8> {
    let entries = fs::read_dir(run_dir.join("checkpoints")).expect("checkpoints");
    let paths = entries.map(|entry| entry.expect("entry").path());
    let steps = paths.filter(|path| path.to_string_lossy().contains("step-"));
    fs::read(steps.max().expect("a checkpoint").join(name)).expect(name)
}

/// A data set that does not fit the memory it may take too: episodes come and go, and come back after a
/// resumption.
#[test]
fn an_offline_run_is_the_same_however_it_is_run_and_goes_on_on_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    collect(folder, "cartpole-balance", "data", "6");
    let of = info(folder, "data");
    assert_eq!((&of["episodes"], &of["steps"]), (&6.into(), &360.into()));
    assert_eq!(of["task"], "cartpole-balance");
    assert_eq!(
        (&of["accepted_steps"], &of["rejected_steps"]),
        (&0.into(), &0.into())
    );

    let labelled = said(
        folder,
        &[
            "data",
            "label",
            "data",
            "--return-quantile",
            "0.5",
            "--episodes",
            "4",
        ],
    );
    let of = info(folder, "data");
    let (accepted, rejected) = (
        of["accepted_steps"].as_u64().unwrap(),
        of["rejected_steps"].as_u64().unwrap(),
    );
    assert_eq!(accepted + rejected, 4 * 60);
    assert!(accepted > 0 && rejected > 0, "{labelled}");

    // 60 steps take (61 * 5 + 60 + 2 * 60) * 4 bytes: three episodes of six are held.
    let memory = ["--set", "data.memory_bytes=4000"];
    let offline = |name: &str, data: &str, more: &[&str]| {
        let run_dir = folder.join(name).join("run");
        let run_dir = run_dir.to_str().unwrap();
        let all = [&["offline", data, "--run-dir", run_dir], more].concat();
        said(folder, &all)
    };
    let fresh = [&SMALL[..], &memory, &["--seed", "5"]].concat();
    let limited = |steps: &'static str| [&fresh[..], &["--learner-steps", steps]].concat();
    offline("once", "data", &limited("100"));
    offline("resumed", "data", &limited("50"));
    offline("resumed", "data", &["--resume", "--learner-steps", "100"]);
    let once = folder.join("once/run");
    let resumed = folder.join("resumed/run");
    let expected = progress(&once);
    assert!(expected.len() > 4, "{expected:?}");
    assert_eq!(progress(&resumed), expected);
    for file in ["policy.safetensors", "state.safetensors", "data.bin"] {
        assert_eq!(newest(&once, file), newest(&resumed, file), "{file}");
    }

    // Its critic labels, and its policy goes on with a share of the data.
    let by_critic = [
        "data", "label", "data", "--critic", "once/run", "--drop", "0.25",
    ];
    said(folder, &by_critic);
    let of = info(folder, "data");
    let labels = of["accepted_steps"].as_u64().unwrap() + of["rejected_steps"].as_u64().unwrap();
    assert_eq!(labels, 270, "{of}");
    let networks = [
        "--set",
        "policy.torso={ hidden_sizes = [16], activation = \"layer_norm_relu_each\" }",
        "--set",
        "critic.torso={ hidden_sizes = [16], activation = \"layer_norm_relu_each\" }",
        "--set",
        "policy.normalise_observations=true",
        "--set",
        "evaluator.episodes=1",
        "--set",
        "replay.table.min_size_to_sample=100",
    ];
    let online = [
        &[
            "train",
            "cartpole-balance",
            "--lockstep",
            "--run-dir",
            "online",
            "--from",
            "once/run",
        ][..],
        &[
            "--set",
            "data.path=\"data\"",
            "--set",
            "data.share=0.5",
            "--env-steps",
            "300",
        ],
        &networks,
    ];
    said(folder, &online.concat());
    // Nobody has learned in it before its first evaluation: it is the offline policy's, of the first episode.
    let begun = progress(&folder.join("online"));
    assert!(begun[1].starts_with("0,0,1,"), "{begun:?}");

    // For others, and back.
    let for_others = [
        "data",
        "export",
        "data",
        "for-others",
        "--format",
        "lerobot",
    ];
    said(folder, &for_others);
    said(folder, &["data", "import", "for-others", "back"]);
    let (of, back) = (info(folder, "data"), info(folder, "back"));
    for key in ["episodes", "steps", "accepted_steps", "rejected_steps"] {
        assert_eq!(of[key], back[key], "{key}");
    }
    // LeRobot's rewards are f32.
    let mean = |info: &serde_json::Value| info["return_mean"].as_f64().unwrap();
    assert!((mean(&of) - mean(&back)).abs() < 1e-5, "{of} {back}");

    // What it has stored is a data set again: of the episode under way all steps that n-step windows began at.
    said(folder, &["data", "export", "--replay", "online", "stored"]);
    let of = info(folder, "stored");
    assert_eq!(of["task"], "cartpole-balance");
    assert_eq!(of["episodes"], 1, "{of}");
    let steps = of["steps"].as_u64().unwrap();
    assert!((290..300).contains(&steps), "{of}");
}

#[test]
fn what_cannot_be_is_refused_and_has_changed_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    collect(folder, "cartpole-balance", "data", "1");
    let before = fs::read(folder.join("data/data/metadata.json")).unwrap();
    let offline = |more: &[&'static str]| [&["offline", "data", "--run-dir", "run"], more].concat();
    let share = ["--set", "data.share=0.0", "--set", "data.path=\"data\""];
    let train = [
        "train",
        "pendulum-swingup",
        "--run-dir",
        "run",
        "--set",
        "data.path=\"data\"",
    ];
    let cases: [(Vec<&str>, &str); 7] = [
        (vec!["offline", "nowhere"], "nowhere"),
        (
            offline(&["pendulum-swingup"]),
            "expected observations and actions of (3, 1) numbers",
        ),
        (offline(&["--alpha", "2"]), "update.policy_loss.alpha"),
        (offline(&["--beta", "-1"]), "update.policy_loss.kl.beta"),
        (train.to_vec(), "data.path: expected --lockstep"),
        (
            [&train[..], &["--lockstep"], &share].concat(),
            "share: expected a number above 0",
        ),
        (
            vec!["data", "label", "data", "--critic", "nowhere"],
            "nowhere",
        ),
    ];
    for (arguments, expected) in cases {
        refused(folder, &arguments, expected);
        assert!(!folder.join("run").exists(), "{arguments:?}");
    }
    let again = ["data", "collect", "cartpole-balance", "--out", "data"];
    let output = pmpo(folder, &again);
    assert!(!output.status.success());
    assert_eq!(
        fs::read(folder.join("data/data/metadata.json")).unwrap(),
        before
    );
}
