//! The page of a run over real HTTP, and its event files: what `pmpo train`, a run in lockstep and
//! `pmpo watch` serve and write, and what they refuse.

mod cluster;
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use cluster::{rows, signal, train};
use common::wait_for;

/// An answer's head and body.
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> u16 {
        let status = self.head.split(' ').nth(1).expect("a status");
        status.parse().expect("a number")
    }

    fn json(&self) -> Value {
        assert_eq!(self.status(), 200, "{}", self.head);
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

fn ask(address: SocketAddr, method: &str, path: &str, host: &str) -> Option<Answer> {
    let mut socket = TcpStream::connect(address).ok()?;
    let request = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    socket.write_all(request.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).ok()?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(Answer {
        head: String::from_utf8_lossy(&bytes[..end]).into_owned(),
        body: bytes[end + 4..].to_vec(),
    })
}

fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path, &address.to_string()).expect("an answer")
}

/// A process that says where its page is; killed when dropped.
struct Watched {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    address: SocketAddr,
    /// What the address names behind `#`.
    fragment: String,
}

impl Watched {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("pmpo");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let url = loop {
            let mut line = String::new();
            assert!(output.read_line(&mut line).expect("a line") > 0, "no page");
            if let Some((_, url)) = line.trim_end().split_once(" at http://") {
                break url.to_owned();
            }
        };
        let (address, fragment) = url.split_once('/').expect("a path");
        Self {
            child,
            output,
            address: address.parse().expect("an address"),
            fragment: fragment.trim_start_matches('#').to_owned(),
        }
    }

    /// What it said to its end, which must be a good one.
    fn end(mut self) -> String {
        let mut said = String::new();
        self.output.read_to_string(&mut said).expect("its output");
        assert!(self.child.wait().expect("its end").success(), "{said}");
        said
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // It may be over.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("could not be ended: {error}");
        }
    }
}

fn pmpo_watch(folder: &Path) -> Watched {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pmpo"));
    Watched::start(command.arg("watch").arg(folder))
}

#[test]
fn a_run_is_watched_while_it_goes_on_and_when_it_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("my run");
    let mut command = train(&run_dir, &["cartpole-swingup", "--seed", "1"]);
    let watched = Watched::start(&mut command);
    let address = watched.address;
    assert!(address.ip().is_loopback());
    assert_eq!(watched.fragment, "my%20run");
    let page = get(address, "/");
    for part in ["app.js", "style.css"] {
        assert!(String::from_utf8_lossy(&page.body).contains(part), "{part}");
        assert_eq!(get(address, &format!("/{part}")).status(), 200);
    }
    let runs = get(address, "/api/runs").json();
    assert_eq!(runs["own"], "my run");
    assert_eq!(runs["runs"][0]["state"], "running");

    let path = |part: &str| format!("/api/run/my%20run/{part}");
    wait_for("two evaluations", || rows(&run_dir).get(1).copied());
    let progress = get(address, &path("progress")).json();
    assert!(
        progress["rows"].as_array().unwrap().len() >= 2,
        "{progress}"
    );
    assert_eq!(
        get(address, &path("config")).json()["config"]["run.seed"],
        "1"
    );
    // Of all processes: losses and lag are the learner's, the shares those of three roles.
    let wanted = [
        "rate/environment_steps_per_s",
        "rate/learner_steps_per_s",
        "update/critic_loss",
        "policy/lag_mean_versions",
        "evaluation/return_mean",
        "replay/samples_per_insert",
        "time/learner/waiting",
        "time/actor/environment",
        "time/replay/idle",
    ];
    let series = wait_for("a record of everything", || {
        let series = get(address, &path("series")).json()["series"].take();
        let all = wanted.iter().all(|tag| series.get(tag).is_some());
        all.then_some(series)
    });
    let shares = series.as_object().unwrap().iter();
    let shares = shares.filter(|(tag, _)| tag.starts_with("time/learner/"));
    let last = |points: &Value| {
        points.as_array().unwrap().last().unwrap()[2]
            .as_f64()
            .unwrap()
    };
    let sum: f64 = shares.map(|(_, points)| last(points)).sum();
    assert!((sum - 1.0).abs() < 1e-3, "{sum}");

    // Whoever looks is told the end before the page goes.
    get(address, "/api/runs");
    signal(watched.child.id(), "INT");
    let told = wait_for("the end", || {
        let answer = ask(address, "GET", "/api/runs", "localhost")?.json();
        (answer["runs"][0]["state"] == "ended").then(|| answer["runs"][0]["outcome"].clone())
    });
    assert!(
        told.as_str().unwrap().starts_with("stopped after"),
        "{told}"
    );
    watched.end();

    let again = pmpo_watch(&run_dir);
    assert_eq!(again.fragment, "my%20run");
    let runs = get(again.address, "/api/runs").json();
    assert_eq!(
        (&runs["own"], &runs["runs"][0]["outcome"]),
        (&Value::Null, &told)
    );
    signal(again.child.id(), "TERM");
    again.end();
}

