//! The tools around training as a user runs them: what they print and write.

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use common::Process;
use pmpo_data::{About, Episode, Writer};
use pmpo_types::{ActionSpec, EnvironmentSpec, ObservationField};

const PMPO: &str = env!("CARGO_BIN_EXE_pmpo");

fn pmpo(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(PMPO);
    command
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn last_line_as_json(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(PMPO)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn bandit_reports_and_draws_every_algorithm() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = "bandit all --dim 2 --seeds 3 --iterations 50 --out figure.svg --json";
    let report = last_line_as_json(folder.path(), &arguments.split(' ').collect::<Vec<_>>());
    let functions = report["functions"].as_array().unwrap();
    assert_eq!(functions.len(), 6);
    for function in functions {
        let algorithms = function["algorithms"].as_array().unwrap();
        let names: Vec<&str> = algorithms
            .iter()
            .map(|algorithm| algorithm["algorithm"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["pmpo-ar", "pmpo-a", "pmpo-r", "dpo"]);
        for algorithm in algorithms {
            assert_eq!(algorithm["best_by_seed"].as_array().unwrap().len(), 3);
            let number = |key: &str| algorithm[key].as_f64().unwrap();
            assert!(
                number("best_median") <= number("start_median"),
                "{function}"
            );
        }
    }
    let figure = std::fs::read_to_string(folder.path().join("figure.svg")).unwrap();
    for expected in ["schwefel", "PMPO-AR", "DPO", "iterations"] {
        assert!(figure.contains(expected), "no `{expected}` in the figure");
    }
}

/// Rates are a machine's own; that they are there and fit each other is not.
#[test]
fn bench_actor_measures_acting_beside_bare_stepping() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = "bench actor --task walker-walk --seconds 1 --json";
    let report = last_line_as_json(folder.path(), &arguments.split(' ').collect::<Vec<_>>());
    for key in ["steps_per_s", "steps_per_cpu_s", "raw_steps_per_cpu_s"] {
        assert!(report[key].as_f64().unwrap() > 100.0, "{report}");
    }
    let ratio = report["ratio_to_raw"].as_f64().unwrap();
    assert!((0.05..1.5).contains(&ratio), "{report}");
    assert!(report["policy_us"].as_f64().unwrap() > 0.1, "{report}");
}

#[test]
fn config_print_refuses_what_a_run_would() {
    let folder = tempfile::tempdir().unwrap();
    for set in [
        "update.batch_size=5000",
        "policy.torso.hidden_sizes=[16384,16384]",
    ] {
        let output = pmpo(folder.path(), &["config", "print", "--set", set]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{set}: {stderr}");
        let key = set.split(['=', '.']).take(2).collect::<Vec<_>>().join(".");
        assert!(stderr.contains(&key), "{set}: {stderr}");
    }
}

#[test]
fn an_empty_table_has_no_samples_per_insert() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(PMPO);
    command.args(["replay", "--listen", "localhost:0"]);
    let replay = Process::start(command, folder.path(), "replay");
    let address = replay.address().to_string();
    let output = pmpo(folder.path(), &["tables", "--replay", &address]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    assert!(
        stdout.contains("0 inserts, 0 samples: no samples per insert"),
        "{stdout}"
    );
    assert_eq!(replay.stop(), Some(0));
}

#[test]
fn a_table_is_created_and_copied_while_the_replay_runs() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let mut command = Command::new(PMPO);
    command.args(["replay", "--listen", "localhost:0", "--data-dir"]);
    command.arg(&data_dir);
    let replay = Process::start(command, folder.path(), "replay");
    let address = replay.address().to_string();
    let tables = |more: &[&str]| {
        let arguments = [&["tables", "--replay", &address], more].concat();
        let output = pmpo(folder.path(), &arguments);
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|s| String::from_utf8(s).unwrap());
        (output.status.code(), stdout, stderr)
    };
    let file = |text: &str| std::fs::write(folder.path().join("mine.toml"), text).unwrap();
    file("name = \"mine\"\nsequence_length = 8\n");
    let (code, stdout, stderr) = tables(&["--create", "mine.toml", "--checkpoint"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.contains(" mine: 0 of 1000000 items of 8 steps"),
        "{stdout}"
    );
    assert!(
        stdout.contains("    mine: 0 items, 0 inserts, 0 samples"),
        "{stdout}"
    );
    let copy = data_dir.join(".checkpoints/000000");
    assert!(
        stdout.contains(&format!("copied to {}\n", copy.display())),
        "{stdout}"
    );
    assert!(copy.join("mine").is_dir() && copy.join("replay").is_dir());
    file("name = \"mine\"\nsequence_length = 9\n");
    let (code, _, stderr) = tables(&["--create", "mine.toml"]);
    assert!(
        code == Some(1) && stderr.contains("the table `mine` which is there"),
        "{stderr}"
    );
    file("nme = \"mine\"\n");
    let (code, _, stderr) = tables(&["--create", "mine.toml"]);
    assert!(
        code == Some(2) && stderr.contains("mine.toml: "),
        "{stderr}"
    );
    assert_eq!(replay.stop(), Some(0));
}

#[test]
fn a_trace_says_which_actions_came_after_the_end() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.csv"), "0.0\n".repeat(1007)).unwrap();
    let arguments = [
        "trace",
        "cartpole-swingup",
        "--seed",
        "1",
        "--actions",
        "a.csv",
        "--out",
        "t.csv",
    ];
    let output = pmpo(folder.path(), &arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("the last 7 actions"), "{stderr}");
}

