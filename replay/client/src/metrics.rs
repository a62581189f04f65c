//! Names of the client's metrics; several writers or samplers of a process add up.

use ::metrics::{Unit, counter, describe_counter, describe_gauge};

/// Steps pushed and not yet acknowledged; a transition is one.
pub const IN_FLIGHT_STEPS: &str = "pmpo_replay_client_in_flight_steps";
/// Steps acknowledged.
pub const ACKNOWLEDGED_STEPS: &str = "pmpo_replay_client_acknowledged_steps_total";
/// Batches received and not yet taken.
pub const PREFETCHED_BATCHES: &str = "pmpo_replay_client_prefetched_batches";
/// Connections lost, or not made.
pub const CONNECTION_FAILURES: &str = "pmpo_replay_client_connection_failures_total";

/// Calls that the rate limiter held back for as long as they were allowed to take.
pub const BLOCKED_CALLS: &str = "pmpo_replay_client_blocked_calls_total";
/// Updates of priorities that could not be delivered.
pub const DROPPED_PRIORITY_UPDATES: &str = "pmpo_replay_client_dropped_priority_updates_total";

/// Registers the descriptions with the installed recorder, and counters that may stay at 0.
pub fn describe() {
    describe_gauge!(
        IN_FLIGHT_STEPS,
        Unit::Count,
        "Steps pushed and not yet acknowledged"
    );
    describe_counter!(
        ACKNOWLEDGED_STEPS,
        Unit::Count,
        "Steps the replay service acknowledged"
    );
    describe_gauge!(
        PREFETCHED_BATCHES,
        Unit::Count,
        "Batches received and not yet taken"
    );
    describe_counter!(
        CONNECTION_FAILURES,
        Unit::Count,
        "Connections to the replay service lost or not made"
    );
    describe_counter!(
        BLOCKED_CALLS,
        Unit::Count,
        "Calls that the rate limiter held back for as long as they were allowed to take"
    );
    describe_counter!(
        DROPPED_PRIORITY_UPDATES,
        Unit::Count,
        "Updates of priorities that could not be delivered"
    );
    for name in [
        ACKNOWLEDGED_STEPS,
        CONNECTION_FAILURES,
        BLOCKED_CALLS,
        DROPPED_PRIORITY_UPDATES,
    ] {
        counter!(name).absolute(0);
    }
}