#[test]
fn strangers_names_methods_and_ways_out_are_refused_under_a_strict_policy() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("runs");
    for path in ["runs/a", "secret"] {
        std::fs::create_dir_all(folder.path().join(path)).unwrap();
        std::fs::write(
            folder.path().join(path).join("config.toml"),
            "[run]\nseed = 5\n",
        )
        .unwrap();
    }
    let watched = pmpo_watch(&root);
    let address = watched.address;
    let status = |method: &str, path: &str, host: &str| {
        ask(address, method, path, host)
            .expect("an answer")
            .status()
    };
    let own = address.to_string();
    assert_eq!(status("GET", "/api/run/a/config", &own), 200);
    // A name of another site that points here, as in DNS rebinding.
    for host in ["evil.example", "evil.example:80", ""] {
        for path in ["/", "/api/runs", "/api/run/a/config"] {
            assert_eq!(status("GET", path, host), 403, "{host} {path}");
        }
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(status(method, "/api/runs", &own), 405, "{method}");
    }
    let ways = [
        "..%2Fsecret",
        "%2E%2E%2Fsecret",
        "a%2F..%2F..%2Fsecret",
        "..",
        "%00",
        "none",
        "%2Fetc",
        "a%2F",
        "%FF",
    ];
    for name in ways {
        for part in ["progress", "series", "config", "film", "film/1"] {
            let status = status("GET", &format!("/api/run/{name}/{part}"), &own);
            assert!([400, 404].contains(&status), "{name} {part}: {status}");
        }
    }
    let raw = status("GET", "/api/run/../../secret/config", &own);
    assert!([400, 404].contains(&raw), "{raw}");
    for path in ["/", "/api/runs", "/no/such"] {
        let head = get(address, path).head.to_lowercase();
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; \
             img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(head.contains(header), "{path}: {head}");
        }
        assert!(!head.contains("access-control"), "{head}");
    }
    // Whoever opens connections and says nothing keeps no one's process from ending.
    let idle: Vec<_> = (0..100)
        .filter_map(|_| TcpStream::connect(address).ok())
        .collect();
    signal(watched.child.id(), "TERM");
    watched.end();
    drop(idle);
}

#[test]
fn a_port_that_is_taken_stops_no_training_and_an_empty_key_serves_none() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    for (name, listen, expected) in [
        (
            "taken",
            taken.to_string(),
            "no page to watch it: run.dashboard_listen: cannot listen on",
        ),
        ("none", String::new(), ""),
    ] {
        let run_dir = folder.path().join(name);
        let listen = format!("run.dashboard_listen=\"{listen}\"");
        let flags = [
            "cartpole-swingup",
            "--learner-steps",
            "20",
            "--lockstep",
            "--set",
            &listen,
        ];
        let output = train(&run_dir, &flags).output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaints}");
        assert!(complaints.is_empty(), "{complaints}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(expected), "{said}");
        assert_eq!(said.contains("no page"), !expected.is_empty(), "{said}");
        assert!(!said.contains("http://"), "{said}");
    }
    let run_dir = folder.path().join("wrong");
    let flags = ["cartpole-swingup", "--set", "run.dashboard_listen=\"8080\""];
    let output = train(&run_dir, &flags).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("dashboard_listen: expected HOST:PORT"),
        "{said}"
    );
    assert!(!run_dir.exists());
}

#[test]
fn a_run_in_lockstep_is_recorded_and_without_the_key_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let limit = ["cartpole-swingup", "--lockstep", "--learner-steps", "150"];
    for (name, more) in [
        ("with", &[][..]),
        ("without", &["--set", "run.tensorboard=false"][..]),
    ] {
        let flags = [&limit[..], more].concat();
        let output = train(&folder.path().join(name), &flags).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert!(!folder.path().join("without/tensorboard").exists());
    let watched = pmpo_watch(folder.path());
    let series = get(watched.address, "/api/run/with/series").json();
    let points = |tag: &str| {
        series["series"][tag]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let evaluated: Vec<_> = points("evaluation/return_mean");
    let rows = get(watched.address, "/api/run/with/progress").json();
    let rows = rows["rows"].as_array().unwrap();
    assert_eq!(evaluated.len(), rows.len());
    for (point, row) in evaluated.iter().zip(rows) {
        assert_eq!(point[1], row["env_steps"]);
        let [recorded, mean] = [&point[2], &row["eval_return_mean"]].map(|v| v.as_f64().unwrap());
        assert!((recorded - mean).abs() <= 1e-6 * mean.abs().max(1.0));
    }
    assert_eq!(points("steps/learner").last().unwrap()[2], 150.0);
    assert!(!points("update/critic_loss").is_empty(), "{series}");
}

#[test]
fn what_cannot_be_recorded_is_said_once_and_stops_no_training() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    std::fs::create_dir(&run_dir).unwrap();
    std::fs::write(run_dir.join("tensorboard"), "in the way").unwrap();
    let flags = ["cartpole-swingup", "--lockstep", "--learner-steps", "150"];
    let output = train(&run_dir, &flags).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("no event file: ").count(), 1, "{said}");
}

/// Where nothing can be drawn, that is what is said; where it can, the film is a GIF.
#[test]
fn a_film_is_drawn_for_whoever_looks_or_the_reason_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let flags = ["pendulum-swingup", "--lockstep", "--learner-steps", "20"];
    let output = train(&run_dir, &flags).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let watched = pmpo_watch(&run_dir);
    let path = "/api/run/run/film";
    let look = wait_for("a film or a reason", || {
        let look = get(watched.address, path).json();
        (look["drawing"] == false && look != Value::Null).then_some(look)
    });
    let Some(step) = look["step"].as_u64() else {
        let reason = look["reason"].as_str().expect("a reason");
        assert!(reason.starts_with("pmpo: "), "{reason}");
        return;
    };
    let film = get(watched.address, &format!("{path}/{step}"));
    assert_eq!(film.status(), 200);
    assert!(film.body.starts_with(b"GIF89a"));
    assert_eq!(
        get(watched.address, &format!("{path}/{}", step + 1)).status(),
        404
    );
}
