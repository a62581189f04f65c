//! Names of the service's metrics; the label `table` is the table's name.

use ::metrics::{Unit, counter, describe_counter, describe_gauge};

/// Items held.
pub const TABLE_ITEMS: &str = "pmpo_replay_table_items";
/// Bytes of the items held.
pub const TABLE_BYTES: &str = "pmpo_replay_table_bytes";
/// Bytes taken beside the items held, of `replay.table_budget_bytes`, by `use`: streams, inserts, samples or tails.
pub const TRANSIT_BYTES: &str = "pmpo_replay_table_transit_bytes";
/// Items inserted.
pub const INSERTS: &str = "pmpo_replay_inserts_total";
/// Items sampled.
pub const SAMPLES: &str = "pmpo_replay_samples_total";
/// Whole seconds in which at least one caller was blocked by the rate limiter, by `reason`.
pub const BLOCKED_SECONDS: &str = "pmpo_replay_blocked_seconds_total";
/// Callers blocked by the rate limiter now, by `reason`.
pub const BLOCKED_CALLERS: &str = "pmpo_replay_blocked_callers";
/// Commands that wait for the table's thread.
pub const QUEUED_COMMANDS: &str = "pmpo_replay_queued_commands";
/// Streams refused, by gRPC `code`.
pub const REFUSED_STREAMS: &str = "pmpo_replay_refused_streams_total";
/// Items sampled for each inserted, over all time.
pub const SAMPLES_PER_INSERT: &str = "pmpo_replay_samples_per_insert";
/// What the limiter holds samples per insert to; absent for other limiters.
pub const SAMPLES_PER_INSERT_TARGET: &str = "pmpo_replay_samples_per_insert_target";
/// Whole seconds of the table's thread, by `state`: running, inserting, sampling, waiting_for_inserts, waiting_for_samples or idle.
pub const WORKER_SECONDS: &str = "pmpo_replay_worker_seconds_total";
/// Items removed.
pub const REMOVED_ITEMS: &str = "pmpo_replay_removed_items_total";
/// Draws of removed items; over removed items: how often an item is sampled in its life.
pub const REMOVED_TIMES_SAMPLED: &str = "pmpo_replay_removed_times_sampled_total";
/// Whole seconds that removed items had been held, or known since a restart; over removed items: their mean age.
pub const REMOVED_AGE_SECONDS: &str = "pmpo_replay_removed_age_seconds_total";
/// Time the recovery at the start took.
pub const RECOVERY_SECONDS: &str = "pmpo_replay_recovery_seconds";
/// Items recovered at the start.
pub const RECOVERED_ITEMS: &str = "pmpo_replay_recovered_items";
/// Damaged stretches of the log found at the start.
pub const DAMAGED_RECORDS: &str = "pmpo_replay_damaged_records";
/// Bytes of the table's log on disk.
pub const LOG_BYTES: &str = "pmpo_replay_log_bytes";
/// Times that no new segment of the log could be created.
pub const FAILED_SEGMENTS: &str = "pmpo_replay_failed_segments_total";
/// Room for files of this user where the data directory is.
pub const FREE_BYTES: &str = "pmpo_replay_filesystem_free_bytes";
/// Size of the file system where the data directory is.
pub const SIZE_BYTES: &str = "pmpo_replay_filesystem_size_bytes";
/// Times the log was synced.
pub const SYNCS: &str = "pmpo_replay_syncs_total";
/// Time the last sync of the log took.
pub const SYNC_SECONDS: &str = "pmpo_replay_sync_seconds";
/// Streams open.
pub const OPEN_STREAMS: &str = "pmpo_replay_open_streams";

/// Registers the descriptions with the installed recorder, and refusals before there is one.
pub fn describe() {
    describe_gauge!(TABLE_ITEMS, Unit::Count, "Items held");
    describe_gauge!(TABLE_BYTES, Unit::Bytes, "Bytes of the items held");
    describe_gauge!(
        TRANSIT_BYTES,
        Unit::Bytes,
        "Bytes taken beside the items held, by `use`: streams, inserts, samples or tails"
    );
    describe_counter!(INSERTS, Unit::Count, "Items inserted");
    describe_counter!(SAMPLES, Unit::Count, "Items sampled");
    describe_counter!(
        BLOCKED_SECONDS,
        Unit::Seconds,
        "Whole seconds in which at least one caller was blocked by the rate limiter"
    );
    describe_gauge!(
        BLOCKED_CALLERS,
        Unit::Count,
        "Callers blocked by the rate limiter"
    );
    describe_gauge!(
        QUEUED_COMMANDS,
        Unit::Count,
        "Commands waiting for the table's thread"
    );
    describe_counter!(
        REFUSED_STREAMS,
        Unit::Count,
        "Streams refused for what they sent"
    );
    describe_gauge!(
        SAMPLES_PER_INSERT,
        Unit::Count,
        "Items sampled for each inserted, over all time"
    );
    describe_gauge!(
        SAMPLES_PER_INSERT_TARGET,
        Unit::Count,
        "What the limiter holds samples per insert to; absent for other limiters"
    );
    describe_counter!(
        WORKER_SECONDS,
        Unit::Seconds,
        "Whole seconds of the table's thread, by `state`: running, inserting, sampling, waiting_for_inserts, waiting_for_samples or idle"
    );
    describe_counter!(REMOVED_ITEMS, Unit::Count, "Items removed");
    describe_counter!(
        REMOVED_TIMES_SAMPLED,
        Unit::Count,
        "Draws of removed items; over removed items: how often an item is sampled in its life"
    );
    describe_counter!(
        REMOVED_AGE_SECONDS,
        Unit::Seconds,
        "Whole seconds that removed items had been held, or known since a restart; over removed items: their mean age"
    );
    describe_gauge!(
        RECOVERY_SECONDS,
        Unit::Seconds,
        "Time the recovery at the start took"
    );
    describe_gauge!(RECOVERED_ITEMS, Unit::Count, "Items recovered at the start");
    describe_gauge!(
        DAMAGED_RECORDS,
        Unit::Count,
        "Damaged stretches of the log found at the start"
    );
    describe_gauge!(LOG_BYTES, Unit::Bytes, "Bytes of the table's log on disk");
    describe_counter!(
        FAILED_SEGMENTS,
        Unit::Count,
        "Times that no new segment of the log could be created"
    );
    describe_gauge!(FREE_BYTES, Unit::Bytes, "Room where the data directory is");
    describe_gauge!(
        SIZE_BYTES,
        Unit::Bytes,
        "Size of the file system of the data directory"
    );
    describe_counter!(SYNCS, Unit::Count, "Times the log was synced");
    describe_gauge!(
        SYNC_SECONDS,
        Unit::Seconds,
        "Time the last sync of the log took"
    );
    describe_gauge!(OPEN_STREAMS, Unit::Count, "Streams open");
    // Seen before anyone was refused, so that the first one counts as an increase.
    for code in ["InvalidArgument", "FailedPrecondition", "ResourceExhausted"] {
        counter!(REFUSED_STREAMS, "code" => code).absolute(0);
    }
}
