//! Names of the metrics of actors and evaluators.

use ::metrics::{Unit, counter, describe_counter, describe_gauge};

/// Control steps taken.
pub const ENVIRONMENT_STEPS: &str = "pmpo_actor_environment_steps_total";
/// Episodes finished.
pub const EPISODES: &str = "pmpo_actor_episodes_total";
/// Return of the newest finished episode.
pub const EPISODE_RETURN: &str = "pmpo_actor_episode_return";
/// Control steps of the newest finished episode.
pub const EPISODE_LENGTH: &str = "pmpo_actor_episode_length_steps";
/// Environments, each with a thread.
pub const ENVIRONMENTS: &str = "pmpo_actor_environments";
/// Whole seconds of the environments' threads, by `state`: inference, environment or inserting (gathering
/// what was seen, and waiting until it may be handed over).
pub const WORKER_SECONDS: &str = "pmpo_actor_worker_seconds_total";
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
/// Times the index in the run was lost, by a break of the connection or by silence.
pub const LEASES_LOST: &str = "pmpo_actor_leases_lost_total";
/// Version of the newest policy received.
pub const POLICY_VERSION: &str = "pmpo_actor_policy_version";
/// When the newest policy was received, in Unix time.
pub const POLICY_RECEIVED: &str = "pmpo_actor_policy_received_timestamp_seconds";
/// Time from the newest policy's publication, by the learner's clock, until it was ready to act.
pub const POLICY_DELAY: &str = "pmpo_actor_policy_delay_seconds";
/// Subscriptions to weights lost or not made.
pub const SUBSCRIPTION_FAILURES: &str = "pmpo_actor_subscription_failures_total";
/// Evaluations finished.
pub const EVALUATIONS: &str = "pmpo_evaluator_evaluations_total";
/// Mean return of the newest evaluation.
pub const EVALUATION_RETURN: &str = "pmpo_evaluator_return_mean";
/// Time the newest evaluation took.
pub const EVALUATION_SECONDS: &str = "pmpo_evaluator_evaluation_seconds";
/// When the newest evaluation was finished, in Unix time.
pub const LAST_EVALUATION: &str = "pmpo_evaluator_last_evaluation_timestamp_seconds";

/// Registers the descriptions of both roles' metrics with the installed recorder.
fn describe() {
    let counters = [
        (ENVIRONMENT_STEPS, "Control steps taken"),
        (EPISODES, "Episodes finished"),
        (
            WORKER_SECONDS,
            "Time of the environments' threads, by `state`",
        ),
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
        (LEASES_LOST, "Times the index in the run was lost"),
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
            EPISODE_LENGTH,
            "Control steps of the newest finished episode",
        ),
        (ENVIRONMENTS, "Environments, each with a thread"),
        (
            REPORT_QUEUE,
            "Episodes or evaluations waiting to be reported",
        ),
        (POLICY_VERSION, "Version of the newest policy received"),
        (
            POLICY_LEARNER_STEPS,
            "Learner steps of the newest policy received",
        ),
        (POLICY_RECEIVED, "Unix time the newest policy was received"),
        (
            POLICY_DELAY,
            "Time from the newest policy's publication until it was ready to act",
        ),
        (EVALUATION_RETURN, "Mean return of the newest evaluation"),
        (EVALUATION_SECONDS, "Time the newest evaluation took"),
        (LAST_EVALUATION, "Unix time of the newest evaluation"),
    ];
    for (name, description) in gauges {
        describe_gauge!(name, description);
    }
}

/// Describes an actor's metrics, and lets those counters be seen that may stay at 0.
pub fn describe_actor() {
    describe();
    for name in [
        ENVIRONMENT_STEPS,
        EPISODES,
        DIVERGENT_EPISODES,
        DISCARDED_STEPS,
        REPORTS_DROPPED,
    ] {
        counter!(name).absolute(0);
    }
    subscriptions();
}

/// The same for an evaluator.
pub fn describe_evaluator() {
    describe();
    for name in [EVALUATIONS, DIVERGENT_EPISODES] {
        counter!(name).absolute(0);
    }
    subscriptions();
}

fn subscriptions() {
    for name in [
        SNAPSHOTS,
        SNAPSHOTS_REFUSED,
        VERSION_REGRESSIONS,
        POLICY_REGRESSIONS,
        LEASES_LOST,
        SUBSCRIPTION_FAILURES,
    ] {
        counter!(name).absolute(0);
    }
}
