//! The tools around training as a user runs them: what they print and write.

use std::path::Path;
use std::process::Command;

fn last_line_as_json(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_pmpo"))
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
