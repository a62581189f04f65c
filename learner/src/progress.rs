//! `progress.csv`: a row for each evaluation.
//!
//! A row belongs to the policy that was evaluated: its step and version, and the environment steps
//! and seconds that had been spent when it was published, not when its evaluation arrived. The file
//! is replaced as a whole for each row, so that nobody reads half a row and a crash leaves the rows
//! before. A run that resumes drops the rows of policies newer than its checkpoint, which it will
//! train again.

use std::path::{Path, PathBuf};

use pmpo_service::files::write_atomically;
use serde::{Deserialize, Serialize};

use crate::LearnerError;

/// Name of the file in a run's folder.
pub const FILE: &str = "progress.csv";

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Seconds of training, over all resumptions.
    pub wall_s: f64,
    /// Environment steps, over all resumptions.
    pub env_steps: u64,
    /// Learner steps.
    pub learner_steps: u64,
    /// Version of the policy.
    pub policy_version: u64,
    /// Mean return of the evaluation's episodes.
    pub eval_return_mean: f64,
    /// Their population standard deviation.
    pub eval_return_std: f64,
    /// Mean return of the training episodes that had ended last when the evaluation arrived.
    pub train_return_mean: Option<f64>,
}

/// The rows of a run, and their file.
#[derive(Debug)]
pub struct Progress {
    path: PathBuf,
    rows: Vec<Row>,
    /// The learner step of a resumed run's checkpoint, where there is a row of its policy. It is published
    /// again, and evaluated again; that is no other evaluation.
    known: Option<u64>,
}

impl Progress {
    /// Starts the file of a fresh run.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(run_dir: &Path) -> Result<Self, LearnerError> {
        let progress = Self {
            path: run_dir.join(FILE),
            rows: Vec::new(),
            known: None,
        };
        progress.write()?;
        Ok(progress)
    }

    /// Goes on with the file of a run whose checkpoint is of `learner_step`. A file that cannot be read is
    /// set aside, with what can be read of it kept: a report is not worth a run.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn resume(run_dir: &Path, learner_step: u64) -> Result<Self, LearnerError> {
        let path = run_dir.join(FILE);
        let mut rows = read(run_dir).unwrap_or_else(|error| {
            let aside = path.with_extension("csv.damaged");
            match std::fs::rename(&path, &aside) {
                Ok(()) => {
                    let kept = aside.display();
                    tracing::warn!(%error, %kept, "the rows so far are set aside as far as they are damaged");
                    readable(&aside)
                }
                Err(_) => {
                    tracing::warn!(%error, "the rows so far are lost; begun anew");
                    Vec::new()
                }
            }
        });
        rows.retain(|row| row.learner_steps <= learner_step);
        let known = rows.iter().any(|row| row.learner_steps == learner_step);
        let progress = Self {
            path,
            rows,
            known: known.then_some(learner_step),
        };
        progress.write()?;
        Ok(progress)
    }

    /// The rows so far.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Appends a row.
    ///
    /// # Errors
    /// The file cannot be written; it is whole, without the row, and the next time has both.
    pub fn append(&mut self, row: Row) -> Result<(), LearnerError> {
        if self.known == Some(row.learner_steps) {
            return Ok(());
        }
        self.rows.push(row);
        self.write()
    }

    fn write(&self) -> Result<(), LearnerError> {
        let mut writer = csv::WriterBuilder::new()
            .has_headers(false)
            .from_writer(Vec::new());
        let encode = |error: csv::Error| LearnerError::format(&self.path, error);
        // Written by hand, since a file without rows has a header too.
        writer.write_record(HEADER).map_err(encode)?;
        for row in &self.rows {
            writer.serialize(row).map_err(encode)?;
        }
        let bytes = writer
            .into_inner()
            .map_err(|error| LearnerError::format(&self.path, error))?;
        write_atomically(&self.path, &bytes).map_err(LearnerError::file(&self.path))
    }
}

const HEADER: [&str; 7] = [
    "wall_s",
    "env_steps",
    "learner_steps",
    "policy_version",
    "eval_return_mean",
    "eval_return_std",
    "train_return_mean",
];

/// The rows in a run's folder.
///
/// # Errors
/// The file is missing, or a row is not what it should be; the message names the line.
pub fn read(run_dir: &Path) -> Result<Vec<Row>, LearnerError> {
    let path = run_dir.join(FILE);
    let bytes = std::fs::read(&path).map_err(LearnerError::file(&path))?;
    parse(&path, &bytes)
}

/// The rows in `bytes`, which were read from `path`.
///
/// # Errors
/// A row is not what it should be; the message names the file and the line.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Row>, LearnerError> {
    csv::Reader::from_reader(bytes)
        .deserialize()
        .collect::<Result<Vec<Row>, _>>()
        .map_err(|error| LearnerError::format(path, error))
}

