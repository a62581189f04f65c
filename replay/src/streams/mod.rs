//! The two kinds of streams. Everything is checked here, before the table sees it.

mod insert;
mod sample;

use std::time::Duration;

use pmpo_proto::WireError;
use tokio::sync::mpsc::Sender;
use tonic::{Code, Status, Streaming};

pub(crate) use self::insert::Insert;
pub(crate) use self::sample::Sample;
use crate::error::refusal;
use crate::table::Reminder;
use crate::tables::Tables;

/// How long a sampler may take to take a batch that it has demanded, and a writer to send a message whole
/// that it has begun.
pub(crate) const TAKING_TIMEOUT: Duration = Duration::from_secs(60);

/// What every stream needs: the tables, and how long to wait for the first message.
#[derive(Clone)]
pub(crate) struct Border {
    pub(crate) tables: Tables,
    pub(crate) open_timeout: Duration,
}

impl Border {
    /// The stream's first message; `None` if the client has nothing to say at all.
    async fn first<T>(&self, requests: &mut Streaming<T>) -> Result<Option<T>, Status> {
        let timeout = self.open_timeout;
        tokio::time::timeout(timeout, requests.message())
            .await
            .unwrap_or_else(|_| {
                let message = format!("request: expected `open` within {timeout:?}, got nothing");
                Err(refusal(Code::DeadlineExceeded, "OPEN_TIMEOUT", message))
            })
    }
}

/// Steps of an item; absent on the wire where it is one.
fn length_from_wire(sequence_length: u32) -> usize {
    sequence_length.max(1) as usize
}

/// When a client is told why it waits, if it asks for that.
fn reminder_from_wire(period_ms: u64) -> Option<Reminder> {
    (period_ms > 0).then(|| Reminder::every(Duration::from_millis(period_ms)))
}

/// Another kind of message than the conversation is at.
fn unexpected(expected: &str, got: &str) -> Status {
    WireError::field("request", expected, got).into()
}

/// Sending fails only when the client is gone, which ends the task anyway.
async fn respond<T>(responses: &Sender<Result<T, Status>>, response: T) -> Result<(), Status> {
    responses
        .send(Ok(response))
        .await
        .map_err(|_| Status::cancelled("the client is gone"))
}

/// A peer holds memory of the table and does not do its part.
pub(crate) fn too_slow(what: &str) -> Status {
    let message = format!("{what} within {TAKING_TIMEOUT:?}");
    refusal(Code::DeadlineExceeded, "TOO_SLOW", message)
}
