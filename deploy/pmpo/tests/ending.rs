//! How a run ends whose processes do not, and what a stopped terminal stops.

mod cluster;
mod common;

use std::path::Path;
use std::time::Instant;

use cluster::{announced, finish, newest_checkpoint, rows, signal, train};
use common::wait_for;

/// A running run, and the process id of its learner, which does nothing any more.
fn with_a_stuck_learner(run_dir: &Path, grace: &str) -> (std::process::Child, u32) {
    let flags = ["cartpole-swingup", "--set", grace];
    let child = train(run_dir, &flags).spawn().unwrap();
    wait_for("an evaluation", || rows(run_dir).pop());
    let learner = announced(run_dir, "learner-0").unwrap().pid;
    signal(learner, "STOP");
    (child, learner)
}

#[test]
fn a_killed_learner_is_told_with_the_newest_checkpoint_and_a_code() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let (child, _) = with_a_stuck_learner(&run_dir, "run.shutdown_grace_s=1");
    signal(child.id(), "INT");
    let output = finish(child);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.contains("had to be killed: "), "{last}");
    assert!(last.contains("learner-0"), "{last}");
    let newest = newest_checkpoint(&run_dir).unwrap();
    assert!(last.contains(&newest.display().to_string()), "{last}");
    assert!(!run_dir.join("outcome.json").exists());
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(!stdout.contains("before the learner was ready"), "{stdout}");
}

#[test]
fn a_second_interrupt_shortens_the_wait() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let (child, _) = with_a_stuck_learner(&run_dir, "run.shutdown_grace_s=100");
    signal(child.id(), "INT");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let again = Instant::now();
    signal(child.id(), "INT");
    assert_eq!(finish(child).status.code(), Some(1));
    assert!(again.elapsed().as_secs() < 50, "{:?}", again.elapsed());
}

/// The state of a process: `T` where it is stopped.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

#[test]
fn a_stopped_terminal_stops_all_of_a_run_and_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let child = train(&run_dir, &["cartpole-swingup"]).spawn().unwrap();
    wait_for("an evaluation", || rows(&run_dir).pop());
    let names = ["replay-0", "learner-0", "actor-0", "evaluator-0"];
    let mut pids = vec![child.id()];
    pids.extend(names.map(|name| announced(&run_dir, name).unwrap().pid));
    signal(child.id(), "TSTP");
    for &pid in &pids {
        wait_for("its stop", || (state(pid) == Some('T')).then_some(()));
    }
    let before = rows(&run_dir).len();
    signal(child.id(), "CONT");
    wait_for("an evaluation", || {
        (rows(&run_dir).len() > before).then_some(())
    });
    signal(child.id(), "INT");
    let output = finish(child);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
