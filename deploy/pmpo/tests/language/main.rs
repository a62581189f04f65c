//! `pmpo lm`: the third setting of the paper from a model made from nothing to one that others load.

#[path = "../common/mod.rs"]
mod common;
mod generators;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

use pmpo_language::grammar;
use pmpo_language::reward::compound;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

fn pmpo(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pmpo"));
    let output = command.current_dir(folder).args(arguments).output();
    output.expect("the command starts")
}

fn works(folder: &Path, arguments: &[&str]) -> String {
    let output = pmpo(folder, arguments);
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out.into_owned()
}

/// A command that is refused: its code and its line.
fn refused(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = pmpo(folder, arguments);
    let line = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert_eq!(line.lines().count(), 1, "{line}");
    (output.status.code().expect("it ends of itself"), line)
}

const SETTINGS: [&str; 8] = [
    "--set",
    "lm.eval_steps=2",
    "--set",
    "lm.prompts_per_step=4",
    "--set",
    "lm.learning_rate=1e-3",
    "--set",
    "lm.ref_model_sync_steps=2",
];

fn train<'a>(run_dir: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["lm", "train", "--run-dir", run_dir];
    arguments.extend(more);
    arguments
}

/// The rows of `progress.csv` without what depends on the machine's speed.
fn rows(run_dir: &Path) -> Vec<Vec<String>> {
    let mut reader = csv::Reader::from_path(run_dir.join("progress.csv")).expect("rows");
    let names = reader.headers().expect("a header").clone();
    let steady = |i: usize| !["wall_s", "tokens_per_s"].contains(&&names[i]);
    let row = |record: csv::StringRecord| {
        let kept = record.iter().enumerate().filter(|(i, _)| steady(*i));
        kept.map(|(_, text)| text.to_owned()).collect()
    };
    reader
        .records()
        .map(|record| row(record.expect("a row")))
        .collect()
}

/// A run that is stopped and goes on is the run that was never stopped: rows, weights and all.
#[test]
fn a_model_is_made_trained_stopped_resumed_asked_and_exported() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    works(folder, &["lm", "grammar", "model", "--steps", "60"]);
    let model = ["--model", "model", "--prompts", "grammar", "--max-steps"];
    let begin = |run_dir, steps| {
        let mut arguments = train(run_dir, &model);
        arguments.push(steps);
        arguments.extend(SETTINGS);
        works(folder, &arguments)
    };
    begin("whole", "4");
    begin("parts", "2");
    // What a crash leaves: an evaluation after the checkpoint, and half a row.
    for (file, more) in [
        ("samples.jsonl", "{\"step\": 3}\n"),
        ("progress.csv", "1.5,"),
    ] {
        let path = folder.join("parts").join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text + more).unwrap();
    }
    let out = works(folder, &train("parts", &["--resume", "--max-steps", "4"]));
    assert!(out.contains("reached lm.max_steps after 4 steps"), "{out}");
    let [whole, parts] = ["whole", "parts"].map(|run| rows(&folder.join(run)));
    assert_eq!(
        whole.len(),
        3,
        "before the first step, after two and after four"
    );
    assert_eq!(whole, parts);
    let [whole, parts] = ["whole", "parts"]
        .map(|run| std::fs::read_to_string(folder.join(run).join("samples.jsonl")).unwrap());
    assert_eq!(whole, parts, "each evaluation's samples, once");
    assert!(folder.join("parts/progress.csv.damaged").exists());
    for run in ["whole", "parts"] {
        works(folder, &["lm", "export", run, &format!("{run}-model")]);
    }
    let weights = |name: &str| std::fs::read(folder.join(name).join("model.safetensors")).unwrap();
    assert_eq!(weights("whole-model"), weights("parts-model"));
    assert_ne!(weights("whole-model"), weights("model"));

    let text = "review of the hotel :";
    let asked = |model| {
        works(
            folder,
            &["lm", "generate", model, text, "--temperature", "0"],
        )
    };
    assert_eq!(
        asked("whole"),
        asked("whole-model"),
        "an export is the model"
    );
    let line: serde_json::Value = serde_json::from_str(asked("whole").trim()).unwrap();
    assert_eq!(line["prompt"], text);
    let last = works(folder, &["lm", "eval", "whole", "--prompts", "grammar"]);
    let last: serde_json::Value = serde_json::from_str(last.trim()).unwrap();
    assert!(
        last["reward_mean"].is_f64() && last["parses"].is_f64(),
        "{last}"
    );
    works(folder, &["plot", "whole", "--out", "curve.svg"]);
}

