//! `make dist`: what it packs runs where it is unpacked, with what it brought along.

mod common;

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

    let mut command = Command::new(&program);
    command
        .args(["replay", "--listen", "127.0.0.1:0"])
        .current_dir("/");
    let replay = Process::start(command, folder.path(), "replay");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", replay.pid())).unwrap();
    let library = maps
        .lines()
        .find(|line| line.contains("libmujoco"))
        .expect("the library");
    let beside = place.canonicalize().unwrap().join("third_party/mujoco/lib");
    assert!(library.contains(&beside.display().to_string()), "{library}");
    assert_eq!(replay.stop(), Some(0));
}
