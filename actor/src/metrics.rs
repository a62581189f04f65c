//! Names of the metrics of actors and evaluators.

use ::metrics::{Unit, describe_counter, describe_gauge};

/// Control steps taken.
pub const ENVIRONMENT_STEPS: &str = "pmpo_actor_environment_steps_total";
/// Episodes finished.
pub const EPISODES: &str = "pmpo_actor_episodes_total";
/// Return of the newest finished episode.
pub const EPISODE_RETURN: &str = "pmpo_actor_episode_return";
/// Episodes voided because the simulation diverged.
pub const DIVERGENT_EPISODES: &str = "pmpo_actor_divergent_episodes_total";
/// Steps of divergent episodes that were not inserted.
pub const DISCARDED_STEPS: &str = "pmpo_actor_discarded_steps_total";
/// Episodes or evaluations waiting to be reported.
pub const REPORT_QUEUE: &str = "pmpo_actor_report_queue_reports";
/// Episodes not reported because the queue was full.
pub const REPORTS_DROPPED: &str = "pmpo_actor_reports_dropped_total";
/// Policy snapshots received and accepted.
pub const SNAPSHOTS: &str = "pmpo_actor_snapshots_total";
/// Policy snapshots that could not be decoded.
pub const SNAPSHOTS_REFUSED: &str = "pmpo_actor_snapshots_refused_total";
/// Snapshots older than the one before.
pub const VERSION_REGRESSIONS: &str = "pmpo_actor_version_regressions_total";
/// Snapshots with fewer learner steps than the one before: the learner went back to its checkpoint.
pub const POLICY_REGRESSIONS: &str = "pmpo_actor_policy_regressions_total";
/// Learner steps of the newest policy received.
pub const POLICY_LEARNER_STEPS: &str = "pmpo_actor_policy_learner_steps";
/// Times the place in the run was lost, by a break of the connection or by silence.
pub const LEASES_LOST: &str = "pmpo_actor_leases_lost_total";
/// Version of the newest policy received.
pub const POLICY_VERSION: &str = "pmpo_actor_policy_version";
/// Subscriptions to weights lost or not made.
pub const SUBSCRIPTION_FAILURES: &str = "pmpo_actor_subscription_failures_total";
/// Evaluations finished.
pub const EVALUATIONS: &str = "pmpo_evaluator_evaluations_total";
/// Mean return of the newest evaluation.
pub const EVALUATION_RETURN: &str = "pmpo_evaluator_return_mean";

/// Registers the descriptions with the installed recorder.
pub fn describe() {
    let counters = [
        (ENVIRONMENT_STEPS, "Control steps taken"),
        (EPISODES, "Episodes finished"),
        (
            DIVERGENT_EPISODES,
            "Episodes voided because the simulation diverged",
        ),
        (
            DISCARDED_STEPS,
            "Steps of divergent episodes that were not inserted",
        ),
        (
            REPORTS_DROPPED,
            "Episodes not reported because the queue was full",
        ),
        (SNAPSHOTS, "Policy snapshots received and accepted"),
        (
            SNAPSHOTS_REFUSED,
            "Policy snapshots that could not be decoded",
        ),
        (VERSION_REGRESSIONS, "Snapshots older than the one before"),
        (
            POLICY_REGRESSIONS,
            "Snapshots with fewer learner steps than the one before",
        ),
        (LEASES_LOST, "Times the place in the run was lost"),
        (
            SUBSCRIPTION_FAILURES,
            "Subscriptions to weights lost or not made",
        ),
        (EVALUATIONS, "Evaluations finished"),
    ];
    for (name, description) in counters {
        describe_counter!(name, Unit::Count, description);
    }
    let gauges = [
        (EPISODE_RETURN, "Return of the newest finished episode"),
        (
            REPORT_QUEUE,
            "Episodes or evaluations waiting to be reported",
        ),
        (POLICY_VERSION, "Version of the newest policy received"),
        (
            POLICY_LEARNER_STEPS,
            "Learner steps of the newest policy received",
        ),
        (EVALUATION_RETURN, "Mean return of the newest evaluation"),
    ];
    for (name, description) in gauges {
        describe_gauge!(name, description);
    }
}
