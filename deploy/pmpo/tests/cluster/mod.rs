//! `pmpo train` as a process, and what it leaves in a run's folder.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use pmpo_service::announce::Announcement;

use crate::common::wait_for;

/// Small networks and batches, so that a run of hundreds of steps takes seconds.
pub const SMALL: [&str; 7] = [
    "policy.hidden_sizes=[32, 32]",
    "learner.batch_size=32",
    "replay.table.samples_per_insert=16.0",
    "replay.table.min_size_to_sample=200",
    "evaluator.period_learner_steps=100",
    "evaluator.episodes=2",
    "learner.checkpoint_period_s=0.5",
];

pub fn train(run_dir: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pmpo"));
    command.arg("train").arg("--run-dir").arg(run_dir);
    // First, so that a test's own flags win.
    for setting in SMALL {
        command.args(["--set", setting]);
    }
    command.args(flags);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn finish(mut child: Child) -> Output {
    wait_for("the end of the run", || child.try_wait().expect("wait"));
    child.wait_with_output().expect("output")
}

pub fn announced(run_dir: &Path, name: &str) -> Option<Announcement> {
    Announcement::read(&run_dir.join(format!("roles/{name}.json"))).expect("announcement")
}

pub fn alive(pid: u32) -> bool {
    // A zombie that its parent has not waited for yet is dead.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
}

pub fn signal(pid: u32, name: &str) {
    let status: ExitStatus = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(pid.to_string())
        .status()
        .expect("kill");
    assert!(status.success());
}

pub fn rows(run_dir: &Path) -> Vec<(u64, u64)> {
    let Ok(mut reader) = csv::Reader::from_path(run_dir.join("progress.csv")) else {
        return Vec::new();
    };
    let header = reader.headers().expect("header").clone();
    let column = |name| header.iter().position(|h| h == name).expect("column");
    let (steps, version) = (column("learner_steps"), column("policy_version"));
    let number = |text: &str| text.parse().expect("a number");
    let record = |row: Result<csv::StringRecord, _>| {
        let row = row.expect("row");
        (number(&row[steps]), number(&row[version]))
    };
    reader.records().map(record).collect()
}

pub fn newest_checkpoint(run_dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(run_dir.join("checkpoints")).ok()?;
    let steps = entries.map(|entry| entry.expect("entry").path());
    steps
        .filter(|path| path.join("policy.safetensors").is_file())
        .max()
}
