//! `pmpo health`: one question to a running service, for probes of containers and for people.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pmpo_service::grpc;
use pmpo_service::security::{Credentials, Role};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::cli::HealthArgs;
use crate::config::Config;
use crate::failure::Usage;
use crate::http;
use crate::output::answer;

/// Longest answer of `/readyz` that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 4096;

/// An error, with one line, unless the service can do its work.
pub(crate) fn health(args: &HealthArgs) -> Result<()> {
    if !(args.timeout > 0.0 && args.timeout <= 3600.0) {
        let got = args.timeout;
        let error = anyhow::anyhow!("--timeout: expected more than 0 and at most 3600, got {got}");
        return Err(Usage::new(error).into());
    }
    let timeout = Duration::from_secs_f64(args.timeout);
    // Health wants no token, and so no role that must have one.
    let credentials = Config::of_tool(&args.security)?.credentials(Role::Replay)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let asked = async {
            if args.http {
                ask_http(&args.address).await
            } else {
                ask_grpc(&args.address, &credentials).await
            }
        };
        let answer = tokio::time::timeout(timeout, asked)
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {timeout:?}")));
        answer.with_context(|| args.address.clone())
    })?;
    answer!("{}: ready", args.address)?;
    Ok(())
}

async fn ask_grpc(address: &str, credentials: &Credentials) -> Result<()> {
    let channel = grpc::connect_lazy(address, credentials).map_err(Usage::new)?;
    let request = grpc::timed(HealthCheckRequest {
        service: String::new(),
    });
    let answer = HealthClient::new(channel).check(request).await;
    let status = answer
        .map_err(|status| anyhow::anyhow!("{} ({:?})", status.message(), status.code()))?
        .into_inner()
        .status();
    ensure!(status == ServingStatus::Serving, "{}", status.as_str_name());
    Ok(())
}

async fn ask_http(address: &str) -> Result<()> {
    let answer = http::get(address, "/readyz", MAX_ANSWER_BYTES).await?;
    if answer.is_ok() {
        return Ok(());
    }
    let said = answer.body.lines().next().unwrap_or_default();
    bail!("not ready: {} ({})", said.trim(), answer.status);
}
