//! `pmpo train` as a user runs it: real processes, real gRPC on loopback, killed and resumed.

mod cluster;
mod common;

use cluster::{alive, announced, finish, newest_checkpoint, rows, signal, train};
use common::wait_for;

#[test]
fn a_run_ends_at_its_limit_with_everything_in_its_folder_and_no_process_left() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let flags = [
        "cartpole-swingup",
        "--learner-steps",
        "300",
        "--seed",
        "1",
        "--actors",
        "2",
    ];
    let output = finish(train(&run_dir, &flags).spawn().unwrap());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.contains("learner"),
        "no progress was shown: {stdout}"
    );

    for file in [
        "config.toml",
        "progress.csv",
        "learning_curve.svg",
        "logs/actor-1.log",
    ] {
        assert!(run_dir.join(file).is_file(), "{file} is missing");
    }
    for log in std::fs::read_dir(run_dir.join("logs")).expect("logs") {
        let log = std::fs::read_to_string(log.expect("a log").path()).expect("a log");
        let worried = log
            .lines()
            .find(|line| line.contains(" WARN ") || line.contains(" ERROR "));
        assert_eq!(worried, None, "an ordinary end");
    }
    let checkpoint = newest_checkpoint(&run_dir).expect("a checkpoint");
    assert!(
        checkpoint.ends_with("step-000000300"),
        "{}",
        checkpoint.display()
    );
    for name in ["replay-0", "learner-0", "actor-0", "actor-1", "evaluator-0"] {
        let pid = announced(&run_dir, name).expect(name).pid;
        assert!(!alive(pid), "{name} (pid {pid}) is still there");
    }
    let again = train(&run_dir, &flags).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--resume"));
}

#[test]
fn a_killed_actor_comes_back_a_killed_learner_ends_the_run_and_resume_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let child = train(&run_dir, &["cartpole-swingup", "--seed", "2"])
        .spawn()
        .unwrap();
    let first = wait_for("the actor", || announced(&run_dir, "actor-0")).pid;
    wait_for("an evaluation", || rows(&run_dir).pop());
    signal(first, "KILL");
    let second = wait_for("the actor's return", || {
        announced(&run_dir, "actor-0").filter(|actor| actor.pid != first)
    });
    assert!(alive(second.pid));

    let newest = wait_for("a checkpoint", || newest_checkpoint(&run_dir));
    wait_for("a later checkpoint", || {
        newest_checkpoint(&run_dir).filter(|c| *c > newest)
    });
    signal(announced(&run_dir, "learner-0").unwrap().pid, "KILL");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains("learner-0 ended with signal: 9"),
        "{stderr}"
    );
    assert!(stderr.contains("--resume"), "{stderr}");
    for name in ["replay-0", "actor-0", "evaluator-0"] {
        assert!(
            !alive(announced(&run_dir, name).unwrap().pid),
            "{name} is still there"
        );
    }

    let newest = newest_checkpoint(&run_dir).unwrap();
    let name = newest.file_name().unwrap().to_string_lossy().into_owned();
    let step: u64 = name.trim_start_matches("step-").parse().unwrap();
    // Read now: the resumed run keeps the newest checkpoints only.
    let meta = std::fs::read(newest.join("meta.json")).unwrap();
    let meta: serde_json::Value = serde_json::from_slice(&meta).unwrap();
    assert_eq!(meta["scalars"]["learner_steps"], step);
    let limit = (step + 200).to_string();
    let resumed = train(&run_dir, &["--resume", "--learner-steps", &limit])
        .spawn()
        .unwrap();
    let output = finish(resumed);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let log = std::fs::read_to_string(run_dir.join("logs/learner-0.log")).unwrap();
    let line = log
        .lines()
        .find(|line| line.contains("resuming"))
        .expect("a line on resuming");
    assert!(line.contains(&format!("learner_steps={step} ")), "{line}");
    let version = format!("policy_version={}", meta["policy_version"]);
    assert!(
        line.trim_end().ends_with(&version),
        "{line}, recorded: {version}"
    );
    let rows = rows(&run_dir);
    assert!(
        rows.windows(2).all(|pair| pair[0] < pair[1]),
        "steps and versions grow: {rows:?}"
    );
    assert!(
        rows.last().is_some_and(|&(steps, _)| steps > step),
        "{rows:?}"
    );
}

