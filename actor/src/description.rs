//! Tells a learner that cannot load its environment what it is.

use backon::Retryable;
use pmpo_proto::v1::{self, environment_client::EnvironmentClient};
use pmpo_service::backoff;
use pmpo_service::grpc::{self, Channel};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{ActorError, environment};

/// Where environments of another world can be loaded: waits for the learner, and if it wants to be told what
/// its environment is, tells it.
///
/// # Errors
/// There is no such environment here, or the learner refuses what it is told.
pub(crate) async fn tell(
    learner: &Channel,
    shutdown: &CancellationToken,
) -> Result<(), ActorError> {
    if !environment::loads_external() {
        return Ok(());
    }
    let client = EnvironmentClient::new(learner.clone());
    let ask = || {
        let mut client = client.clone();
        async move { client.wanted(grpc::timed(v1::WantedRequest {})).await }
    };
    let Some(wanted) = patiently("Environment.Wanted", ask, shutdown).await? else {
        return Ok(());
    };
    let task = wanted.into_inner().task;
    let name = task.clone();
    let described = tokio::task::spawn_blocking(move || environment::describe(&name)).await;
    let description =
        described.map_err(|_| ActorError::Panicked("describing the environment".to_owned()))??;
    tracing::info!(task, "telling the learner what the environment is");
    let request = v1::DescribeRequest { task, description };
    let tell = || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.describe(grpc::timed(request)).await }
    };
    patiently("Environment.Describe", tell, shutdown).await?;
    Ok(())
}

/// An answer of a learner that is waited for; `None` when told to stop before, or from one that knows its
/// environment.
async fn patiently<A, F>(
    name: &'static str,
    call: impl FnMut() -> F,
    shutdown: &CancellationToken,
) -> Result<Option<A>, ActorError>
where
    F: Future<Output = Result<A, Status>>,
{
    let answer = call
        .retry(backoff::exponential())
        .when(|status| ActorError::refusal(name, status).is_none())
        .notify(|status, delay| {
            tracing::info!(reason = status.message(), ?delay, "waiting for the learner");
        });
    let answer = tokio::select! {
        () = shutdown.cancelled() => return Ok(None),
        answer = answer => answer,
    };
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(status) if status.code() == Code::Unimplemented => Ok(None),
        Err(status) => ActorError::refusal(name, &status).map_or(Ok(None), Err),
    }
}
