//! Names of the learner's metrics.

use ::metrics::Unit::{Bytes, Count, Seconds};
use ::metrics::{counter, describe_counter, describe_gauge, describe_histogram};

/// Learner steps taken by this process.
pub const UPDATES: &str = "pmpo_learner_updates_total";
/// Learner steps, over all resumptions.
pub const STEPS: &str = "pmpo_learner_steps";
/// When the last learner step was taken, or training began, in Unix time.
pub const LAST_STEP: &str = "pmpo_learner_last_step_timestamp_seconds";
/// Whole seconds of the update thread, by `state`: waiting (for a batch), updating, publishing or saving.
pub const WORKER_SECONDS: &str = "pmpo_learner_worker_seconds_total";
/// Time of a learner step, without the wait for its batch.
pub const UPDATE_SECONDS: &str = "pmpo_learner_update_seconds";
/// Time a learner step waited for its batch.
pub const BATCH_WAIT_SECONDS: &str = "pmpo_learner_batch_wait_seconds";
/// Versions that the policies which acted in a batch lie behind the newest, on average.
pub const STALENESS: &str = "pmpo_learner_batch_staleness_versions";
/// Versions that the oldest policy which acted in a batch lies behind the newest.
pub const MAX_STALENESS: &str = "pmpo_learner_batch_staleness_max_versions";
/// A statistic of the update, averaged over the last window; label `name`.
pub const STATISTIC: &str = "pmpo_learner_statistic_mean";
/// Stops because of a loss or gradient that was not finite, over all resumptions.
pub const NOT_FINITE_STOPS: &str = "pmpo_learner_not_finite_stops_total";
/// Environment steps, over all resumptions.
pub const ENVIRONMENT_STEPS: &str = "pmpo_learner_environment_steps";
/// Items in the replay table.
pub const REPLAY_ITEMS: &str = "pmpo_learner_replay_items";
/// The newest policy version.
pub const POLICY_VERSION: &str = "pmpo_learner_policy_version";
/// Size of the newest snapshot.
pub const SNAPSHOT_BYTES: &str = "pmpo_learner_snapshot_bytes";
/// Snapshots encoded: one for each publication, however many subscribe.
pub const SNAPSHOT_ENCODINGS: &str = "pmpo_learner_snapshot_encodings_total";
/// Snapshots handed to subscribers' connections.
pub const SNAPSHOTS_SENT: &str = "pmpo_learner_snapshots_sent_total";
/// Subscriptions to the policy that were accepted.
pub const SUBSCRIPTIONS: &str = "pmpo_learner_subscriptions_total";
/// Training episodes reported.
pub const EPISODES: &str = "pmpo_learner_episodes_total";
/// Mean return of the newest training episodes.
pub const TRAIN_RETURN: &str = "pmpo_learner_train_return_mean";
/// Mean return of the newest evaluation.
pub const EVALUATION_RETURN: &str = "pmpo_learner_evaluation_return_mean";
/// Standard deviation of the returns of the newest evaluation.
pub const EVALUATION_STD: &str = "pmpo_learner_evaluation_return_std";
/// When the newest evaluation arrived, or the process began to serve, in Unix time.
pub const LAST_EVALUATION: &str = "pmpo_learner_last_evaluation_timestamp_seconds";
/// Evaluations waiting to be written to the run's folder.
pub const RECORD_QUEUE: &str = "pmpo_learner_record_queue_rows";
/// Time to write a checkpoint.
pub const CHECKPOINT_SECONDS: &str = "pmpo_learner_checkpoint_seconds";
/// Actors and evaluators whose lease runs; label `role`.
pub const MEMBERS: &str = "pmpo_learner_members";
/// Members that were silent for as long as the lease; label `role`.
pub const LEASES_EXPIRED: &str = "pmpo_learner_leases_expired_total";
/// When the newest checkpoint was complete, in Unix time.
pub const LAST_CHECKPOINT: &str = "pmpo_learner_last_checkpoint_timestamp_seconds";
/// Size of the newest checkpoint.
pub const CHECKPOINT_BYTES: &str = "pmpo_learner_checkpoint_bytes";
/// Room for files of this user where the run's folder is.
pub const FREE_BYTES: &str = "pmpo_learner_filesystem_free_bytes";
/// Size of the file system where the run's folder is.
pub const SIZE_BYTES: &str = "pmpo_learner_filesystem_size_bytes";
/// Always 1; labels `run`, `task`, `seed` and `device`.
pub const RUN_INFO: &str = "pmpo_learner_run_info";

