//! Nobody uninvited: real processes, credentials of `pmpo certs`, and who gets in with what.
#![allow(unreachable_pub, reason = "shared with the example of the same name")]

mod attempts;
#[path = "../common/mod.rs"]
mod common;
mod door;
mod lab;
mod withdrawn;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use pmpo_service::files::write_atomically;
use pmpo_service::grpc;
use pmpo_service::security::{Credentials, Role};
use tonic::Code;

use attempts::{Call, Doors};
use common::{Process, wait_for};
use lab::Lab;

fn pmpo() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pmpo"))
}

fn start(folder: &Path, name: &str, flags: &[String]) -> Process {
    let mut command = Command::new(pmpo());
    command.arg("replay").args(flags);
    Process::start(command, folder, name)
}

fn run(args: &[&str]) -> Output {
    Command::new(pmpo()).args(args).output().expect("pmpo")
}

#[test]
fn every_attempt_ends_as_it_should_is_counted_and_leaves_no_secret_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let doors = Doors::new(pmpo(), folder.path());
    let outcomes = doors.all();
    attempts::print(&outcomes);
    let wrong: Vec<_> = outcomes.iter().filter(|o| !o.is_as_expected()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for process in [&doors.replay, &doors.learner, &doors.tokens, &doors.open] {
        let log = process.log();
        assert!(log.contains("refused"), "{log}");
        for role in Role::ALL {
            let token = doors.lab.read(&format!("{role}.token"));
            assert!(!log.contains(token.trim()), "{log}");
        }
        assert!(!log.contains("Bearer"), "{log}");
    }
}

#[test]
fn new_credentials_are_in_force_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let old = Lab::new(pmpo(), &folder.path().join("old"));
    let new = Lab::new(pmpo(), &folder.path().join("new"));
    let current = Lab::new(pmpo(), &folder.path().join("current"));
    let switch_to = |lab: &Lab| {
        for file in std::fs::read_dir(&lab.folder).unwrap() {
            let file = file.unwrap();
            let bytes = std::fs::read(file.path()).unwrap();
            write_atomically(&current.path(file.file_name().to_str().unwrap()), &bytes).unwrap();
        }
    };
    switch_to(&old);
    let mut flags = current.server_flags(Role::Replay);
    flags.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
    let mut replay = start(folder.path(), "replay", &flags);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _context = runtime.enter();
    let connect = |credentials: &Credentials| {
        grpc::connect_lazy(&replay.address().to_string(), credentials).unwrap()
    };
    let call = |channel: &grpc::Channel| {
        let made = runtime.block_on(Call::ListTables.make(channel.clone()));
        made.map_err(|status| status.code())
    };
    // Those of a client whose files change with the server's, and of one that is left behind.
    let followed = connect(&current.credentials(Role::Learner));
    let left_behind = old.credentials(Role::Learner);
    assert_eq!(call(&followed), Ok(()));
    assert_eq!(call(&connect(&left_behind)), Ok(()));

    switch_to(&new);
    // Whoever still shows the old token learns it by a call, and the connection that is open stays.
    wait_for("the new credentials", || {
        (call(&connect(&left_behind)) == Err(Code::Unavailable)).then_some(())
    });
    wait_for("the client's new credentials", || {
        (call(&followed) == Ok(())).then_some(())
    });
    assert_eq!(call(&connect(&new.credentials(Role::Learner))), Ok(()));
    assert!(replay.metric("pmpo_security_reloads_total", "") >= 1.0);
    assert!(replay.is_alive());
}

