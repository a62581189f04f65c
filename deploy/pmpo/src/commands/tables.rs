//! `pmpo tables`: what the tables of a running replay are and hold, and who waits for what; a table that is
//! to be created is so first, and one whose bounds are given is changed; copies come last.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pmpo_proto::replay::v1::replay_client::ReplayClient;
use pmpo_proto::replay::v1::{
    Blocked, BlockedReason, CheckpointRequest, ConfigureTableRequest, CreateTableRequest, Limiter,
    ListTablesRequest, ListWritersRequest, ListWritersResponse, TableConfig, TableInfo,
};
use pmpo_proto::writer_id_from_wire;
use pmpo_replay::config_to_wire;
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
    let created = args.create.as_deref().map(read_table).transpose()?;
    let table = created.as_ref().map_or(&args.table, |table| &table.name);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for address in &args.replay {
            let channel = grpc::connect_lazy(address, &credentials).map_err(Usage::new)?;
            let client = ReplayClient::new(channel);
            let shown = async {
                if let Some(table) = &created {
                    create(client.clone(), table).await?;
                }
                print(address, &changed(client.clone(), table, args).await?)?;
                if args.writers {
                    print_writers(client.clone(), table).await?;
                }
                if args.checkpoint {
                    checkpoint(client, args.keep.unwrap_or_default()).await?;
                }
                Ok(())
            };
            let shown: Result<()> = shown.await;
            shown.with_context(|| address.clone())?;
        }
        Ok(())
    })
}

/// A table as `[[replay.tables]]` of a configuration has it, with the same defaults.
fn read_table(path: &Path) -> Result<TableConfig> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let read = toml::from_str(&text);
    let table = read.map_err(|error| Usage::new(anyhow::anyhow!("{}: {error}", path.display())))?;
    Ok(config_to_wire(&table))
}

async fn create(mut client: ReplayClient<Channel>, table: &TableConfig) -> Result<()> {
    let request = CreateTableRequest {
        config: Some(table.clone()),
    };
    let response = client.create_table(timed(request)).await;
    response.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    Ok(())
}

async fn checkpoint(mut client: ReplayClient<Channel>, keep: u32) -> Result<()> {
    let response = client.checkpoint(timed(CheckpointRequest { keep })).await;
    let made = response.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let made = made.into_inner();
    answer!("  copied to {}", made.path)?;
    for copied in made.tables {
        let counters = copied.counters.unwrap_or_default();
        answer!(
            "    {}: {} items, {} inserts, {} samples, {:.1} MB",
            copied.table,
            counters.size,
            counters.inserts,
            counters.samples,
            copied.bytes as f64 / 1e6
        )?;
    }
    Ok(())
}

/// The table of one shard, after the change that was asked for.
async fn changed(
    mut client: ReplayClient<Channel>,
    table: &str,
    args: &TablesArgs,
) -> Result<TableInfo> {
    let request = ConfigureTableRequest {
        table: table.to_owned(),
        samples_per_insert: args.samples_per_insert,
        min_size_to_sample: args.min_size_to_sample,
        error_buffer: args.error_buffer,
        max_size: args.max_size,
        max_bytes: args.max_bytes,
    };
    let unchanged = ConfigureTableRequest {
        table: table.to_owned(),
        ..ConfigureTableRequest::default()
    };
    if request != unchanged {
        let response = client.configure_table(timed(request)).await;
        response.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    }
    let response = client.list_tables(timed(ListTablesRequest {})).await;
    let tables = response.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let mut tables = tables.into_inner().tables.into_iter();
    let found = tables.find(|found| config(found).name == table);
    found.with_context(|| format!("no table `{table}`"))
}

async fn print_writers(mut client: ReplayClient<Channel>, table: &str) -> Result<()> {
    let request = ListWritersRequest {
        table: table.to_owned(),
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
