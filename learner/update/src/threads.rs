//! The update's threads. The tensor library shares work through the pool of the thread that calls
//! it, so a pool of the configured size, entered once, bounds all of it; several learners in one
//! process keep to their own.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// A pool of `threads` threads.
///
/// # Errors
/// The system gives no more threads.
pub fn pool(threads: usize) -> Result<ThreadPool, ThreadPoolBuildError> {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("update-{index}"))
        .build()
}
