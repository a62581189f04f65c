//! The update's threads. The tensor library shares work through the pool of the thread that calls
//! it, so a pool of the configured size, entered once, bounds all of it; several learners in one
//! process keep to their own.

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::LearnerError;

/// A pool of `threads` threads.
///
/// # Errors
/// The system gives no more threads.
pub(crate) fn pool(threads: usize) -> Result<ThreadPool, LearnerError> {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("update-{index}"))
        .build()
        .map_err(LearnerError::Threads)
}