#[test]
fn what_cannot_be_is_refused_in_a_line_and_changes_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    works(folder, &["lm", "grammar", "model", "--steps", "1"]);
    let begin = [
        "--model",
        "model",
        "--prompts",
        "grammar",
        "--max-steps",
        "1",
    ];
    let with = |more: &[&'static str]| {
        let mut arguments = train("run", &begin);
        arguments.extend(more);
        arguments
    };
    std::fs::write(
        folder.join("mixed.jsonl"),
        "{\"prompt\": \"a\"}\n{\"text\": 1}\n",
    )
    .unwrap();
    for (arguments, expected) in [
        (
            with(&["--set", "lm.alpha=1.5"]),
            "lm.alpha: expected a number in [0, 1], got 1.5",
        ),
        (
            with(&["--set", "lm.num_accepted=3"]),
            "lm.num_accepted + num_rejected: expected 1 to num_generations, which is 4, got 5",
        ),
        (with(&["--set", "lm.gamma=1"]), "gamma"),
        (
            with(&["--set", "lm.max_completion_length=60"]),
            "the model was made for 64",
        ),
        (with(&["--prompts", "mixed.jsonl"]), "mixed.jsonl"),
        (with(&["--model", "nothing"]), "nothing"),
        (with(&["--resume"]), "holds no run"),
        (
            with(&["--set", "lm.weight_sync_steps=6"]),
            "lm.weight_sync_steps: expected at most max_staleness + 1, max_staleness being 4, got 6",
        ),
        (
            with(&["--data", "mixed.jsonl", "--replay", "127.0.0.1:1"]),
            "--replay: the run learns from mixed.jsonl",
        ),
        (
            with(&["--replay", "127.0.0.1:1", "--token-file", "nothing.tokens"]),
            "nothing.tokens",
        ),
        (
            vec!["lm", "grammar", "model"],
            "model: is there; expected a new folder",
        ),
    ] {
        let (code, line) = refused(folder, &arguments);
        assert_eq!(code, 2, "{arguments:?}: {line}");
        assert!(line.contains(expected), "{arguments:?}: {line}");
        assert!(!folder.join("run").exists(), "{arguments:?} made a folder");
    }
    works(folder, &with(&[]));
    let stored = std::fs::read(folder.join("run/config.toml")).unwrap();
    let (code, line) = refused(folder, &with(&[]));
    assert_eq!(
        (code, line.contains("holds a run already")),
        (2, true),
        "{line}"
    );
    let other = train("run", &["--resume", "--seed", "7"]);
    let (code, line) = refused(folder, &other);
    assert_eq!((code, line.contains("lm.seed")), (2, true), "{line}");
    assert_eq!(
        std::fs::read(folder.join("run/config.toml")).unwrap(),
        stored
    );
}

/// Labels need no pairs: of a file's completions accepted ones become likelier and rejected ones less likely, by
/// labels, by pairs and by DPO, and what is only given to be imitated becomes likelier.
#[test]
fn completions_in_a_file_are_learnt_from() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    works(folder, &["lm", "grammar", "model", "--steps", "60"]);
    let prompt = "review of the hotel :";
    let [good, bad] = ["the room was nice .", "the room was awful ."];
    let labelled = |completion, label| serde_json::json!({"prompt": prompt, "completion": completion, "label": label});
    let write = |name: &str, lines: &[serde_json::Value]| {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(folder.join(name), lines.repeat(8)).unwrap();
    };
    write("labels", &[labelled(good, true), labelled(bad, false)]);
    let pair = serde_json::json!({"prompt": prompt, "chosen": good, "rejected": bad});
    write("pairs", &[pair]);
    write(
        "texts",
        &[serde_json::json!({"prompt": prompt, "completion": good})],
    );
    write("prompts", &[serde_json::json!({"prompt": prompt})]);
    let scores = |model: &str| {
        [good, bad].map(|text| {
            let line = works(folder, &["lm", "score", model, &format!("{prompt} {text}")]);
            let line: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
            let all = line["log_probabilities"].as_array().unwrap().clone();
            all[4..]
                .iter()
                .map(|log| log.as_f64().unwrap())
                .sum::<f64>()
        })
    };
    let before = scores("model");
    for (data, loss) in [
        ("labels", "pmpo"),
        ("pairs", "pmpo"),
        ("pairs", "dpo"),
        ("texts", "pmpo"),
    ] {
        let run = format!("{data}-{loss}");
        let loss = format!("lm.loss_type={loss}");
        let mut arguments = train(
            &run,
            &["--model", "model", "--data", data, "--max-steps", "3"],
        );
        arguments.extend(["--set", &loss]);
        arguments.extend(SETTINGS);
        works(folder, &arguments);
        let [up, down] = [0, 1].map(|i| scores(&run)[i] - before[i]);
        assert!(up > 0.1, "{run}: {up}");
        assert!(data == "texts" || down < -0.1, "{run}: {down}");
        assert_eq!(rows(&folder.join(&run)).len(), 3, "{run}");
    }
    for (data, loss, expected) in [
        ("prompts", "pmpo", "prompts alone; expected completions"),
        ("labels", "dpo", "expect chosen and rejected"),
    ] {
        let loss = format!("lm.loss_type={loss}");
        let mut arguments = train("refused", &["--model", "model", "--data", data]);
        arguments.extend(["--set", &loss]);
        let (code, line) = refused(folder, &arguments);
        assert_eq!(code, 2, "{line}");
        assert!(line.contains(expected), "{line}");
        assert!(!folder.join("refused").exists());
    }
}

