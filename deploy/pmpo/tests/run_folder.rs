//! A run's folder: what a refused command leaves of it, and who may write to it.

mod cluster;
mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cluster::{alive, announced, finish, newest_checkpoint, signal, train};
use common::{Process, wait_for};

const PMPO: &str = env!("CARGO_BIN_EXE_pmpo");

/// Every file below a folder, with its content.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("a file");
                found.insert(path, bytes);
            }
        }
    }
    found
}

/// The one line that a refused command says, after its code was looked at.
fn refused(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    stderr
}

fn trained(run_dir: &Path) {
    let flags = ["cartpole-swingup", "--seed", "1", "--learner-steps", "20"];
    let output = finish(train(run_dir, &flags).spawn().unwrap());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

fn learner(run_dir: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(PMPO);
    command.arg("learner").arg("--run-dir").arg(run_dir);
    command.args(["--listen", "127.0.0.1:0"]).args(flags);
    command
}

#[test]
fn a_refused_command_has_changed_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    trained(&run_dir);
    let before = contents(&run_dir);
    let cases: [(&[&str], i32, &str); 8] = [
        (&["walker-walk"], 2, "--resume"),
        (&["walker-walk", "--resume"], 2, "task is cartpole-swingup"),
        (
            &["--resume", "--set", "policy.hidden_sizes=[64,64]"],
            2,
            "hidden_sizes",
        ),
        (
            &["--resume", "--set", "update.policy_loss.kind=mpo"],
            2,
            "policy_loss.kind",
        ),
        (
            &["--resume", "--set", "critic.loss.kind=huber"],
            2,
            "critic.loss",
        ),
        (&["--resume", "--device", "vulkan:99"], 4, "vulkan:99"),
        (&["--resume", "--set", "learner.no_such=1"], 2, "no_such"),
        (&["no-such-task", "--resume"], 2, "no-such-task"),
    ];
    for (flags, code, expected) in cases {
        let output = train(&run_dir, flags).output().unwrap();
        let line = refused(&output, code);
        assert!(line.contains(expected), "{flags:?}: {line}");
        assert_eq!(
            contents(&run_dir),
            before,
            "train {flags:?} changed the folder"
        );
        // With the settings that the tests' runs have, since it is not told them by a `train`.
        let with_task = [&["--set", "policy.hidden_sizes=[32, 32]"], flags].concat();
        let output = learner(&run_dir, &with_task).output().unwrap();
        refused(&output, code);
        assert_eq!(
            contents(&run_dir),
            before,
            "learner {flags:?} changed the folder"
        );
    }

    let in_lockstep = train(&run_dir, &["--resume", "--lockstep"])
        .output()
        .unwrap();
    let line = refused(&in_lockstep, 2);
    assert!(
        line.contains("the checkpoint of a run in lockstep"),
        "{line}"
    );
    assert_eq!(contents(&run_dir), before);

    let flags = ["--resume", "--seed", "9", "--learner-steps", "25"];
    let output = finish(train(&run_dir, &flags).spawn().unwrap());
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for change in ["run.seed: 1 -> 9", "run.learner_steps: 20 -> 25"] {
        assert!(stdout.contains(change), "no `{change}` in {stdout}");
    }
    assert_eq!(stdout.matches("another setting").count(), 2, "{stdout}");
    let mut eval = Command::new(PMPO);
    let eval = eval.arg("eval").arg(&run_dir).args(["--episodes", "1"]);
    assert!(eval.output().unwrap().status.success());
}

#[test]
fn what_cannot_be_a_run_folder_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let flags = ["cartpole-swingup"];
    let line = refused(&train(&file, &flags).output().unwrap(), 5);
    assert!(line.contains("file: "), "{line}");
    let line = refused(&train(&file.join("below"), &flags).output().unwrap(), 5);
    assert!(line.contains("below: "), "{line}");
    let line = refused(&train(Path::new("/"), &flags).output().unwrap(), 2);
    assert!(line.contains("a folder with a name"), "{line}");
    use std::os::unix::ffi::OsStrExt;
    let torn = folder.path().join(std::ffi::OsStr::from_bytes(b"p-\xff"));
    let line = refused(&train(&torn, &flags).output().unwrap(), 2);
    assert!(line.contains("UTF-8"), "{line}");
    assert_eq!(contents(folder.path()), [(file, b"mine".to_vec())].into());
}

