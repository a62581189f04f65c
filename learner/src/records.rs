//! The thread that keeps the run's record: its progress file and the best policy. Evaluations reach it
//! through a bounded queue; it ends when nobody can send any more.

use std::path::Path;
use std::thread::{Builder, JoinHandle};

use ::metrics::gauge;
use tokio::sync::mpsc;

use crate::best::BestKeeper;
use crate::board::Evaluated;
use crate::progress::Progress;
use crate::{LearnerError, metrics};

/// Evaluations on their way to the files.
const QUEUE: usize = 64;

/// Starts the thread.
pub(crate) fn spawn(
    records: Records,
    run_dir: &Path,
) -> Result<(mpsc::Sender<Evaluated>, JoinHandle<()>), LearnerError> {
    // The senders are handlers of the runtime, so its channel serves; the thread waits for them.
    let (sender, queue) = mpsc::channel(QUEUE);
    let thread = Builder::new()
        .name("records".to_owned())
        .spawn(move || records.keep(queue))
        .map_err(LearnerError::file(run_dir))?;
    Ok((sender, thread))
}

/// What the thread owns.
pub(crate) struct Records {
    pub(crate) progress: Progress,
    pub(crate) best: BestKeeper,
}

impl Records {
    fn keep(mut self, mut queue: mpsc::Receiver<Evaluated>) {
        gauge!(metrics::RECORD_QUEUE).set(0.0);
        while let Some(evaluated) = queue.blocking_recv() {
            gauge!(metrics::RECORD_QUEUE).set(queue.len() as f64);
            // The policy first: whoever reads of a best return finds its policy.
            log(self.keep_best(&evaluated));
            log(self.progress.append(evaluated.row));
        }
    }

    fn keep_best(&mut self, evaluated: &Evaluated) -> Result<(), LearnerError> {
        match &evaluated.weights {
            Some(weights) => self.best.evaluated(&evaluated.row, weights).map(drop),
            None => {
                tracing::warn!(
                    policy_version = evaluated.row.policy_version,
                    "its evaluation took so long that this policy is gone; it cannot become the best"
                );
                Ok(())
            }
        }
    }
}

/// Records are not worth a run: training goes on, and the next row is written with this one.
fn log(result: Result<(), LearnerError>) {
    if let Err(error) = result {
        tracing::error!(%error, "evaluation not recorded");
    }
}
