//! What reaches a server: calls with one answer, tried again while it is away, and why somebody has waited.

use std::time::Duration;

use backon::BackoffBuilder;
use pmpo_proto::MAX_MESSAGE_BYTES;
use pmpo_proto::replay::v1::replay_client::ReplayClient;
use pmpo_proto::replay::v1::{self, BlockedReason};
use pmpo_service::backoff;
use pmpo_service::grpc::{self, Channel};
use pmpo_service::security::Credentials;
use pyo3::exceptions::{PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use crate::replay::error;
use crate::replay::process::{Deadline, runtime, wait};
use crate::replay::tables::name;

/// How long the server may take to say why it makes wait, beyond the caller's own time.
const EXPLANATION: Duration = Duration::from_secs(1);
/// Between attempts to reach a server that is away, at most.
const RETRY: Duration = Duration::from_millis(200);

/// A server, by its address, and what this client shows it.
pub(crate) struct Link {
    pub(crate) address: String,
    pub(crate) credentials: Credentials,
    pub(crate) runtime: Handle,
    client: ReplayClient<Channel>,
    timeout: Duration,
}

impl Link {
    pub(crate) fn new(
        py: Python<'_>,
        address: String,
        timeout: f64,
        credentials: Credentials,
    ) -> PyResult<Self> {
        let runtime = runtime(py)?;
        let entered = runtime.enter();
        let channel = grpc::connect_lazy(&address, &credentials)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        drop(entered);
        let client = ReplayClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self {
            address,
            credentials,
            runtime,
            client,
            timeout: Duration::from_secs_f64(timeout),
        })
    }

    /// A call with one answer. All are harmless to repeat, so a server that is away is tried again.
    pub(crate) fn call<Q, A, F>(
        &self,
        py: Python<'_>,
        request: Q,
        call: impl Fn(ReplayClient<Channel>, Request<Q>) -> F + Send + Sync,
    ) -> PyResult<A>
    where
        Q: Clone + Send + Sync,
        A: Send,
        F: Future<Output = Result<Response<A>, Status>> + Send,
    {
        self.call_within(py, self.timeout, request, call)
    }

    fn call_within<Q, A, F>(
        &self,
        py: Python<'_>,
        timeout: Duration,
        request: Q,
        call: impl Fn(ReplayClient<Channel>, Request<Q>) -> F + Send + Sync,
    ) -> PyResult<A>
    where
        Q: Clone + Send + Sync,
        A: Send,
        F: Future<Output = Result<Response<A>, Status>> + Send,
    {
        let deadline = Instant::now() + timeout;
        let delays = backoff::exponential().with_max_delay(RETRY).build();
        let mut answer = Box::pin(async {
            for delay in delays {
                let mut timed = Request::new(request.clone());
                timed.set_timeout(deadline.saturating_duration_since(Instant::now()));
                match call(self.client.clone(), timed).await {
                    Err(status)
                        if status.code() == Code::Unavailable
                            && Instant::now() + delay < deadline =>
                    {
                        tokio::time::sleep(delay).await;
                    }
                    done => return done,
                }
            }
            unreachable!("the backoff has no end")
        });
        let answered = wait(py, Deadline::after(None)?, |slice| {
            let slice = async { tokio::time::timeout(slice, &mut answer).await };
            self.runtime.block_on(slice).ok().transpose()
        })?;
        match answered {
            Ok(answer) => Ok(answer.expect("without a deadline").into_inner()),
            Err(status) => Err(error::of_call(py, &self.address, &status)),
        }
    }

    /// All tables.
    pub(crate) fn list(&self, py: Python<'_>) -> PyResult<Vec<v1::TableInfo>> {
        self.list_within(py, self.timeout)
    }

    fn list_within(&self, py: Python<'_>, timeout: Duration) -> PyResult<Vec<v1::TableInfo>> {
        let request = v1::ListTablesRequest {};
        let answer = self.call_within(py, timeout, request, |mut client, request| async move {
            client.list_tables(request).await
        })?;
        Ok(answer.tables)
    }

    /// One table.
    pub(crate) fn table(&self, py: Python<'_>, table: &str) -> PyResult<v1::TableInfo> {
        let tables = self.list(py)?;
        let names: Vec<&str> = tables.iter().map(name).collect();
        let Some(position) = names.iter().position(|&name| name == table) else {
            let message = format!("table: expected one of {names:?}, got `{table}`");
            return Err(error::refused(py, Code::NotFound, &message));
        };
        let mut tables = tables;
        Ok(tables.swap_remove(position))
    }

    /// One table, once it has a signature; `None` when it has none by the deadline.
    pub(crate) fn table_with_signature(
        &self,
        py: Python<'_>,
        table: &str,
        deadline: Deadline,
    ) -> PyResult<Option<v1::TableInfo>> {
        loop {
            let info = self.table(py, table)?;
            if info.signature.is_some() {
                return Ok(Some(info));
            }
            if deadline.passed() {
                return Ok(None);
            }
            py.detach(|| std::thread::sleep(deadline.slice()));
            py.check_signals()?;
        }
    }

    /// Why `what` was not done in time: by whoever the rate limiter holds back for one of the reasons, and
    /// otherwise by nobody.
    pub(crate) fn late(
        &self,
        py: Python<'_>,
        table: &str,
        reasons: &[BlockedReason],
        what: &str,
    ) -> PyErr {
        let tables = match self.list_within(py, EXPLANATION) {
            Ok(tables) => tables,
            Err(error) => return error,
        };
        let info = tables.into_iter().find(|info| name(info) == table);
        let info = info.unwrap_or_default();
        if let Some(blocked) = info.blocked.iter().find(|b| reasons.contains(&b.reason())) {
            return error::blocked(py, what, blocked);
        }
        let (size, config) = (
            info.counters.unwrap_or_default().size,
            info.config.unwrap_or_default(),
        );
        let least = config.min_size_to_sample().max(1);
        if reasons.contains(&BlockedReason::MinSize) && info.signature.is_none() {
            // Nobody can ask for a batch of it yet, so nobody waits there.
            let blocked = v1::Blocked {
                reason: BlockedReason::MinSize.into(),
                counter: "size".to_owned(),
                value: size as f64,
                bound: least as f64,
                message: format!(
                    "table `{table}`: no step was stored yet, size is {size}, has to reach {least}"
                ),
                ..v1::Blocked::default()
            };
            return error::blocked(py, what, &blocked);
        }
        PyTimeoutError::new_err(format!(
            "{what}: the replay at {} does not say that it makes wait",
            self.address
        ))
    }
}
