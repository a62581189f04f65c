//! Exit codes, so that whoever starts a process can tell causes apart; docs/reference/exit-codes.md has the table.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitStatus;

use crate::output::complain;
use pmpo_actor::ActorError;
use pmpo_figures::FigureError;
use pmpo_generator::GeneratorError;
use pmpo_language::LanguageError;
use pmpo_learner::LearnerError;
use pmpo_replay::ReplayError;
use pmpo_replay_client::ClientError;
use pmpo_service::folder_lock::LockError;
use pmpo_service::telemetry::{self, LogFormat};

/// An error of the caller: a wrong argument, configuration or input file.
#[derive(Debug)]
pub(crate) struct Usage(anyhow::Error);

impl Usage {
    pub(crate) fn new(error: impl Into<anyhow::Error>) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.0))
    }
}

impl std::error::Error for Usage {}

/// The death of a child that ended this process too.
#[derive(Debug)]
struct Death {
    code: u8,
    line: String,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for Death {}

/// The error of a process that ends because a child of it did, with the child's code where it had one.
pub(crate) fn of_child(exit: ExitStatus, line: String) -> anyhow::Error {
    let code = exit.code().and_then(|code| u8::try_from(code).ok());
    let code = code.filter(|&code| code != 0).unwrap_or(FAILED);
    Death { code, line }.into()
}

/// Whether the same command may do better once its surroundings do: whatever it is that lacks room, was
/// killed or broke down, other than what the command asks for.
pub(crate) fn another_start_may_help(exit: ExitStatus) -> bool {
    let hopeless = [USAGE, DEVICE, REFUSED].map(|code| Some(i32::from(code)));
    !hopeless.contains(&exit.code())
}

/// What the system said of a file or folder that a command was to write to.
pub(crate) fn storage(path: &Path) -> impl Fn(io::Error) -> anyhow::Error {
    let path = path.to_owned();
    move |source| {
        let path = path.clone();
        LearnerError::File { path, source }.into()
    }
}

/// One line on standard error, in the log's format, and the exit code.
pub(crate) fn report(error: &anyhow::Error, format: LogFormat) -> u8 {
    let line = one_line(error);
    match format {
        LogFormat::Text => complain!("pmpo: {line}"),
        LogFormat::Json => {
            // Where the process had come far enough to have a log, this changes nothing.
            telemetry::init_logging(format);
            tracing::error!("{line}");
        }
    }
    code(error)
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NOT_FINITE: u8 = 3;
const DEVICE: u8 = 4;
const STORAGE: u8 = 5;
const PLACE: u8 = 6;
const REFUSED: u8 = 7;

/// The code of the outermost cause that has one of its own.
fn code(error: &anyhow::Error) -> u8 {
    let codes = error.chain().filter_map(|cause| {
        if cause.is::<Usage>() {
            return Some(USAGE);
        }
        if let Some(death) = cause.downcast_ref::<Death>() {
            return Some(death.code);
        }
        let learner = cause.downcast_ref::<LearnerError>().and_then(of_learner);
        let actor = || cause.downcast_ref::<ActorError>().and_then(of_actor);
        let replay = || cause.downcast_ref::<ReplayError>().and_then(of_replay);
        let lock = || cause.is::<LockError>().then_some(STORAGE);
        let figure = || cause.downcast_ref::<FigureError>().map(of_figure);
        let language = || cause.downcast_ref::<LanguageError>().and_then(of_language);
        let generator = || {
            cause
                .downcast_ref::<GeneratorError>()
                .and_then(of_generator)
        };
        let service = learner.or_else(actor).or_else(replay).or_else(generator);
        service.or_else(lock).or_else(figure).or_else(language)
    });
    codes.into_iter().next().unwrap_or(FAILED)
}

fn of_learner(error: &LearnerError) -> Option<u8> {
    use LearnerError as E;
    match error {
        E::Config(_) | E::NoSuchStep { .. } | E::Address(_) | E::NotFresh(_) => Some(USAGE),
        // Of the command's settings and the checkpoint's, the command's can be others.
        E::OtherRun { .. } => Some(USAGE),
        E::NotFinite { .. } => Some(NOT_FINITE),
        E::Device { .. } => Some(DEVICE),
        E::File { .. } | E::NoCheckpoint { .. } | E::Format { .. } => Some(STORAGE),
        E::Replay(error) => of_client(error),
        _ => None,
    }
}

fn of_actor(error: &ActorError) -> Option<u8> {
    use ActorError as E;
    match error {
        E::Config(_) | E::Address(_) => Some(USAGE),
        E::IndexTaken { .. } | E::PlaceLost { .. } => Some(PLACE),
        E::Refused { .. } | E::Answer(_) | E::Spec { .. } | E::OtherRun { .. } => Some(REFUSED),
        E::Replay(error) => of_client(error),
        _ => None,
    }
}

fn of_replay(error: &ReplayError) -> Option<u8> {
    use ReplayError as E;
    match error {
        E::Config(_) | E::Table(_) => Some(USAGE),
        E::Disk { .. } | E::Log { .. } | E::DataDirLock(_) => Some(STORAGE),
        _ => None,
    }
}

fn of_language(error: &LanguageError) -> Option<u8> {
    use LanguageError as E;
    match error {
        E::Config(_) | E::Setting(_) | E::Text(_) | E::Data(_) => Some(USAGE),
        E::Io { .. } | E::File { .. } => Some(STORAGE),
        E::NotFinite { .. } => Some(NOT_FINITE),
        _ => None,
    }
}

fn of_generator(error: &GeneratorError) -> Option<u8> {
    use GeneratorError as E;
    match error {
        E::Config(_) | E::Address(_) => Some(USAGE),
        E::Refused { .. } | E::Answer(_) => Some(REFUSED),
        E::Temporary(_) => Some(STORAGE),
        E::Language(error) => of_language(error),
        E::Replay(error) => of_client(error),
        _ => None,
    }
}

fn of_figure(error: &FigureError) -> u8 {
    match error {
        FigureError::Write { .. } => STORAGE,
        FigureError::Draw(_) => USAGE,
    }
}

fn of_client(error: &ClientError) -> Option<u8> {
    match error {
        ClientError::Config(_) | ClientError::Address(_) => Some(USAGE),
        ClientError::Refused { .. } | ClientError::Protocol(_) => Some(REFUSED),
        _ => None,
    }
}

/// The causes, outermost first. Most of our errors repeat their source in their own text; it is then
/// not said twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| joined(&cause.to_string())) {
        if line.ends_with(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}

/// A text of several lines as one.
fn joined(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_source_that_an_error_repeats_is_said_once() {
        let config = pmpo_replay::ReplayConfig {
            table: pmpo_replay::TableConfig {
                samples_per_insert: -1.0,
                ..pmpo_replay::TableConfig::default()
            },
            ..pmpo_replay::ReplayConfig::default()
        };
        let error = config.validate().context("replay").unwrap_err();
        let expected = "replay: table.samples_per_insert: expected a positive number, got -1";
        assert_eq!(one_line(&error), expected);
        assert_eq!(Usage::new(error).to_string(), expected);
    }

    /// Whoever reads the last line of a log reads all of it.
    #[test]
    fn an_error_of_several_lines_is_said_in_one() {
        let error = anyhow::anyhow!("TOML parse error\n  |\n3 | seed = x\n\nnumber too large\n");
        let error = error.context("config.toml");
        let expected = "config.toml: TOML parse error | 3 | seed = x number too large";
        assert_eq!(one_line(&error), expected);
    }

    #[test]
    fn causes_have_codes() {
        let path = std::path::PathBuf::from("/data");
        let in_use = || LockError::InUse {
            folder: "/data".into(),
            holder: "process 1".to_owned(),
        };
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let refused = || ClientError::Refused {
            code: tonic::Code::PermissionDenied,
            message: "no".to_owned(),
        };
        let cases: [(anyhow::Error, u8); 10] = [
            (anyhow::anyhow!("something"), 1),
            (LearnerError::Panicked("a thread").into(), 1),
            (Usage::new(anyhow::anyhow!("--no-such")).into(), 2),
            (LearnerError::NotFresh(path.clone()).into(), 2),
            (
                LearnerError::from(pmpo_update::DeviceChoice::Cuda(99).open().unwrap_err()).into(),
                4,
            ),
            (ReplayError::from(in_use()).into(), 5),
            (
                LearnerError::File {
                    path,
                    source: missing(),
                }
                .into(),
                5,
            ),
            (ActorError::PlaceLost { index: 3 }.into(), 6),
            (ActorError::Replay(refused()).into(), 7),
            (LearnerError::Replay(refused()).into(), 7),
        ];
        for (error, expected) in cases {
            let error = error.context("while it ran");
            assert_eq!(code(&error), expected, "{error:#}");
        }
        use std::os::unix::process::ExitStatusExt;
        let child = |status| of_child(ExitStatus::from_raw(status), "learner-0 ended".to_owned());
        assert_eq!(code(&child(5 << 8)), 5);
        assert_eq!(code(&child(9)), 1, "killed");
    }
}
