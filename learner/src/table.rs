//! What the replay table's shards say of themselves, asked ten times a second: environment steps and
//! size, also while no batch comes. One asker a shard, so that its answers are in order.

use std::time::Duration;

use ::metrics::gauge;
use pmpo_proto::counters_from_wire;
use pmpo_proto::replay::v1::{self, replay_client::ReplayClient};
use pmpo_service::grpc::Channel;
use pmpo_service::readiness::Readiness;
use pmpo_types::TableCounters;
use tokio::time::{MissedTickBehavior, interval};
use tonic::Request;

use crate::board::{Board, TableState};
use crate::metrics;
use crate::run::REPLAY;

const PERIOD: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(2);

/// The table that is watched.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) name: String,
    /// Environment steps for each of its items.
    pub(crate) steps_per_item: u64,
}

/// Keeps the board up to date with one shard; never returns.
pub(crate) async fn watch(
    shard: usize,
    channel: Channel,
    table: Watched,
    board: Board,
    readiness: Readiness,
) {
    let Watched {
        name: table,
        steps_per_item,
    } = table;
    let mut client = ReplayClient::new(channel);
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match ask(&mut client, &table).await {
            Ok(Some((counters, durable))) => {
                readiness.met(REPLAY);
                let state = TableState {
                    counters,
                    durable,
                    steps_per_item,
                };
                let (environment_steps, items) = board.table(shard, state);
                gauge!(metrics::ENVIRONMENT_STEPS).set(environment_steps as f64);
                gauge!(metrics::REPLAY_ITEMS).set(items as f64);
            }
            Ok(None) => tracing::debug!(table, "the replay service has no such table"),
            // The sampler, on a connection of its own, tells the operator.
            Err(error) => tracing::debug!(%error, "no answer of the replay service"),
        }
    }
}

/// The table's counters, and whether it is durable.
async fn ask(
    client: &mut ReplayClient<Channel>,
    table: &str,
) -> Result<Option<(TableCounters, bool)>, tonic::Status> {
    let mut request = Request::new(v1::ListTablesRequest {});
    request.set_timeout(TIMEOUT);
    let tables = client.list_tables(request).await?.into_inner().tables;
    let named = |info: &v1::TableInfo| info.config.as_ref().is_some_and(|c| c.name == table);
    let found = tables.into_iter().find(named);
    let state = |info: v1::TableInfo| Ok((counters_from_wire(info.counters)?, info.durable));
    found.map(state).transpose()
}