/// Writes four episodes of two steps, with returns 0, 2, 4 and 6.
fn write_data(path: &Path) {
    let spec = EnvironmentSpec {
        task: "cartpole-swingup".to_owned(),
        observation: vec![ObservationField {
            name: "observation".to_owned(),
            size: 1,
        }],
        action: ActionSpec {
            minimum: vec![-1.0],
            maximum: vec![1.0],
        },
        control_timestep: 0.01,
        step_limit: None,
        action_repeat: 1,
    };
    let mut writer = Writer::create(path, &spec, &About::default()).unwrap();
    for reward in [0.0, 1.0, 2.0, 3.0] {
        let episode = Episode {
            observations: vec![0.0; 3],
            actions: vec![0.5; 2],
            rewards: vec![reward; 2],
            terminated: true,
            labels: Vec::new(),
        };
        writer.push(&episode).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn data_are_labelled_and_go_from_one_layout_to_another() {
    let folder = tempfile::tempdir().unwrap();
    write_data(&folder.path().join("a"));
    for arguments in [
        "data label a --return-quantile 0.5 --episodes 3",
        "data export a b --format lerobot",
        "data import b c",
        "data label a --column terminations",
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let output = pmpo(folder.path(), &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
    }
    for (data, accepted, rejected) in [("a", 4, 4), ("b", 4, 2), ("c", 4, 2)] {
        let report = last_line_as_json(folder.path(), &["data", "info", data, "--json"]);
        assert_eq!(report["episodes"], 4, "{report}");
        assert_eq!(report["steps"], 8, "{report}");
        let expected = [0.0, 3.0, 6.0].map(serde_json::Value::from);
        let returns = ["return_minimum", "return_mean", "return_maximum"];
        assert_eq!(returns.map(|key| report[key].clone()), expected);
        assert_eq!(report["accepted_steps"], accepted, "{report}");
        assert_eq!(report["rejected_steps"], rejected, "{report}");
    }
    for (arguments, said) in [
        (
            "data import a b",
            "b: folder: expected a path where nothing is",
        ),
        (
            "data label a --return-quantile 2",
            "return-quantile: expected a number in [0, 1], got 2",
        ),
        (
            "data label a --column infos/success",
            "infos/success: expected a column",
        ),
        (
            "data info tools",
            "data set: expected Minari's data/metadata.json",
        ),
    ] {
        std::fs::create_dir_all(folder.path().join("tools")).unwrap();
        let output = pmpo(folder.path(), &arguments.split(' ').collect::<Vec<_>>());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {stderr}");
        assert!(stderr.contains(said), "{arguments}: {stderr}");
    }
}

/// A command that may not write to a folder of mode 555, whoever runs the tests: root without the
/// capabilities that let it write everywhere.
fn without_permission(folder: &Path, arguments: &str) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--inh-caps=-all", "--bounding-set=-dac_override"]);
        command.arg(PMPO);
        command
    } else {
        Command::new(PMPO)
    };
    command.args(arguments.split(' ')).current_dir(folder);
    command
}

/// Whoever starts it again by its exit code takes a disk that cannot be written for what it is.
#[test]
fn what_cannot_be_written_has_the_code_of_storage() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a.csv"), "0.0\n").unwrap();
    std::fs::create_dir(path("run")).unwrap();
    let header = "wall_s,env_steps,learner_steps,policy_version,eval_return_mean,eval_return_std,train_return_mean\n";
    std::fs::write(path("run/progress.csv"), header).unwrap();
    let sweep = "[[configuration]]\nname = \"a\"\n[defaults]\nlearner_steps = 1\nseeds = [1]\n";
    std::fs::write(path("sweep.toml"), sweep).unwrap();
    std::fs::create_dir(path("mine")).unwrap();
    std::fs::set_permissions(path("mine"), Permissions::from_mode(0o555)).unwrap();
    for arguments in [
        "train cartpole-swingup --run-dir OUT/run",
        "train cartpole-swingup --lockstep --run-dir OUT/run",
        "learner cartpole-swingup --listen 127.0.0.1:0 --run-dir OUT/run",
        "replay --listen 127.0.0.1:0 --data-dir OUT/data",
        "sweep sweep.toml --out OUT/sweep",
        "certs --out OUT/certs",
        "trace cartpole-swingup --seed 1 --actions a.csv --out OUT/t.csv",
        "plot run --out OUT/p.svg",
        "bandit sphere --dim 2 --seeds 1 --iterations 3 --out OUT/b.svg",
    ] {
        for (out, cause) in [("mine", "Permission denied"), ("a.csv", "directory")] {
            let arguments = arguments.replace("OUT", out);
            let output = without_permission(folder.path(), &arguments)
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(5), "{arguments}: {stderr}");
            let line = stderr.lines().last().unwrap_or_default();
            assert!(line.contains(&format!("{out}/")), "{arguments}: {line}");
            assert!(line.contains(cause), "{arguments}: {line}");
        }
    }
    assert_eq!(std::fs::read_dir(path("mine")).unwrap().count(), 0);
    assert_eq!(std::fs::read(path("a.csv")).unwrap(), b"0.0\n");
}
