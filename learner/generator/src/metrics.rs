//! Names of the metrics of language models' runs.

use ::metrics::Unit::{Count, Seconds};
use ::metrics::{counter, describe_counter, describe_gauge};

/// Learner steps taken, over all resumptions.
pub const STEPS: &str = "pmpo_language_steps";
/// Mean reward of the completions of the newest step.
pub const REWARD: &str = "pmpo_language_reward_mean";
/// Standard deviation of those rewards.
pub const REWARD_STD: &str = "pmpo_language_reward_std";
/// KL(reference || policy) of a completion, summed over its tokens, in the newest step.
pub const KL: &str = "pmpo_language_kl_nats";
/// Entropy of a token in the newest step.
pub const ENTROPY: &str = "pmpo_language_entropy_nats";
/// Mean tokens of a completion in the newest step.
pub const LENGTH: &str = "pmpo_language_completion_tokens_mean";
/// Share of completions in the newest step that did not end of themselves.
pub const CLIPPED_RATIO: &str = "pmpo_language_completions_clipped_ratio";
/// Tokens of completions learnt from.
pub const TOKENS: &str = "pmpo_language_tokens_total";
/// Mean reward of the newest evaluation on held-out prompts.
pub const EVALUATION_REWARD: &str = "pmpo_language_evaluation_reward_mean";
/// Steps that the policies of the newest step's groups lie behind, on average.
pub const STALENESS: &str = "pmpo_language_staleness_steps";
/// Groups dropped because their policy lay too far behind.
pub const STALE_GROUPS: &str = "pmpo_language_stale_groups_total";
/// Groups dropped because whoever wrote them did not keep to the layout.
pub const REFUSED_GROUPS: &str = "pmpo_language_refused_groups_total";
/// Sets of weights published to generators.
pub const PUBLICATIONS: &str = "pmpo_language_weights_published_total";

/// Groups that a generator has handed to the replay.
pub const GENERATED_GROUPS: &str = "pmpo_generator_groups_total";
/// Tokens that a generator has drawn.
pub const GENERATED_TOKENS: &str = "pmpo_generator_tokens_total";
/// Times that the reward failed and completions were held back.
pub const REWARD_FAILURES: &str = "pmpo_generator_reward_failures_total";
/// Learner steps in the weights that a generator draws with.
pub const POLICY_VERSION: &str = "pmpo_generator_policy_version";
/// Seconds of a generator's thread, by `state`: drawing, judging or waiting (for weights or for room in the queue).
pub const WORKER_SECONDS: &str = "pmpo_generator_worker_seconds_total";
/// Subscriptions to the weights that ended or were not made.
pub const SUBSCRIPTION_FAILURES: &str = "pmpo_generator_subscription_failures_total";

/// Registers the descriptions of a learner's with the installed recorder.
pub fn describe_learner() {
    for (name, description) in [
        (STEPS, "Learner steps taken, over all resumptions"),
        (REWARD, "Mean reward of the completions of the newest step"),
        (
            REWARD_STD,
            "Standard deviation of the rewards of the newest step",
        ),
        (
            KL,
            "KL(reference || policy) of a completion in the newest step",
        ),
        (ENTROPY, "Entropy of a token in the newest step"),
        (LENGTH, "Mean tokens of a completion in the newest step"),
        (
            CLIPPED_RATIO,
            "Share of completions that did not end of themselves",
        ),
        (EVALUATION_REWARD, "Mean reward of the newest evaluation"),
        (
            STALENESS,
            "Steps that the policies of the newest step's groups lie behind, on average",
        ),
    ] {
        describe_gauge!(name, Count, description);
    }
    for (name, description) in [
        (TOKENS, "Tokens of completions learnt from"),
        (
            STALE_GROUPS,
            "Groups dropped because their policy lay too far behind",
        ),
        (
            REFUSED_GROUPS,
            "Groups dropped because they did not keep to the layout",
        ),
        (PUBLICATIONS, "Sets of weights published to generators"),
    ] {
        describe_counter!(name, Count, description);
        // They may stay at 0.
        counter!(name).increment(0);
    }
}

/// Registers the descriptions of a generator's.
pub fn describe_generator() {
    for (name, description) in [
        (GENERATED_GROUPS, "Groups handed to the replay"),
        (GENERATED_TOKENS, "Tokens drawn"),
        (
            REWARD_FAILURES,
            "Times that the reward failed and completions were held back",
        ),
        (
            SUBSCRIPTION_FAILURES,
            "Subscriptions to the weights that ended or were not made",
        ),
    ] {
        describe_counter!(name, Count, description);
        // They may stay at 0.
        counter!(name).increment(0);
    }
    describe_counter!(
        WORKER_SECONDS,
        Seconds,
        "Time of the generator's thread, by `state`"
    );
    describe_gauge!(
        POLICY_VERSION,
        Count,
        "Learner steps in the weights drawn with"
    );
}
