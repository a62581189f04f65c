//! Pages of the reference that are generated behind a line of theirs: `make reference` writes them, and a
//! test compares them with what the code says.

use std::fmt::Write;
use std::process::{Command, Stdio};

use crate::configuration;
use crate::source::{metrics, root};

/// What ends the part that is written by hand.
const MARKER: &str = "<!-- What follows is generated: `make reference`. -->\n";
/// With this variable set, the pages are written.
const WRITE: &str = "PMPO_WRITE_REFERENCE";

/// What the command prints.
pub(crate) fn pmpo(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pmpo"));
    let others = std::env::vars().filter(|(name, _)| name.starts_with("PMPO_"));
    for (name, _) in others {
        command.env_remove(name);
    }
    // Help is as wide as the terminal, if there is one.
    let output = command
        .args(arguments)
        .env("COLUMNS", "100")
        .stdin(Stdio::null())
        .output()
        .expect("pmpo");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pmpo {arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// The help of a command and of all below it.
fn help(command: &[&str], text: &mut String) {
    let help = pmpo(&[command, &["--help"]].concat());
    let title = [&["pmpo"], command].concat().join(" ");
    let trimmed: Vec<_> = help.trim().lines().map(str::trim_end).collect();
    write!(
        text,
        "## {title}\n\n```text\n{}\n```\n\n",
        trimmed.join("\n")
    )
    .expect("a string");
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    for line in listed.take_while(|line| !line.is_empty()) {
        // Descriptions that are broken over lines are further in.
        let name = line
            .strip_prefix("  ")
            .filter(|rest| !rest.starts_with(' '));
        match name.and_then(|rest| rest.split_whitespace().next()) {
            Some("help") | None => {}
            Some(name) => self::help(&[command, &[name]].concat(), text),
        }
    }
}

fn command_line() -> String {
    let mut text = String::new();
    help(&[], &mut text);
    text
}

fn metrics_tables() -> String {
    let files = [
        ("Replay", "replay/src/metrics.rs"),
        ("Learner", "learner/src/metrics.rs"),
        ("Actors and evaluators", "actor/src/metrics.rs"),
        ("Language models", "learner/generator/src/metrics.rs"),
        (
            "Clients of the replay, in actors and learner",
            "replay/client/src/metrics.rs",
        ),
        ("Servers", "common/service/src/security/metrics.rs"),
        ("Every process", "common/service/src/metrics.rs"),
    ];
    let mut text = String::new();
    for (title, path) in files {
        write!(text, "## {title}\n\n| metric | is |\n|---|---|\n").expect("a string");
        let metrics = metrics(&root().join(path));
        assert!(!metrics.is_empty(), "{path} names no metric");
        for (name, is) in metrics {
            assert!(!is.is_empty(), "{name} has no docstring");
            writeln!(text, "| `{name}` | {} |", is.replace('|', "\\|")).expect("a string");
        }
        text.push('\n');
    }
    text
}

fn protocol() -> String {
    let mut text = String::new();
    for name in ["replay/v1/replay", "v1/weights", "v1/run"] {
        let path = format!("proto/proto/pmpo/{name}.proto");
        let file = std::fs::read_to_string(root().join(path)).expect("a file of the protocol");
        write!(
            text,
            "## pmpo/{name}.proto\n\n```proto\n{}\n```\n\n",
            file.trim()
        )
        .expect("a string");
    }
    text
}

fn hold(page: &str, generated: &str) {
    let path = root().join("docs/reference").join(page);
    let text = std::fs::read_to_string(&path).expect("a page of the reference");
    let (by_hand, _) = text
        .split_once(MARKER)
        .expect("the line of what is generated");
    let expected = format!("{by_hand}{MARKER}\n{}\n", generated.trim());
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &expected).expect("a page to write");
        return;
    }
    let differs = text.lines().zip(expected.lines()).find(|(is, be)| is != be);
    assert!(
        text == expected,
        "docs/reference/{page} is not what the code says; `make reference` writes it. The first \
         difference: {differs:?}"
    );
}

#[test]
fn the_command_line_is_as_its_help_says() {
    hold("cli.md", &command_line());
}

#[test]
fn the_configuration_is_as_it_is_printed_and_documented() {
    hold("configuration.md", &configuration::text());
}

#[test]
fn the_metrics_are_those_of_the_crates() {
    hold("metrics.md", &metrics_tables());
}

#[test]
fn the_protocol_is_as_its_files_say() {
    hold("protocol.md", &protocol());
}