#[test]
fn a_run_outlives_the_death_of_one_of_its_replay_shards() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("shards");
    let flags = [
        "cartpole-swingup",
        "--learner-steps",
        "3000",
        "--actors",
        "2",
        "--set",
        "run.replay_shards=2",
    ];
    let child = train(&run_dir, &flags).spawn().unwrap();
    wait_for("an evaluation", || rows(&run_dir).pop());
    let before = announced(&run_dir, "replay-1").unwrap();
    signal(before.pid, "KILL");
    let after = wait_for("the shard's return", || {
        announced(&run_dir, "replay-1").filter(|now| now.pid != before.pid)
    });
    assert_eq!(after.listen, before.listen);
    let output = finish(child);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("replay-1 ended with signal: 9"), "{stdout}");
    assert!(
        newest_checkpoint(&run_dir)
            .unwrap()
            .ends_with("step-000003000")
    );
    for name in ["replay-0", "replay-1", "learner-0", "actor-0", "actor-1"] {
        assert!(!alive(announced(&run_dir, name).unwrap().pid), "{name}");
    }
}

#[test]
fn an_interrupt_ends_the_run_cleanly_and_the_launchers_death_leaves_no_child() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("interrupted");
    let child = train(&run_dir, &["pendulum-swingup"]).spawn().unwrap();
    wait_for("an evaluation", || rows(&run_dir).pop());
    signal(child.id(), "INT");
    let output = finish(child);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(newest_checkpoint(&run_dir).is_some());

    let run_dir = folder.path().join("orphaned");
    let mut child = train(&run_dir, &["pendulum-swingup"]).spawn().unwrap();
    let names = ["replay-0", "learner-0", "actor-0", "evaluator-0"];
    let pids = names.map(|name| wait_for(name, || announced(&run_dir, name)).pid);
    child.kill().unwrap();
    child.wait().unwrap();
    for pid in pids {
        wait_for("the end of an orphan", || (!alive(pid)).then_some(()));
    }
}

#[test]
fn wrong_arguments_end_with_code_2_and_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 11] = [
        (&["cartpole-swingupp"], "cartpole-swingup"),
        (
            &["cartpole-swingup", "--set", "learner.batchsize=3"],
            "batchsize",
        ),
        (
            &["cartpole-swingup", "--set", "learner.batch_size=0"],
            "batch_size",
        ),
        (
            &[
                "cartpole-swingup",
                "--set",
                "replay.table.samples_per_insert=-1.0",
            ],
            "samples_per_insert",
        ),
        (
            &["cartpole-swingup", "--config", "/no/such.toml"],
            "/no/such.toml",
        ),
        (&["--resume"], "--resume"),
        (
            &["cartpole-swingup", "--set", "update.batch_size=5000"],
            "update.batch_size",
        ),
        (
            &["cartpole-swingup", "--set", "update.n_step=5000"],
            "update.n_step",
        ),
        (
            &["cartpole-swingup", "--set", "learner.table=other"],
            "learner.table: expected one of the configured tables (replay), got other",
        ),
        (
            &[
                "cartpole-swingup",
                "--set",
                "policy.hidden_sizes=[4200,4200]",
            ],
            "policy.torso",
        ),
        (
            &["cartpole-swingup", "--seed", "18446744073709551615"],
            "seed",
        ),
    ];
    for (flags, expected) in cases {
        let run_dir = folder.path().join("run");
        let output = train(&run_dir, flags).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{flags:?}: {stderr}");
        assert!(stderr.contains(expected), "{flags:?}: {stderr}");
        assert!(!run_dir.exists(), "{flags:?} made a folder");
    }
}
