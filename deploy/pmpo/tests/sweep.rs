//! `pmpo sweep` as a user runs it: ended early, gone on with, failed in part, drawn again.

use std::path::Path;
use std::process::{Command, Output};

/// Two configurations of runs that take seconds; `fails` stands for a third.
fn file(folder: &Path, learner_steps: u64, fails: &str) -> std::path::PathBuf {
    let path = folder.join("two.toml");
    let text = format!(
        r#"
        figure = "curves.svg"
        [summary]
        x = "beta"
        series = "variant"
        [defaults]
        task = "cartpole-swingup"
        seeds = [1, 2]
        learner_steps = {learner_steps}
        set = [
            "policy.hidden_sizes=[32, 32]", "learner.batch_size=32",
            "replay.table.samples_per_insert=16.0", "replay.table.min_size_to_sample=200",
            "evaluator.period_learner_steps=100", "evaluator.episodes=1",
        ]
        [[configuration]]
        name = "slow"
        labels = {{ beta = 1, variant = "a" }}
        config = {{ learner = {{ policy_learning_rate = 0.0001 }} }}
        [[configuration]]
        name = "fast"
        label = "Faster"
        labels = {{ beta = 2.5, variant = "a" }}
        seeds = [3]
        {fails}
        "#
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn sweep(file: &Path, out: &Path, flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pmpo"))
        .arg("sweep")
        .arg(file)
        .arg("--out")
        .arg(out)
        .args(flags)
        .output()
        .unwrap()
}

fn succeeded(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout
}

fn modified(path: &Path) -> std::time::SystemTime {
    std::fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn a_sweep_is_done_in_pieces_and_finished_runs_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let file = self::file(folder.path(), 300, "");
    let stdout = succeeded(&sweep(&file, &out, &["--only", "fast"]));
    assert!(stdout.contains("2 of 3 runs are not finished"), "{stdout}");
    let outcome = out.join("fast/seed-3/outcome.json");
    let before = modified(&outcome);

    // Nothing is begun that cannot be ended, and an early end is no failure.
    let stdout = succeeded(&sweep(&file, &out, &["--max-minutes", "0.03"]));
    assert!(stdout.contains("slow seed 1: started"), "{stdout}");

    let stdout = succeeded(&sweep(&file, &out, &["--jobs", "2"]));
    assert!(!stdout.contains("not finished"), "{stdout}");
    assert_eq!(modified(&outcome), before, "a finished run was run again");
    for run in ["slow/seed-1", "slow/seed-2", "fast/seed-3"] {
        let text = std::fs::read_to_string(out.join(run).join("outcome.json")).unwrap();
        let outcome: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(outcome["reason"], "learner_steps", "{run}");
        assert_eq!(outcome["learner_steps"], 300, "{run}");
    }
    let config = std::fs::read_to_string(out.join("slow/seed-2/config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    assert_eq!(
        config["update"]["policy"]["learning_rate"].as_float(),
        Some(1e-4)
    );
    assert_eq!(config["run"]["seed"].as_integer(), Some(2));

    let mut csv = csv::Reader::from_path(out.join("results.csv")).unwrap();
    let rows: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    let heads = rows.iter().map(|row| [&row[0], &row[1], &row[2]]);
    assert_eq!(
        heads.collect::<Vec<_>>(),
        [["slow", "2", "2"], ["fast", "1", "1"]]
    );
    let text = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert!(text("results.md").contains("| slow | 2 (2) |"));
    assert!(text("curves.svg").contains("slow (2 seeds)"));
    assert!(text("curves.svg").contains("Faster (1 seed)"));
    assert!(text("summary.svg").contains("variant = a"));

    // A later limit goes on with the same runs.
    let file = self::file(folder.path(), 400, "");
    let stdout = succeeded(&sweep(&file, &out, &["--only", "fast"]));
    assert!(stdout.contains("fast seed 3: goes on"), "{stdout}");
    assert!(stdout.contains("400 learner steps"), "{stdout}");
}

#[test]
fn a_failed_run_is_told_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let fails = r#"
        [[configuration]]
        name = "fails"
        labels = { beta = 0, variant = "b" }
        seeds = [1]
        set = ["replay.table.max_batch_size=16"]
    "#;
    let file = self::file(folder.path(), 100, fails);
    let output = sweep(&file, &out, &["--only", "fails", "--only", "fast"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("fails seed 1: failed"), "{stderr}");
    assert!(stderr.ends_with("failed runs: fails seed 1\n"), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.contains("fast seed 3: reached its limit"),
        "{stdout}"
    );
}

#[test]
fn wrong_files_end_with_code_2_and_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let configuration = "[[configuration]]\nname = \"a\"\n";
    let cases = [
        (
            "colums = 2\n[[configuration]]\nname = \"a\"".to_owned(),
            "line 1: unknown field `colums`",
        ),
        (
            format!("{configuration}sedes = [1]"),
            "line 3: unknown field `sedes`",
        ),
        (configuration.to_owned(), "configuration a: seeds"),
        (
            format!("{configuration}seeds = [1]"),
            "configuration a: has no limit",
        ),
        (
            format!("{configuration}seeds = [1]\nenv_steps = 5\nset = [\"learner.batchsize=3\"]"),
            "batchsize",
        ),
        (
            format!("{configuration}seeds = [1]\nenv_steps = 5\n{configuration}"),
            "name: a is there twice",
        ),
        (
            format!("[summary]\nx = \"beta\"\nseries = \"alpha\"\n{configuration}"),
            "configuration a: labels.beta is missing",
        ),
        (
            format!("{configuration}seeds = [1]\nenv_steps = 5\ntask = \"cartpole-swingupp\""),
            "cartpole-swingup",
        ),
    ];
    for (text, expected) in cases {
        let path = folder.path().join("bad.toml");
        std::fs::write(&path, &text).unwrap();
        let output = sweep(&path, &out, &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}: {stderr}");
        assert!(stderr.contains(expected), "{text}: {stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    }
    assert!(!out.exists(), "a refused file made a folder");
}
