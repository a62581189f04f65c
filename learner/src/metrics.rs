//! Names of the learner's metrics.

use ::metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Learner steps taken by this process.
pub const UPDATES: &str = "pmpo_learner_updates_total";
/// Time of a learner step, without the wait for its batch.
pub const UPDATE_SECONDS: &str = "pmpo_learner_update_seconds";
/// Time a learner step waited for its batch.
pub const BATCH_WAIT_SECONDS: &str = "pmpo_learner_batch_wait_seconds";
/// Versions that the policies which acted in a batch lie behind the newest, on average.
pub const STALENESS: &str = "pmpo_learner_batch_staleness_versions";
/// A statistic of the update, averaged over the last window; label `name`.
pub const STATISTIC: &str = "pmpo_learner_statistic_mean";
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
/// Evaluations waiting to be written to the run's folder.
pub const RECORD_QUEUE: &str = "pmpo_learner_record_queue_rows";
/// Time to write a checkpoint.
pub const CHECKPOINT_SECONDS: &str = "pmpo_learner_checkpoint_seconds";
/// Actors and evaluators whose lease runs; label `role`.
pub const MEMBERS: &str = "pmpo_learner_members";
/// Members that were silent for as long as the lease; label `role`.
pub const LEASES_EXPIRED: &str = "pmpo_learner_leases_expired_total";

/// Registers the descriptions with the installed recorder.
pub fn describe() {
    describe_counter!(UPDATES, Unit::Count, "Learner steps taken by this process");
    describe_histogram!(
        UPDATE_SECONDS,
        Unit::Seconds,
        "Time of a learner step, without the wait for its batch"
    );
    describe_histogram!(
        BATCH_WAIT_SECONDS,
        Unit::Seconds,
        "Time a learner step waited for its batch"
    );
    describe_gauge!(
        STALENESS,
        Unit::Count,
        "Versions that the policies which acted in a batch lie behind the newest"
    );
    describe_gauge!(
        STATISTIC,
        "A statistic of the update, averaged over the last window"
    );
    describe_gauge!(
        ENVIRONMENT_STEPS,
        Unit::Count,
        "Environment steps, over all resumptions"
    );
    describe_gauge!(REPLAY_ITEMS, Unit::Count, "Items in the replay table");
    describe_gauge!(POLICY_VERSION, "The newest policy version");
    describe_gauge!(SNAPSHOT_BYTES, Unit::Bytes, "Size of the newest snapshot");
    describe_counter!(
        SNAPSHOT_ENCODINGS,
        Unit::Count,
        "Snapshots encoded: one for each publication, however many subscribe"
    );
    describe_counter!(
        SNAPSHOTS_SENT,
        Unit::Count,
        "Snapshots handed to subscribers' connections"
    );
    describe_counter!(
        SUBSCRIPTIONS,
        Unit::Count,
        "Subscriptions to the policy, accepted"
    );
    describe_counter!(EPISODES, Unit::Count, "Training episodes reported");
    describe_gauge!(TRAIN_RETURN, "Mean return of the newest training episodes");
    describe_gauge!(EVALUATION_RETURN, "Mean return of the newest evaluation");
    describe_gauge!(
        RECORD_QUEUE,
        Unit::Count,
        "Evaluations waiting to be written"
    );
    describe_histogram!(
        CHECKPOINT_SECONDS,
        Unit::Seconds,
        "Time to write a checkpoint"
    );
    describe_gauge!(
        MEMBERS,
        Unit::Count,
        "Actors and evaluators whose lease runs"
    );
    describe_counter!(
        LEASES_EXPIRED,
        Unit::Count,
        "Members that were silent for as long as the lease"
    );
}
