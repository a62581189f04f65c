//! A process's threads and tasks as one crew: the first failure stops the others, and nothing is left
//! running when the crew has ended.

use std::future::Future;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::ActorError;

/// Work that ends together. Everything in it watches the token it was made with.
pub(crate) struct Crew {
    members: JoinSet<Result<(), ActorError>>,
    shutdown: CancellationToken,
}

impl Crew {
    /// An empty crew, which cancels `shutdown` when a member fails.
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self {
            members: JoinSet::new(),
            shutdown,
        }
    }

    /// Runs `task` on the runtime.
    pub(crate) fn task(
        &mut self,
        task: impl Future<Output = Result<(), ActorError>> + Send + 'static,
    ) {
        self.members.spawn(task);
    }

    /// Runs `work` on a thread of its own.
    pub(crate) fn thread(
        &mut self,
        name: String,
        work: impl FnOnce() -> Result<(), ActorError> + Send + 'static,
    ) {
        let (ended, end) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                let result = work();
                // Nobody waits only where the runtime itself was dropped.
                drop(ended.send(result));
            });
        self.members.spawn(async move {
            thread.map_err(ActorError::Spawn)?;
            end.await.unwrap_or(Err(ActorError::Panicked(name)))
        });
    }

    /// Waits until every member has ended; the result is the first failure.
    pub(crate) async fn join(mut self) -> Result<(), ActorError> {
        let mut outcome = Ok(());
        while let Some(end) = self.members.join_next().await {
            let end = end.unwrap_or_else(|_| Err(ActorError::Panicked("a task".to_owned())));
            if end.is_err() {
                self.shutdown.cancel();
            }
            outcome = outcome.and(end);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_failure_stops_the_others_and_is_the_result() {
        let shutdown = CancellationToken::new();
        let mut crew = Crew::new(shutdown.clone());
        let stop = shutdown.clone();
        crew.task(async move {
            stop.cancelled().await;
            Ok(())
        });
        crew.thread("breaks".to_owned(), || panic!("on purpose"));
        let error = crew.join().await.unwrap_err();
        assert_eq!(error.to_string(), "breaks panicked");
        assert!(shutdown.is_cancelled());
    }

    #[tokio::test]
    async fn a_crew_ends_when_all_its_members_have() {
        let shutdown = CancellationToken::new();
        let mut crew = Crew::new(shutdown.clone());
        crew.thread("works".to_owned(), || Ok(()));
        crew.task(async { Ok(()) });
        crew.join().await.unwrap();
        assert!(!shutdown.is_cancelled());
    }
}
