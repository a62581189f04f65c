//! What the sections of a configuration must agree on, and with the task, for a run to be possible: found
//! out before anything starts, by asking the parts themselves.

use anyhow::{Context, Result, ensure};
use pmpo_proto::{MAX_BATCH_BYTES, MAX_MESSAGE_BYTES};
use pmpo_replay_core::Table;
use pmpo_types::{EnvironmentSpec, step};

use crate::config::Config;

/// Room in a message for what a policy's snapshot has beside its weights.
const SNAPSHOT_HEADER_BYTES: usize = 64 << 10;

/// Refuses a run that its configuration alone shows to be impossible, whatever the task.
pub(crate) fn check(config: &Config) -> Result<()> {
    check_sizes(config, [1, 1])
}

/// Refuses a run that is impossible with this task.
pub(crate) fn check_with(config: &Config, spec: &EnvironmentSpec) -> Result<()> {
    let sizes = [spec.observation_size(), spec.action_size()];
    check_sizes(config, sizes).with_context(|| config.run.task.clone())
}

/// Refuses a learner without a table among those that are configured here.
pub(crate) fn check_table(config: &Config) -> Result<()> {
    let replay = &config.replay;
    let names = std::iter::once(&replay.table).chain(&replay.tables);
    let names: Vec<&str> = names.map(|table| table.name.as_str()).collect();
    let table = config.learner.table.as_str();
    ensure!(
        names.contains(&table),
        "learner.table: expected one of the configured tables ({}), got {table}",
        names.join(", ")
    );
    Ok(())
}

fn check_sizes(config: &Config, [observation_size, action_size]: [usize; 2]) -> Result<()> {
    let tensors = config
        .policy
        .tensors(observation_size, action_size)
        .map_err(|error| error.within("policy"))?;
    let weights: usize = tensors.iter().map(|tensor| 4 * tensor.elements()).sum();
    let most = MAX_MESSAGE_BYTES - SNAPSHOT_HEADER_BYTES;
    ensure!(
        weights <= most,
        "policy.torso: expected weights of at most {most} bytes, which a message can hold, got {weights} \
         (hidden_sizes = {:?})",
        config.policy.torso.hidden_sizes
    );

    let signature = step::signature(observation_size, action_size);
    let (batch, rows) = (config.update.batch_size, config.update.window().rows());
    let bytes = batch.saturating_mul(rows * signature.item_bytes());
    ensure!(
        bytes <= MAX_BATCH_BYTES,
        "update.batch_size: expected batches of at most {MAX_BATCH_BYTES} bytes, which a message can \
         hold, got {batch} windows of {rows} steps, {bytes} bytes"
    );
    if let Some((place, table)) = config.clone().learner_table() {
        let mut table = Table::new(table.clone(), 0).context(place.clone())?;
        let drawn = table.open_sampler(batch, &signature, rows);
        drawn.with_context(|| format!("update.batch_size and {place} do not go together"))?;
    }
    Ok(())
}
