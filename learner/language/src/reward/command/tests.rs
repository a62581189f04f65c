use std::path::Path;

use super::*;

/// Does what the completion says; else answers with its process id.
const SCRIPT: &str = r#"
import json, os, sys, time
for line in sys.stdin:
    sample = json.loads(line)
    words = sample["completion"].split()
    match words[:1]:
        case ["say"]: print(sample["completion"][4:], end="")
        case ["sleep"]: time.sleep(60)
        case ["end"]: sys.exit(3)
        case ["close"]: os.close(1); time.sleep(60)
        case ["length"]: print(len(sample["prompt"]), " " * 3000)
        case _: print(os.getpid())
    sys.stdout.flush()
"#;

fn start(program: &[&str], timeout_ms: u64) -> CommandScorer {
    let command: Vec<String> = program.iter().map(|&part| part.to_owned()).collect();
    CommandScorer::start(&command, Duration::from_millis(timeout_ms)).unwrap()
}

fn script(timeout_ms: u64) -> CommandScorer {
    start(&["python3", "-IS", "-c", SCRIPT], timeout_ms)
}

fn ask(scorer: &mut CommandScorer, completions: &[&str]) -> Result<Vec<f32>, RewardError> {
    let samples = completions.iter().map(|&completion| Sample {
        prompt: "p",
        completion,
    });
    scorer.score(&samples.collect::<Vec<_>>())
}

/// The process of a [`SCRIPT`], by asking it.
fn pid(scorer: &mut CommandScorer) -> u32 {
    ask(scorer, &["who"]).unwrap()[0] as u32
}

/// Whether the process is there, be it as a zombie.
fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn one_process_answers_each_sample_in_turn_over_many_calls() {
    let mut scorer = script(20_000);
    let first = pid(&mut scorer);
    let answers = ask(&mut scorer, &["say 0.5\n", "who", "say -1e3 \r\n"]).unwrap();
    assert_eq!(answers, [0.5, first as f32, -1000.0]);
    assert!(ask(&mut scorer, &[]).unwrap().is_empty());
    assert_eq!(pid(&mut scorer), first);
    drop(scorer);
    assert!(!exists(first));
}

#[test]
fn full_pipes_do_not_block_either_side() {
    let prompts: Vec<String> = (0..150).map(|n| "\n".repeat(5000 + n)).collect();
    let samples: Vec<Sample<'_>> = prompts
        .iter()
        .map(|prompt| Sample {
            prompt,
            completion: "length",
        })
        .collect();
    let lengths: Vec<f32> = (0..150).map(|n| 5000.0 + n as f32).collect();
    assert_eq!(script(20_000).score(&samples).unwrap(), lengths);
    // One that reads all before it answers.
    let all = "import sys; lines = [next(sys.stdin) for _ in range(150)]; print('1\\n' * 150)";
    let mut scorer = start(&["python3", "-IS", "-c", all], 20_000);
    assert_eq!(scorer.score(&samples).unwrap(), [1.0; 150]);
}

#[test]
fn a_silent_process_is_killed_and_the_next_call_starts_another() {
    let mut scorer = script(20_000);
    let first = pid(&mut scorer);
    scorer.timeout = Duration::from_millis(300);
    let error = ask(&mut scorer, &["say 1\n", "sleep"])
        .unwrap_err()
        .to_string();
    let expected = "silent for 0.3 s after 1 answers; expected a line with a finite number for each of 2 samples";
    assert!(
        error.starts_with("reward command `python3 -IS -c ") && error.ends_with(expected),
        "{error}"
    );
    assert!(!exists(first));
    scorer.timeout = Duration::from_secs(20);
    let second = pid(&mut scorer);
    assert_ne!(first, second);
    // Its input has ended, but it sleeps: it is killed all the same.
    let lines = b"{\"prompt\": \"\", \"completion\": \"sleep\"}\n".to_vec();
    scorer
        .running
        .as_ref()
        .unwrap()
        .questions
        .send(lines)
        .unwrap();
    drop(scorer);
    assert!(!exists(second));
}

#[test]
fn what_is_not_an_answer_is_an_error_and_ends_the_process() {
    let mut scorer = script(20_000);
    let long = format!("say {}", "1".repeat(5000));
    for (completion, got) in [
        ("say good\u{7}\n", r"not a finite number: good\u{7};"),
        ("say nan\n", "not a finite number: nan;"),
        ("say 1e39\n", "not a finite number: 1e39;"),
        ("say \n", "not a finite number: ;"),
        ("end", "its output ended, exit status: 3 after 0 answers;"),
        ("close", "its output ended after 0 answers;"),
        (&long, "a line of more than 4096 bytes: 1111"),
    ] {
        let before = pid(&mut scorer);
        let error = ask(&mut scorer, &[completion]).unwrap_err().to_string();
        assert!(error.contains(got) && !error.contains('\n'), "{error}");
        assert!(!exists(before), "{completion}");
    }
}

#[test]
fn a_process_is_left_the_time_to_end_by_itself() {
    let name = format!("pmpo-reward-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let code = "while read line; do echo 1; done; exec touch \"$0\"";
    let mut scorer = start(&["sh", "-c", code, path.to_str().unwrap()], 20_000);
    assert_eq!(ask(&mut scorer, &["x"]).unwrap(), [1.0]);
    drop(scorer);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn half_a_line_is_not_an_answer() {
    let mut scorer = start(&["sh", "-c", "read line; printf 0.5"], 20_000);
    let error = ask(&mut scorer, &["x"]).unwrap_err().to_string();
    assert!(
        error.contains("its output ended within a line: 0.5, exit status: 0"),
        "{error}"
    );
}

#[test]
fn more_answers_than_samples_are_an_error_of_a_later_call() {
    let mut scorer = start(
        &["sh", "-c", "while read line; do echo 1; echo 2; done"],
        20_000,
    );
    // Whether they are there by then is the process's affair; they pile up until they are.
    let error = (0..1000).find_map(|_| ask(&mut scorer, &["x"]).err());
    let error = error.unwrap().to_string();
    assert!(error.contains("unasked for: "), "{error}");
}

#[test]
fn an_answer_to_what_was_not_read_is_an_error() {
    // More than the pipe holds is yet to be written when the answer comes.
    let prompt = "x".repeat(1 << 20);
    let samples = [Sample {
        prompt: &prompt,
        completion: "",
    }];
    let code = "import os, time; os.read(0, 999); os.write(1, b'2\\n'); os.read(0, 1); os.write(1, b'1\\n'); time.sleep(60)";
    let mut scorer = start(&["python3", "-IS", "-c", code], 20_000);
    assert_eq!(ask(&mut scorer, &["x"]).unwrap(), [2.0]);
    scorer.timeout = Duration::from_millis(500);
    let error = scorer.score(&samples).unwrap_err().to_string();
    assert!(error.contains("answers before all was read"), "{error}");
    let code = "import os; os.read(0, 1); os.close(0); print(1, flush=True)";
    let mut scorer = start(&["python3", "-IS", "-c", code], 20_000);
    let error = scorer.score(&samples).unwrap_err().to_string();
    let expected = "its input ended before all was read: Broken pipe";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_program_that_is_not_there_cannot_be_started() {
    let command = ["/nowhere/reward".to_owned()];
    let error = CommandScorer::start(&command, GRACE)
        .unwrap_err()
        .to_string();
    let expected = "reward command `/nowhere/reward` cannot be started: No such file";
    assert!(error.starts_with(expected), "{error}");
}
