//! Names of the service's metrics; the label `table` is the table's name.

use ::metrics::{Unit, describe_counter, describe_gauge};

/// Items held.
pub const TABLE_ITEMS: &str = "pmpo_replay_table_items";
/// Bytes of the items held.
pub const TABLE_BYTES: &str = "pmpo_replay_table_bytes";
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

/// Registers the descriptions with the installed recorder.
pub fn describe() {
    describe_gauge!(TABLE_ITEMS, Unit::Count, "Items held");
    describe_gauge!(TABLE_BYTES, Unit::Bytes, "Bytes of the items held");
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
}
