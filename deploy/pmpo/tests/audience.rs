//! What becomes of a training, or a tool's answer, that nobody can read.

mod cluster;
mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::OFlags;

use cluster::{finish, newest_checkpoint, rows, signal, train};
use common::wait_for;

const LIMIT: [&str; 3] = ["cartpole-swingup", "--learner-steps", "400"];

fn outcome(run_dir: &Path) -> serde_json::Value {
    let json = std::fs::read(run_dir.join("outcome.json")).expect("outcome.json");
    serde_json::from_slice(&json).expect("JSON")
}

fn full() -> File {
    File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full")
}

#[test]
fn training_goes_on_when_nobody_can_read_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("pipe");
    let mut child = train(&run_dir, &LIMIT).spawn().unwrap();
    let mut first = [0; 8];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    drop(child.stderr.take());
    wait_for("the end", || child.try_wait().unwrap());
    assert!(child.wait().unwrap().success());
    assert_eq!(outcome(&run_dir)["learner_steps"], 400);
    assert!(
        newest_checkpoint(&run_dir)
            .unwrap()
            .ends_with("step-000000400")
    );

    let run_dir = folder.path().join("full");
    let mut command = train(&run_dir, &LIMIT);
    let child = command.stdout(full()).stderr(full()).spawn().unwrap();
    assert!(finish(child).status.success());
    assert_eq!(outcome(&run_dir)["learner_steps"], 400);
}

#[test]
fn lockstep_goes_on_when_nobody_can_read_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("full");
    let mut command = train(
        &run_dir,
        &["cartpole-swingup", "--learner-steps", "20", "--lockstep"],
    );
    let child = command.stdout(full()).stderr(full()).spawn().unwrap();
    assert!(finish(child).status.success());
    assert_eq!(outcome(&run_dir)["learner_steps"], 20);
}

/// A pipe that is full and open stands for a terminal that was stopped by Ctrl-S too: writes do not return.
#[test]
fn training_goes_on_while_its_reader_does_not_read() {
    let folder = tempfile::tempdir().unwrap();
    for (name, more) in [("run", None), ("lockstep", Some("--lockstep"))] {
        let run_dir = folder.path().join(name);
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let mut command = train(&run_dir, &LIMIT);
        command.args(more).stderr(Stdio::null());
        let mut child = command.stdout(writer.try_clone().unwrap()).spawn().unwrap();
        drop(command);
        let mut first = [0; 8];
        reader.read_exact(&mut first).unwrap();
        rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        while writer.write(&[b' '; 512]).is_ok() {}
        rustix::fs::fcntl_setfl(&writer, OFlags::empty()).unwrap();

        let path = run_dir.join("outcome.json");
        wait_for("the outcome", || path.is_file().then_some(()));
        assert_eq!(outcome(&run_dir)["learner_steps"], 400);
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert!(said.contains("reached its limit"), "{said}");
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_lost_terminal_ends_a_run_in_order_unless_it_is_to_outlive_it() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("hup");
    let child = train(&run_dir, &["cartpole-swingup"]).spawn().unwrap();
    wait_for("an evaluation", || rows(&run_dir).pop());
    signal(child.id(), "HUP");
    let output = finish(child);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let outcome = outcome(&run_dir);
    assert_eq!(outcome["reason"], "shutdown");
    let step = format!("step-{:09}", outcome["learner_steps"].as_u64().unwrap());
    assert!(newest_checkpoint(&run_dir).unwrap().ends_with(step));

    let run_dir = folder.path().join("nohup");
    let asked = train(&run_dir, &LIMIT);
    let mut command = Command::new("nohup");
    command.arg(asked.get_program()).args(asked.get_args());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for("an evaluation", || rows(&run_dir).pop());
    signal(child.id(), "HUP");
    assert!(finish(child).status.success());
    assert_eq!(self::outcome(&run_dir)["reason"], "learner_steps");
}

#[test]
fn tools_end_quietly_when_their_reader_has_gone_and_say_so_when_a_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let tool = |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pmpo"));
        command
            .args(arguments.split(' '))
            .current_dir(folder.path());
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    };
    for arguments in [
        "tasks",
        "tasks --json",
        "config print",
        "bandit sphere --dim 2 --seeds 1 --iterations 3 --out b.svg --json",
        "bench env --seconds 0.1 --json",
        "certs --out lab",
    ] {
        let mut child = tool(arguments).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), said.as_ref()),
            (Some(0), ""),
            "{arguments}"
        );

        let output = tool(arguments).stdout(full()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {said}");
        let expected = "pmpo: standard output: No space left on device";
        assert!(said.starts_with(expected), "{arguments}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{arguments}: {said}");
    }
    // Neither can an error be told where there is no standard error to tell it on.
    let output = tool("tasks --no-such")
        .stdout(full())
        .stderr(full())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
