//! `pmpo tables`: what the tables of a running replay are and hold, and who waits for what; with a
//! bound given, the table is changed first.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use pmpo_proto::v1::replay_client::ReplayClient;
use pmpo_proto::v1::{
    Blocked, ConfigureTableRequest, ListTablesRequest, ListWritersRequest, ListWritersResponse,
    TableInfo,
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
    tables.retain(|table| table.name == args.table);
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
    let counters = table.counters.unwrap_or_default();
    let ratio = match counters.inserts {
        0 => "no".to_owned(),
        inserts => format!("{:.2}", counters.samples as f64 / inserts as f64),
    };
    answer!(
        "{address} {}: {} of {} items of {} steps, {:.1} MB{}",
        table.name,
        counters.size,
        table.max_size,
        table.sequence_length,
        table.bytes as f64 / 1e6,
        if table.durable { ", durable" } else { "" },
    )?;
    answer!(
        "  {} inserts, {} samples: {ratio} samples per insert; limiter {}, target {}, error \
         buffer {}, min size {}",
        counters.inserts,
        counters.samples,
        table.limiter,
        table.samples_per_insert,
        table.error_buffer,
        table.min_size_to_sample,
    )?;
    for Blocked {
        reason,
        seconds,
        counter,
        value,
        bound,
        callers,
    } in &table.blocked
    {
        answer!(
            "  {callers} waiting for {reason} for {seconds:.1} s: {counter} is {value}, has to pass \
             {bound}"
        )?;
    }
    Ok(())
}