/// The rows of a file that can be read.
fn readable(path: &Path) -> Vec<Row> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let mut reader = csv::ReaderBuilder::new();
    let reader = reader.flexible(true).from_reader(bytes.as_slice());
    reader.into_deserialize().filter_map(Result::ok).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(learner_steps: u64, eval_return_mean: f64) -> Row {
        Row {
            wall_s: learner_steps as f64 / 100.0,
            env_steps: 4 * learner_steps,
            learner_steps,
            policy_version: learner_steps / 100 + 1,
            eval_return_mean,
            eval_return_std: 0.25,
            train_return_mean: (learner_steps > 0).then_some(0.1),
        }
    }

    #[test]
    fn rows_are_written_in_the_promised_format_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut progress = Progress::create(folder.path()).unwrap();
        let text = || std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        let header = "wall_s,env_steps,learner_steps,policy_version,eval_return_mean,\
                      eval_return_std,train_return_mean\n";
        assert_eq!(text(), header);
        progress.append(row(0, 1.5)).unwrap();
        progress.append(row(250, 10.0)).unwrap();
        let lines = "0.0,0,0,1,1.5,0.25,\n2.5,1000,250,3,10.0,0.25,0.1\n";
        assert_eq!(text(), format!("{header}{lines}"));
        assert_eq!(read(folder.path()).unwrap(), progress.rows());
    }

    #[test]
    fn resuming_drops_the_rows_of_later_policies() {
        let folder = tempfile::tempdir().unwrap();
        let mut progress = Progress::create(folder.path()).unwrap();
        for step in [0, 100, 200, 300] {
            progress.append(row(step, 1.0)).unwrap();
        }
        let mut resumed = Progress::resume(folder.path(), 200).unwrap();
        resumed.append(row(250, 2.0)).unwrap();
        let steps: Vec<u64> = read(folder.path())
            .unwrap()
            .iter()
            .map(|r| r.learner_steps)
            .collect();
        assert_eq!(steps, [0, 100, 200, 250]);
    }

    #[test]
    fn a_resumed_run_has_one_row_for_an_evaluation() {
        let folder = tempfile::tempdir().unwrap();
        let mut progress = Progress::create(folder.path()).unwrap();
        progress.append(row(0, 1.0)).unwrap();
        progress.append(row(100, 1.0)).unwrap();
        let mut resumed = Progress::resume(folder.path(), 100).unwrap();
        // The checkpoint's policy, published as another version.
        let again = Row {
            policy_version: 1001,
            ..row(100, 1.1)
        };
        resumed.append(again.clone()).unwrap();
        resumed.append(row(200, 2.0)).unwrap();
        assert_eq!(
            read(folder.path()).unwrap(),
            [row(0, 1.0), row(100, 1.0), row(200, 2.0)]
        );
        // That of a checkpoint without a row gets its row.
        let mut resumed = Progress::resume(folder.path(), 150).unwrap();
        resumed.append(row(150, 1.5)).unwrap();
        assert_eq!(resumed.rows().len(), 3);
    }

    #[test]
    fn what_is_missing_or_torn_is_set_aside_and_the_run_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let resumed = Progress::resume(folder.path(), 100).unwrap();
        assert_eq!(resumed.rows(), []);
        let mut progress = Progress::create(folder.path()).unwrap();
        for step in [0, 100, 200] {
            progress.append(row(step, 1.0)).unwrap();
        }
        let path = folder.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        let torn = &text[..text.len() - 20];
        std::fs::write(&path, torn).unwrap();
        let resumed = Progress::resume(folder.path(), 300).unwrap();
        assert_eq!(resumed.rows(), [row(0, 1.0), row(100, 1.0)]);
        assert_eq!(read(folder.path()).unwrap(), resumed.rows());
        let aside = folder.path().join("progress.csv.damaged");
        assert_eq!(std::fs::read_to_string(aside).unwrap(), torn);
        // Of another version, or no text at all.
        for content in [&b"step,return\n1,2\n"[..], b"\xff\xfe\x00"] {
            std::fs::write(&path, content).unwrap();
            let resumed = Progress::resume(folder.path(), 300).unwrap();
            assert_eq!(resumed.rows(), []);
        }
    }

    #[test]
    fn a_file_that_is_damaged_or_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = read(folder.path()).unwrap_err().to_string();
        assert!(message.contains(FILE), "{message}");
        std::fs::write(folder.path().join(FILE), "wall_s,env_steps\n1.0,x\n").unwrap();
        let message = read(folder.path()).unwrap_err().to_string();
        assert!(
            message.contains(FILE) && message.contains("line: 2"),
            "{message}"
        );
    }
}
