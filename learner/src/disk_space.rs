//! How much room is left where the run's folder is: for the operator, nothing depends on it.

use std::path::PathBuf;
use std::time::Duration;

use ::metrics::gauge;
use pmpo_service::files;
use tokio::task::spawn_blocking;

use crate::metrics;

const PERIOD: Duration = Duration::from_secs(15);

/// Keeps the metrics up to date; never returns.
pub(crate) async fn watch(run_dir: PathBuf) {
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        ticks.tick().await;
        let folder = run_dir.clone();
        // A network's file system may take its time to answer.
        if let Ok(Ok(space)) = spawn_blocking(move || files::space(&folder)).await {
            gauge!(metrics::FREE_BYTES).set(space.free_bytes as f64);
            gauge!(metrics::SIZE_BYTES).set(space.size_bytes as f64);
        }
    }
}
