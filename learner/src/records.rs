//! The thread that owns the run's progress file and its figure. Evaluations reach it through a
//! bounded queue; it ends when nobody can send any more.

use std::path::PathBuf;
use std::thread::{Builder, JoinHandle};

use ::metrics::gauge;
use tokio::sync::mpsc;

use crate::curve::{self, Curve};
use crate::progress::{Progress, Row};
use crate::{LearnerError, metrics};

/// Rows on their way to the file.
const QUEUE: usize = 64;

/// Starts the thread.
pub(crate) fn spawn(
    progress: Progress,
    run_dir: PathBuf,
) -> Result<(mpsc::Sender<Row>, JoinHandle<()>), LearnerError> {
    let (sender, queue) = mpsc::channel(QUEUE);
    let records = Records {
        progress,
        run_dir: run_dir.clone(),
    };
    let thread = Builder::new()
        .name("records".to_owned())
        .spawn(move || records.keep(queue))
        .map_err(LearnerError::file(&run_dir))?;
    Ok((sender, thread))
}

struct Records {
    progress: Progress,
    run_dir: PathBuf,
}

impl Records {
    fn keep(mut self, mut queue: mpsc::Receiver<Row>) {
        gauge!(metrics::RECORD_QUEUE).set(0.0);
        self.log(self.draw());
        while let Some(row) = queue.blocking_recv() {
            gauge!(metrics::RECORD_QUEUE).set(queue.len() as f64);
            let written = self.progress.append(row);
            self.log(written.and_then(|()| self.draw()));
        }
    }

    fn draw(&self) -> Result<(), LearnerError> {
        let curve = Curve {
            label: curve::label(&self.run_dir),
            rows: self.progress.rows(),
        };
        curve::write(&[curve], &self.run_dir.join(curve::FILE))
    }

    /// Records are not worth a run: training goes on, and the next row is written with this one.
    fn log(&self, result: Result<(), LearnerError>) {
        if let Err(error) = result {
            tracing::error!(%error, "evaluation not recorded");
        }
    }
}
