//! `Run.Join`: one member's stream.

use pmpo_proto::v1;
use pmpo_service::security::Role;
use tokio::sync::mpsc::Sender;
use tonic::{Status, Streaming};

use super::wrong;
use crate::leases::{End, Members, Membership, Refused};

/// Gives the client an index under a lease, and takes it back when the client has gone or is silent for too long.
pub(super) async fn serve(
    members: Members,
    mut requests: Streaming<v1::JoinRequest>,
    responses: Sender<Result<v1::JoinResponse, Status>>,
) -> Result<(), Status> {
    let first = tokio::time::timeout(members.lease(), requests.message())
        .await
        .map_err(|_| Status::deadline_exceeded("request: expected who joins, got nothing"))??;
    let Some(first) = first else {
        return Ok(());
    };
    let role = match first.role() {
        v1::MemberRole::Actor => Role::Actor,
        v1::MemberRole::Evaluator => Role::Evaluator,
        v1::MemberRole::Unspecified => return Err(wrong("role", "actor or evaluator", first.role)),
    };
    let joined = members.join(role, first.index).await;
    let membership = joined.map_err(|refused| status(refused, role, first.index))?;
    tracing::info!(role = role.as_str(), index = membership.index(), "joined");
    hold(&members, membership, &mut requests, &responses).await
}

/// Answers each request, until there are no more.
async fn hold(
    members: &Members,
    membership: Membership,
    requests: &mut Streaming<v1::JoinRequest>,
    responses: &Sender<Result<v1::JoinResponse, Status>>,
) -> Result<(), Status> {
    let lease = members.lease();
    let answer = v1::JoinResponse {
        index: membership.index(),
        lease_ms: lease.as_millis() as u64,
    };
    loop {
        // A client that reads nothing is as good as silent.
        let mut next = std::pin::pin!(async {
            if responses.send(Ok(answer)).await.is_err() {
                return Err(Status::cancelled("the client is gone"));
            }
            requests.message().await
        });
        let mut heard = tokio::time::timeout(lease, &mut next).await;
        if heard.is_err() {
            // Where this process was the frozen one, what came meanwhile is still to be read.
            heard = tokio::time::timeout(members.grace(), &mut next).await;
        }
        match heard {
            Ok(Ok(Some(request))) if request.leaving => {
                membership.end(End::Left);
                return Ok(());
            }
            Ok(Ok(Some(_))) => {}
            // A stream that was cancelled looks like one that has ended.
            Ok(Ok(None) | Err(_)) => {
                membership.end(End::Lost);
                return Ok(());
            }
            Err(_) => {
                membership.end(End::Expired);
                let message = format!("silent for {lease:?}: the lease ran out");
                return Err(Status::aborted(message));
            }
        }
    }
}

fn status(refused: Refused, role: Role, index: Option<u64>) -> Status {
    let member = format!("{}-{}", role.as_str(), index.unwrap_or_default());
    match refused {
        Refused::Taken => Status::already_exists(format!(
            "index: {member} is in the run and alive; choose another index, or `auto`"
        )),
        Refused::TooEarly => Status::unavailable(
            "the learner has come back and lets the members of before return first",
        ),
        Refused::OutOfRange => wrong("index", "below 2^20", index.unwrap_or(u64::MAX)),
    }
}