/// A scorer that answers nonsense once: its completions are held back and said of, and none is lost.
#[test]
fn completions_that_cannot_be_judged_are_held_back() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    works(folder, &["lm", "grammar", "model", "--steps", "1"]);
    let judge = "import os, sys\n\
                 for i, line in enumerate(sys.stdin):\n    \
                 first = i == 20 and not os.path.exists('failed')\n    \
                 open('failed', 'a').close() if first else None\n    \
                 print('nonsense' if first else len(line) % 7, flush=True)\n";
    std::fs::write(folder.join("judge.py"), judge).unwrap();
    let arguments = train(
        "run",
        &[
            "--model",
            "model",
            "--prompts",
            "grammar",
            "--max-steps",
            "2",
            "--set",
            "lm.reward={kind=\"command\", command=[\"python3\", \"judge.py\"]}",
        ],
    );
    let output = pmpo(folder, &arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("nonsense") && told.contains("held back for 1s"),
        "{told}"
    );
    assert_eq!(rows(&folder.join("run")).len(), 2);
}

/// Of two completions of a prompt the one that reads better is the better one; what has learnt that from pairs (Bradley
/// and Terry) says so of pairs that it has not seen, and judges a run.
#[test]
fn a_reward_is_learnt_from_pairs() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    works(folder, &["lm", "grammar", "model", "--steps", "60"]);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut waiting: HashMap<String, String> = HashMap::new();
    let (mut lines, mut count) = (String::new(), 0);
    while count < 1500 {
        let (prompt, text) = grammar::sample(&mut rng, false);
        let [prompt, text] = [prompt, text].map(|words| words.join(" "));
        let Some(other) = waiting.remove(&prompt) else {
            waiting.insert(prompt, text);
            continue;
        };
        let mut both = [text, other];
        both.sort_by(|a, b| compound(b).total_cmp(&compound(a)));
        let [chosen, rejected] = &both;
        // As judges of whom one may ask it.
        if compound(chosen) > compound(rejected) + 0.5 {
            let line =
                serde_json::json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected });
            lines += &format!("{line}\n");
            count += 1;
        }
    }
    std::fs::write(folder.join("pairs.jsonl"), lines).unwrap();
    let learn = [
        "lm",
        "reward",
        "pairs.jsonl",
        "reward",
        "--model",
        "model",
        "--learning-rate",
        "1e-3",
        "--steps",
        "250",
    ];
    let report = works(folder, &learn);
    let report: serde_json::Value = serde_json::from_str(report.trim()).unwrap();
    assert_eq!(report["pairs"], 1400, "a tenth is held out, at most 100");
    let right = report["held_out_accuracy"].as_f64().unwrap();
    assert!(right >= 0.8, "{report}");
    let (code, line) = refused(folder, &learn);
    assert_eq!(
        (code, line.contains("expected a new folder")),
        (2, true),
        "{line}"
    );

    let mut arguments = train(
        "run",
        &[
            "--model",
            "model",
            "--prompts",
            "grammar",
            "--max-steps",
            "2",
        ],
    );
    arguments.extend(["--set", "lm.reward={kind=\"model\", path=\"reward\"}"]);
    works(folder, &arguments);
    let samples = std::fs::read_to_string(folder.join("run/samples.jsonl")).unwrap();
    let samples: Vec<serde_json::Value> = samples
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // What it says of the model's own completions goes with how they read.
    let [mut good, mut bad] = [vec![], vec![]];
    for sample in &samples {
        let reads = compound(sample["completion"].as_str().unwrap());
        let of = if reads > 0.3 {
            &mut good
        } else if reads < -0.3 {
            &mut bad
        } else {
            continue;
        };
        of.push(sample["reward"].as_f64().unwrap());
    }
    let mean = |rewards: &[f64]| rewards.iter().sum::<f64>() / rewards.len() as f64;
    assert!(
        mean(&good) > mean(&bad) + 0.5,
        "{} and {}",
        mean(&good),
        mean(&bad)
    );
}
