//! `make dist`: what it packs runs where it is unpacked, with what it brought along.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Process;

fn unpacked(folder: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pack = Command::new(root.join("deploy/setup/dist.sh"));
    let packed = pack
        .arg(env!("CARGO_BIN_EXE_pmpo"))
        .arg(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&packed.stderr);
    assert!(packed.status.success(), "{said}");
    let archive = String::from_utf8_lossy(&packed.stdout).trim().to_owned();
    let mut tar = Command::new("tar");
    let done = tar.arg("-xzf").arg(&archive).current_dir(folder).status();
    assert!(done.unwrap().success());
    PathBuf::from(archive.strip_suffix(".tar.gz").expect("an archive"))
}

#[test]
fn the_binary_takes_its_library_and_models_along() {
    let folder = tempfile::tempdir().unwrap();
    let place = unpacked(folder.path());
    let program = place.join("pmpo");
    assert!(
        place
            .join("third_party/dm_control/suite/walker.xml")
            .is_file()
    );

    // What the system's loader says of what it opens: physics takes the library beside the binary.
    let trained = Command::new(&program)
        .args([
            "train",
            "cartpole-swingup",
            "--lockstep",
            "--learner-steps",
            "1",
        ])
        .args(["--run-dir", "run"])
        .current_dir(folder.path())
        .env("LD_DEBUG", "libs")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&trained.stderr);
    assert!(trained.status.success(), "{said}");
    let opened = said
        .lines()
        .find(|line| line.contains("calling init") && line.contains("libmujoco"))
        .expect("the library");
    let beside = place.canonicalize().unwrap().join("third_party/mujoco/lib");
    assert!(opened.contains(&beside.display().to_string()), "{opened}");
}

#[test]
fn without_mujoco_what_needs_no_physics_runs_and_the_rest_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    // The same binary, whose run path leads nowhere.
    let mut bytes = std::fs::read(env!("CARGO_BIN_EXE_pmpo")).unwrap();
    let (path, nowhere) = (b"third_party/mujoco/lib", b"third_party/mujoco/---");
    let found: Vec<usize> = bytes
        .windows(path.len())
        .enumerate()
        .filter_map(|(at, window)| (window == path).then_some(at))
        .collect();
    assert!(!found.is_empty(), "no run path in the binary");
    for at in found {
        bytes[at..at + path.len()].copy_from_slice(nowhere);
    }
    let program = folder.path().join("pmpo");
    std::fs::write(&program, bytes).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();

    let mut command = Command::new(&program);
    command.args(["replay", "--listen", "127.0.0.1:0"]);
    // What a learner needs the task for, a replay leaves to it.
    command.args(["--set", "update.discount=episode_length"]);
    command.env_remove("LD_LIBRARY_PATH");
    let replay = Process::start(command, folder.path(), "replay");
    assert_eq!(replay.stop(), Some(0));

    let run = folder.path().join("run");
    let refused = Command::new(&program)
        .args(["train", "cartpole-swingup", "--run-dir"])
        .arg(&run)
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("MuJoCo's library is missing"), "{said}");
    assert!(said.contains("run `make setup`"), "{said}");
    assert!(!run.exists(), "a refused command has changed nothing");
}