#[test]
fn nobody_listens_beyond_this_machine_without_a_door() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run").display().to_string();
    let everywhere = ["--listen", "0.0.0.0:0"];
    for role in [
        &["replay"][..],
        &["learner", "cartpole-swingup", "--run-dir", &run_dir],
    ] {
        let output = run(&[role, &everywhere[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let last = said.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("pmpo: cannot listen on 0.0.0.0:0 without mutual TLS or tokens")
                && last.ends_with("or say --insecure"),
            "{said}"
        );
    }
    // With any of them it does, and says what is left to be said.
    let lab = Lab::new(pmpo(), &folder.path().join("lab"));
    let tokens = lab.path("tokens").display().to_string();
    let cases = [
        (lab.server_flags(Role::Replay), None),
        (
            vec!["--token-file".to_owned(), tokens],
            Some("tokens without TLS"),
        ),
        (
            vec!["--insecure".to_owned()],
            Some("insecure: whoever reaches"),
        ),
    ];
    for (i, (mut flags, warning)) in cases.into_iter().enumerate() {
        flags.extend(everywhere.map(str::to_owned));
        let log = start(folder.path(), &format!("replay-{i}"), &flags).log();
        assert_eq!(log.contains("WARN"), warning.is_some(), "{log}");
        assert!(warning.is_none_or(|warning| log.contains(warning)), "{log}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::new(pmpo(), folder.path());
    let path = |name: &str| lab.path(name).display().to_string();
    let (cert, key, other_key) = (
        path("replay.pem"),
        path("replay-key.pem"),
        path("actor-key.pem"),
    );
    let (ca, token, absent) = (path("ca.pem"), path("actor.token"), path("absent.pem"));
    let cases: [(&[&str], &str); 5] = [
        (&["--tls-cert", &cert], "security.tls_key: expected a file"),
        (
            &["--tls-cert", &cert, "--tls-key", &other_key],
            "security.tls_cert: ",
        ),
        (
            &["--tls-cert", &absent, "--tls-key", &key],
            "security.tls_cert: ",
        ),
        (
            &["--tls-ca", &ca],
            "security.tls_cert: expected a file, as tls_ca is given",
        ),
        (&["--token-file", &token], "security.token_file: "),
    ];
    for (flags, expected) in cases {
        let output = run(&[&["replay", "--listen", "127.0.0.1:0"], flags].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        let line = said.lines().last().unwrap_or_default();
        assert!(line.starts_with(&format!("pmpo: {expected}")), "{said}");
    }
}

#[test]
fn certs_are_made_once_and_made_anew_where_they_are_not_good() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("lab").display().to_string();
    let certs = |more: &[&str]| {
        let output = run(&[&["certs", "--out", &out], more].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout)
            .unwrap()
            .replace(&out, "DIR")
    };
    let all = "DIR: made ca, replay, learner, actor, evaluator, writer, sampler, admin\n";
    assert_eq!(certs(&[]), all);
    assert_eq!(certs(&[]), "DIR: all there\n");
    let lab = Lab {
        folder: out.clone().into(),
    };
    for file in std::fs::read_dir(&lab.folder).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        let is_secret = name.contains("key") || name.contains("token");
        assert_eq!(mode == 0o600, is_secret, "{name} {mode:o}");
    }
    let (ca, token) = (lab.read("ca.pem"), lab.read("actor.token"));
    // The actor's key is lost, the learner's certificate is the replay's, and there is a new host.
    std::fs::remove_file(lab.path("actor-key.pem")).unwrap();
    std::fs::copy(lab.path("replay.pem"), lab.path("learner.pem")).unwrap();
    assert_eq!(certs(&[]), "DIR: made learner, actor\n");
    let hosts = ["--host", "gpu-1.lab", "--host", "10.0.0.7"];
    assert_eq!(certs(&hosts), all.replace("ca, ", ""));
    assert_eq!(certs(&hosts), "DIR: all there\n");
    assert_eq!((lab.read("ca.pem"), lab.read("actor.token")), (ca, token));

    let bad = run(&["certs", "--out", &out, "--host", "no host"]);
    assert_eq!(bad.status.code(), Some(2), "{bad:?}");
    let none = run(&["certs", "--out", &out, "--days", "0"]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
}