#[test]
fn a_run_folder_has_one_writer_and_the_next_is_told_which() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("seed-1");
    let child = train(&run_dir, &["cartpole-swingup", "--seed", "1"]);
    let mut child = { child }.spawn().unwrap();
    wait_for("a checkpoint", || newest_checkpoint(&run_dir));
    let actor = wait_for("the actor", || announced(&run_dir, "actor-0"));
    let holder = format!("process {} ", child.id());
    for output in [
        train(&run_dir, &["--resume"]).output().unwrap(),
        train(&run_dir, &["cartpole-swingup"]).output().unwrap(),
        learner(&run_dir, &["--resume"]).output().unwrap(),
        learner(&run_dir, &["cartpole-swingup"]).output().unwrap(),
    ] {
        let line = refused(&output, 5);
        assert!(line.contains(&holder), "{line}");
    }
    assert_eq!(announced(&run_dir, "actor-0").unwrap().pid, actor.pid);

    // The launcher is killed; its learner shares the lock until it has written its checkpoint.
    let learner = announced(&run_dir, "learner-0").unwrap().pid;
    let shared = std::fs::read_link(format!("/proc/{learner}/fd/0")).unwrap();
    assert_eq!(shared, run_dir.canonicalize().unwrap().join(".lock"));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the learner's end", || (!alive(learner)).then_some(()));
    let limit = ["--resume", "--max-minutes", "0.01"];
    let output = finish(train(&run_dir, &limit).spawn().unwrap());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_sweep_leaves_alone_what_another_trains() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("a/seed-1");
    let file = folder.path().join("sweep.toml");
    let configuration =
        "[[configuration]]\nname = \"a\"\ntask = \"cartpole-swingup\"\nseeds = [1]\n";
    std::fs::write(&file, format!("{configuration}max_minutes = 60\n")).unwrap();
    let sweep = || {
        let mut command = Command::new(PMPO);
        command
            .arg("sweep")
            .arg(&file)
            .arg("--out")
            .arg(folder.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut first = sweep();
    let learner = wait_for("the learner", || announced(&run_dir, "learner-0")).pid;
    let output = sweep().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}");
    assert!(
        said.contains("a seed 1: is being trained by process"),
        "{said}"
    );
    assert!(first.try_wait().unwrap().is_none(), "the first goes on");
    assert!(alive(learner));
    signal(first.id(), "INT");
    assert!(finish(first).status.success());
}

#[test]
fn a_replays_tables_belong_to_the_run_that_opened_them_first() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let replay = || {
        let mut command = Command::new(PMPO);
        command
            .args(["replay", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data);
        Process::start(command, folder.path(), "replay")
    };
    let served = replay();
    let flags = |address: String| {
        ["cartpole-swingup", "--replay"]
            .map(str::to_owned)
            .into_iter()
            .chain([address])
    };
    let start = |name: &str, address: String| {
        let mut command = learner(&folder.path().join(name), &[]);
        command.args(flags(address));
        command
    };
    let first = Process::start(
        start("a", served.address().to_string()),
        folder.path(),
        "first",
    );
    wait_for("its sampler", || {
        served.log().contains("serving this run").then_some(())
    });
    let refused_with = |address: String, name: &str, whose: &str| {
        let output = start(name, address).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(7), "{stderr}");
        let last = stderr.lines().last().unwrap().to_owned();
        assert!(last.contains(whose), "{last}");
        assert!(last.contains("start another replay"), "{last}");
    };
    let another = "belong to `a`, not to `";
    refused_with(served.address().to_string(), "b", another);
    assert_eq!(first.stop(), Some(0));
    assert_eq!(served.stop(), Some(0));
    // Nor has another what the first left in the data directory.
    let served = replay();
    refused_with(served.address().to_string(), "c", another);
    // Nor a run of its name, in another folder.
    let namesake = "belong to an earlier owner of the name `a`, with another id";
    refused_with(served.address().to_string(), "elsewhere/a", namesake);
}
