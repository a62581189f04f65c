//! What the processes of a run log: one line an event, which says whose it is.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// What an operator gives the processes to show to a collector of traces.
const SECRET: &str = "s3cret-of-the-collector";
const ROLES: [&str; 4] = ["replay", "learner", "actor", "evaluator"];

/// A short run in a folder called `walk`; answers what each role logged.
fn logs(folder: &Path, format: &str, rust_log: &str) -> Vec<(&'static str, String)> {
    let run_dir = folder.join("walk");
    let output = Command::new(env!("CARGO_BIN_EXE_pmpo"))
        .args(["train", "cartpole-swingup", "--log-format", format])
        .arg("--run-dir")
        .arg(&run_dir)
        .args(["--learner-steps", "60"])
        .args(["--set", "policy.hidden_sizes=[16, 16]"])
        .args(["--set", "learner.batch_size=16"])
        .args(["--set", "replay.table.min_size_to_sample=100"])
        .env("RUST_LOG", rust_log)
        .env("OTEL_EXPORTER_OTLP_HEADERS", format!("api-key={SECRET}"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let log = |role| {
        let text = std::fs::read_to_string(run_dir.join(format!("logs/{role}-0.log"))).unwrap();
        assert!(!text.contains(SECRET), "{text}");
        (role, text)
    };
    ROLES.map(log).to_vec()
}

#[test]
fn json_lines_name_role_index_and_run_and_libraries_are_quiet() {
    let folder = tempfile::tempdir().unwrap();
    for (role, log) in logs(folder.path(), "json", "debug") {
        let mut run_known = false;
        for line in log.lines() {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
            assert_eq!(event["role"], role, "{line}");
            assert_eq!(event["index"], 0, "{line}");
            for key in ["timestamp", "level", "message", "target"] {
                assert!(event[key].is_string(), "{line}");
            }
            assert_eq!(event.get("event.message"), None, "two messages: {line}");
            run_known |= event["run"] == "walk";
            assert_eq!(event["run"], if run_known { "walk" } else { "" }, "{line}");
            let target = event["target"].as_str().unwrap();
            let ours = target.starts_with("pmpo") || event["level"] != "DEBUG";
            assert!(ours, "{line}");
        }
        assert!(run_known, "{role} never named its run:\n{log}");
    }
}

#[test]
fn text_lines_name_role_index_and_run() {
    let folder = tempfile::tempdir().unwrap();
    for (role, log) in logs(folder.path(), "text", "info") {
        let (before, within) = (format!("{role}-0"), format!("{role}-0@walk"));
        let mut run_known = false;
        for line in log.lines() {
            let who = line.split_whitespace().nth(2).unwrap_or_default();
            run_known |= who == within;
            assert_eq!(who, if run_known { &within } else { &before }, "{line}");
        }
        assert!(run_known, "{role} never named its run:\n{log}");
    }
}

fn refused(format: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pmpo"))
        .args([
            "actor",
            "--log-format",
            format,
            "--set",
            "actor.environments=0",
        ])
        .output()
        .unwrap()
}

#[test]
fn why_a_process_ends_is_a_line_in_the_logs_format() {
    let text = refused("text");
    let line = String::from_utf8(text.stderr).unwrap();
    assert!(line.starts_with("pmpo: "), "{line}");
    let json = refused("json");
    assert_eq!(json.status.code(), text.status.code());
    let event: Value = serde_json::from_slice(&json.stderr).expect("one line of JSON");
    assert_eq!(event["level"], "ERROR");
    let message = event["message"].as_str().unwrap();
    assert_eq!(format!("pmpo: {message}\n"), line);
}
