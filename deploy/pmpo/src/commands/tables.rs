//! `pmpo tables`: what the tables of a running replay are and hold, and who waits for what; with a
//! bound given, the table is changed first.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use pmpo_proto::replay::v1::replay_client::ReplayClient;
use pmpo_proto::replay::v1::{
    Blocked, BlockedReason, ConfigureTableRequest, Limiter, ListTablesRequest, ListWritersRequest,
    ListWritersResponse, TableConfig, TableInfo,
};
use pmpo_proto::writer_id_from_wire;
use pmpo_service::grpc::{self, Channel};
use pmpo_service::security::Role;
use tonic::Request;

use crate::cli::TablesArgs;
use crate::config::Config;
use crate::failure::Usage;
use crate::output::answer;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks every shard in turn.
pub(crate) fn tables(args: &TablesArgs) -> Result<()> {
    let credentials = Config::of_tool(&args.security)?.credentials(Role::Admin)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for address in &args.replay {
            let channel = grpc::connect_lazy(address, &credentials).map_err(Usage::new)?;
            let client = ReplayClient::new(channel);
            let shard = shard(client.clone(), args).await;
            for table in shard.with_context(|| address.clone())? {
                print(address, &table)?;
            }
            if args.writers {
                print_writers(client, args)
                    .await
                    .with_context(|| address.clone())?;
            }
        }
        Ok(())
    })
}

/// The tables of one shard, after the change that was asked for.
async fn shard(mut client: ReplayClient<Channel>, args: &TablesArgs) -> Result<Vec<TableInfo>> {
    let request = ConfigureTableRequest {
        table: args.table.clone(),
        samples_per_insert: args.samples_per_insert,
        min_size_to_sample: args.min_size_to_sample,
        error_buffer: args.error_buffer,
        max_size: args.max_size,
        max_bytes: args.max_bytes,
    };
    let unchanged = ConfigureTableRequest {
        table: args.table.clone(),
        ..ConfigureTableRequest::default()
    };
    if request != unchanged {
        let response = client.configure_table(timed(request)).await;
        response.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    }
    let response = client.list_tables(timed(ListTablesRequest {})).await;
    let tables = response.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let mut tables = tables.into_inner().tables;
    tables.retain(|table| config(table).name == args.table);
    if tables.is_empty() {
        bail!("no table `{}`", args.table);
    }
    Ok(tables)
}

async fn print_writers(mut client: ReplayClient<Channel>, args: &TablesArgs) -> Result<()> {
    let request = ListWritersRequest {
        table: args.table.clone(),
    };
    let response = client.list_writers(timed(request)).await;
    let ListWritersResponse { writers, inserts } = response
        .map_err(|status| anyhow::anyhow!("{}", status.message()))?
        .into_inner();
    for writer in writers {
        let id = writer_id_from_wire(&writer.writer_id)?;
        answer!("  writer {id}: {} steps stored", writer.next_sequence)?;
    }
    answer!("  {inserts} items inserted by them all")?;
    Ok(())
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

fn print(address: &str, table: &TableInfo) -> Result<()> {
    let (config, counters) = (config(table), table.counters.unwrap_or_default());
    let ratio = match counters.inserts {
        0 => "no".to_owned(),
        inserts => format!("{:.2}", counters.samples as f64 / inserts as f64),
    };
    answer!(
        "{address} {}: {} of {} items of {} steps, {:.1} MB{}",
        config.name,
        counters.size,
        config.max_size(),
        config.sequence_length(),
        table.bytes as f64 / 1e6,
        if table.durable { ", durable" } else { "" },
    )?;
    answer!(
        "  {} inserts, {} samples: {ratio} samples per insert; limiter {}, target {}, error \
         buffer {}, min size {}",
        counters.inserts,
        counters.samples,
        limiter(config.limiter()),
        config.samples_per_insert(),
        config.error_buffer(),
        config.min_size_to_sample(),
    )?;
    for blocked in &table.blocked {
        let reason = awaited(blocked.reason());
        let Blocked {
            seconds,
            counter,
            value,
            bound,
            callers,
            ..
        } = blocked;
        answer!(
            "  {callers} waiting for {reason} for {seconds:.1} s: {counter} is {value}, has to pass \
             {bound}"
        )?;
    }
    Ok(())
}

/// A server names its tables.
fn config(table: &TableInfo) -> TableConfig {
    table.config.clone().unwrap_or_default()
}

fn limiter(limiter: Limiter) -> &'static str {
    match limiter {
        Limiter::SamplesPerInsert => "samples_per_insert",
        Limiter::MinSize => "min_size",
        Limiter::Queue => "queue",
        Limiter::None => "none",
        Limiter::Unspecified => "of a later version",
    }
}

fn awaited(reason: BlockedReason) -> &'static str {
    match reason {
        BlockedReason::MinSize => "min_size",
        BlockedReason::Inserts => "inserts",
        BlockedReason::Samples => "samples",
        BlockedReason::Unspecified => "what a later version knows",
    }
}