/// Registers the descriptions with the installed recorder, and counters that may stay at 0.
pub fn describe() {
    for (name, description) in [
        (UPDATES, "Learner steps taken by this process"),
        (WORKER_SECONDS, "Time of the update thread, by `state`"),
        (NOT_FINITE_STOPS, "Stops because of a number not finite"),
        (
            SNAPSHOT_ENCODINGS,
            "Snapshots encoded: one for each publication, however many subscribe",
        ),
        (
            SNAPSHOTS_SENT,
            "Snapshots handed to subscribers' connections",
        ),
        (SUBSCRIPTIONS, "Subscriptions to the policy, accepted"),
        (EPISODES, "Training episodes reported"),
        (
            LEASES_EXPIRED,
            "Members that were silent for as long as the lease",
        ),
    ] {
        describe_counter!(name, Count, description);
    }
    for role in crate::leases::ROLES {
        counter!(LEASES_EXPIRED, "role" => role.as_str()).absolute(0);
    }
    for name in [UPDATES, SNAPSHOTS_SENT, SUBSCRIPTIONS, EPISODES] {
        counter!(name).absolute(0);
    }
    for (name, description) in [
        (
            UPDATE_SECONDS,
            "Time of a learner step, without the wait for its batch",
        ),
        (
            BATCH_WAIT_SECONDS,
            "Time a learner step waited for its batch",
        ),
        (CHECKPOINT_SECONDS, "Time to write a checkpoint"),
    ] {
        describe_histogram!(name, Seconds, description);
    }
    for (name, unit, description) in GAUGES {
        describe_gauge!(name, unit, description);
    }
}

const GAUGES: [(&str, ::metrics::Unit, &str); 20] = [
    (MEMBERS, Count, "Actors and evaluators whose lease runs"),
    (STEPS, Count, "Learner steps, over all resumptions"),
    (LAST_STEP, Seconds, "Unix time of the last learner step"),
    (
        STALENESS,
        Count,
        "Versions that the policies which acted in a batch lie behind the newest",
    ),
    (
        MAX_STALENESS,
        Count,
        "Versions that the oldest policy of a batch lies behind the newest",
    ),
    (
        STATISTIC,
        Count,
        "A statistic of the update, averaged over the last window",
    ),
    (
        ENVIRONMENT_STEPS,
        Count,
        "Environment steps, over all resumptions",
    ),
    (REPLAY_ITEMS, Count, "Items in the replay table"),
    (POLICY_VERSION, Count, "The newest policy version"),
    (SNAPSHOT_BYTES, Bytes, "Size of the newest snapshot"),
    (
        TRAIN_RETURN,
        Count,
        "Mean return of the newest training episodes",
    ),
    (
        EVALUATION_RETURN,
        Count,
        "Mean return of the newest evaluation",
    ),
    (
        EVALUATION_STD,
        Count,
        "Standard deviation of the newest evaluation's returns",
    ),
    (
        LAST_EVALUATION,
        Seconds,
        "Unix time of the newest evaluation",
    ),
    (RECORD_QUEUE, Count, "Evaluations waiting to be written"),
    (
        LAST_CHECKPOINT,
        Seconds,
        "Unix time of the newest checkpoint",
    ),
    (CHECKPOINT_BYTES, Bytes, "Size of the newest checkpoint"),
    (FREE_BYTES, Bytes, "Room where the run's folder is"),
    (
        SIZE_BYTES,
        Bytes,
        "Size of the file system of the run's folder",
    ),
    (RUN_INFO, Count, "Always 1; which run this is, and where"),
];
