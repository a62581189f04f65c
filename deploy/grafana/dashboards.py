#!/usr/bin/env python3
"""The dashboards, as tables of panels. `dashboards.py` writes dashboards/*.json, which Grafana reads and
nobody edits; `dashboards.py --check` says whether they are up to date."""

import json
import sys
from pathlib import Path

from panels import dashboard, graph, stat, variable

FOLDER = Path(__file__).resolve().parent / "dashboards"

STEPS_RATE = "suffix: steps/s"
ITEMS_RATE = "suffix: items/s"
RATE = "[$__rate_interval]"
ROLES = 'job=~"replay|learner|actor|evaluator"'


def processes(selector, legend):
    """CPU, memory and files of the processes that `selector` chooses."""
    return [
        graph("CPU", "none", "Cores in use. A learner or a replay thread at 1 is at its limit.",
              (f"rate(process_cpu_seconds_total{{{selector}}}[1m])", legend)),
        graph("Memory", "bytes", "Resident memory. The replay's grows until its table is full.",
              (f"process_resident_memory_bytes{{{selector}}}", legend)),
        graph("Open files", "none", "File descriptors, sockets among them, and how many there may be.",
              (f"process_open_fds{{{selector}}}", legend),
              (f"min(process_max_fds{{{selector}}})", "most allowed")),
    ]


RETURNS = graph(
    "Returns", "none",
    "Evaluation: the policy's mode, mean over the episodes and one standard deviation around it. "
    "Training: the newest episodes of all actors, exploration included.",
    ("pmpo_learner_evaluation_return_mean", "evaluation"),
    ("pmpo_learner_evaluation_return_mean + pmpo_learner_evaluation_return_std", "evaluation + std"),
    ("pmpo_learner_evaluation_return_mean - pmpo_learner_evaluation_return_std", "evaluation - std"),
    ("pmpo_learner_train_return_mean", "training"), width=12)

STALENESS = graph(
    "Policy lag of sampled batches", "suffix: versions",
    "How many publications the policies that acted in a batch lie behind the newest: on average, "
    "and the oldest. Grows until the replay is full, by design.",
    ("pmpo_learner_batch_staleness_versions", "mean"),
    ("pmpo_learner_batch_staleness_max_versions", "oldest"))

SAMPLES_PER_INSERT = graph(
    "Samples per insert", "none",
    "How often an item is sampled: over the last minutes, over all time, and what the rate limiter "
    "holds it to. Away from the target, the limiter is at its bound or the table is not full enough.",
    ("pmpo:samples_per_insert:ratio_rate5m", "last 5 minutes ({{table}})"),
    ("pmpo_replay_samples_per_insert", "all time ({{instance}} {{table}})"),
    ("pmpo_replay_samples_per_insert_target", "target ({{instance}} {{table}})"),
    decimals=2, link="pmpo-replay")

OVERVIEW = dashboard(
    "pmpo-overview", "PMPO / Overview", "Does it learn, how fast, and what does it wait for?", [], [
        ("Now", [
            stat("Run", "none", "Name, task and device of the learner's run.",
                 ("pmpo_learner_run_info", "{{run}} · {{task}} · {{device}}"), name=True, width=8),
            stat("Evaluation return", "none", "Mean of the newest evaluation.",
                 ("pmpo_learner_evaluation_return_mean", "evaluation"), decimals=1, width=3),
            stat("Environment steps", "short", "Over all resumptions.",
                 ("pmpo_learner_environment_steps", "steps"), width=3),
            stat("Learner steps", "short", "Over all resumptions.",
                 ("pmpo_learner_steps", "steps"), width=3),
            stat("Actors alive", "none", "Actor processes that answer Prometheus.",
                 ('count(up{job="actor"} == 1) or vector(0)', "actors"), width=3),
            stat("Alerts firing", "none", "Prometheus' alerts page says which, and the manual what to do.",
                 ('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts"), red_from=1),
        ]),
        ("Learning", [
            RETURNS,
            graph("Environment steps a second", STEPS_RATE, "All actors together.",
                  ("pmpo:environment_steps:rate1m", "environment"), width=6, link="pmpo-actors"),
            graph("Learner steps a second", STEPS_RATE, "Updates of policy and critic.",
                  ("pmpo:learner_steps:rate1m", "learner"), width=6, link="pmpo-learner"),
        ]),
        ("Who is the bottleneck?", [
            stat("Busiest part", "none", "The part that the others wait for.",
                 ("topk(1, pmpo:busy:share1m)", "{{part}}"), name=True, height=8),
            graph("Busy", "percentunit",
                  "Share of its time that each part works: the actors' threads on inference and "
                  "environment, the replay's busiest table thread, the learner's update thread. The one "
                  "near 100 % is what to make faster or more of; if none is, look whether CPUs are short.",
                  ("pmpo:busy:share1m", "{{part}}"), top=1, width=10),
            graph("Held back by the rate limiter", "percentunit",
                  "Share of the time in which a caller waited. samples: actors wait for the learner to "
                  "sample; inserts and min_size: the learner waits for actors. One of them near 100 % is "
                  "usual: it is the slower side's.",
                  (f"sum by (reason) (rate(pmpo_replay_blocked_seconds_total{RATE}))", "{{reason}}"),
                  width=10, link="pmpo-replay"),
        ]),
        ("Data", [
            SAMPLES_PER_INSERT,
            STALENESS,
            graph("Age of the actors' policy", "s",
                  "Since the actor that has waited longest received a policy.",
                  ("pmpo:policy_age:max_seconds", "oldest"), link="pmpo-actors"),
        ]),
        ("Processes", [
            graph("CPU", "none", "Cores in use, by role.",
                  (f"sum by (job) (rate(process_cpu_seconds_total{{{ROLES}}}[1m]))", "{{job}}"),
                  stacked=True),
            graph("Memory", "bytes", "Resident memory, by role.",
                  (f"sum by (job) (process_resident_memory_bytes{{{ROLES}}})", "{{job}}"), stacked=True),
            graph("Disk left", "percentunit",
                  "Of the file systems of the replay's log and the run's folder. An alert fires under 10 %.",
                  ("pmpo:disk_free:ratio", "{{part}} {{instance}}"), top=1, width=4),
            stat("Versions", "none", "Processes by the version they were built from: one, or an upgrade "
                 "is half done.", ("count by (version) (pmpo_build_info)", "{{version}}"), height=8),
        ]),
        ("At the door", [
            graph("Members", "none", "Actors and evaluators that hold a place in the run.",
                  ("pmpo_learner_members", "{{role}}")),
            graph("Leases run out", "none", "In the last ten minutes: members that were silent for as long as "
                  "learner.lease_s.",
                  ("increase(pmpo_learner_leases_expired_total[10m])", "{{role}}"), width=4),
            graph("Open connections", "none", "Of replay and learner.",
                  ("pmpo_security_connections", "{{job}} {{instance}}"), width=4),
            graph("Refused", "none", "Connections and calls in the last ten minutes, by reason.",
                  ("sum by (reason) (increase(pmpo_security_refusals_total[10m]))", "{{reason}}")),
        ]),
    ])

R = 'instance=~"$instance",table=~"$table"'
REPLAY = dashboard(
    "pmpo-replay", "PMPO / Replay", "What the tables hold, what goes in and out, and who waits.", [
        variable("instance", "Shard", "label_values(pmpo_replay_table_items, instance)"),
        variable("table", "Table", "label_values(pmpo_replay_table_items, table)"),
    ], [
        ("Contents", [
            graph("Items", "short", "Items held; constant once the table is full.",
                  (f"pmpo_replay_table_items{{{R}}}", "{{instance}} {{table}}"), width=6),
            graph("Bytes", "bytes", "Of the items in memory, of what is on its way in and out, which stays "
                  "within the table's budget, and of the table's log on disk, which stays within twice the "
                  "table and two segments.",
                  (f"pmpo_replay_table_bytes{{{R}}}", "memory ({{instance}} {{table}})"),
                  (f"sum by (instance, table) (pmpo_replay_table_transit_bytes{{{R}}})",
                   "on its way ({{instance}} {{table}})"),
                  (f"pmpo_replay_log_bytes{{{R}}}", "log ({{instance}} {{table}})"), width=6),
            graph("Age when removed", "s", "Mean age of the items that were removed.",
                  (f"rate(pmpo_replay_removed_age_seconds_total{{{R}}}[5m]) "
                   f"/ rate(pmpo_replay_removed_items_total{{{R}}}[5m])", "{{instance}} {{table}}"),
                  width=6),
            graph("Times sampled when removed", "none",
                  "How often an item is sampled in its life; in the long run, samples per insert.",
                  (f"rate(pmpo_replay_removed_times_sampled_total{{{R}}}[5m]) "
                   f"/ rate(pmpo_replay_removed_items_total{{{R}}}[5m])", "{{instance}} {{table}}"),
                  width=6),
        ]),
        ("Flow", [
            graph("Inserts", ITEMS_RATE, "Items stored.",
                  (f"rate(pmpo_replay_inserts_total{{{R}}}{RATE})", "{{instance}} {{table}}")),
            graph("Samples", ITEMS_RATE, "Items drawn.",
                  (f"rate(pmpo_replay_samples_total{{{R}}}{RATE})", "{{instance}} {{table}}")),
            {key: value for key, value in SAMPLES_PER_INSERT.items() if key != "link"},
        ]),
        ("Waiting", [
            graph("Held back by the rate limiter", "percentunit",
                  "Share of the time in which a caller waited, by what for: samples (actors wait), "
                  "inserts or min_size (the learner waits).",
                  (f"rate(pmpo_replay_blocked_seconds_total{{{R}}}[1m])",
                   "{{reason}} ({{instance}} {{table}})")),
            graph("Callers held back", "none", "Now, by what they wait for.",
                  (f"pmpo_replay_blocked_callers{{{R}}}", "{{reason}} ({{instance}} {{table}})")),
            graph("Time of the table's thread", "percentunit",
                  "A thread that inserts and samples all the time is the bottleneck: use shards.",
                  (f"avg by (state) (rate(pmpo_replay_worker_seconds_total{{{R}}}[1m]))", "{{state}}"),
                  stacked=True, top=1),
            graph("Commands waiting", "none", "For the table's thread, out of replay.command_queue.",
                  (f"pmpo_replay_queued_commands{{{R}}}", "{{instance}} {{table}}")),
            graph("Open streams", "none", "One for each writer and each sampler; a fall is a lost client.",
                  ('pmpo_replay_open_streams{instance=~"$instance"}', "{{instance}}")),
            graph("Refused streams", "none", "In the last ten minutes, by gRPC code. DeadlineExceeded: a "
                  "caller waited for the limiter as long as it would; others: it sent what does not fit.",
                  ('increase(pmpo_replay_refused_streams_total{instance=~"$instance"}[10m])',
                   "{{code}} ({{instance}})")),
        ]),
        ("Durability (with a data directory)", [
            graph("Syncs", "suffix: syncs/s", "fdatasync calls, by replay.disk.fsync.",
                  (f'rate(pmpo_replay_syncs_total{{instance=~"$instance"}}{RATE})', "{{instance}}"), width=6),
            graph("Time of a sync", "s", "The last one. With fsync = each_batch it is in every insert.",
                  ('pmpo_replay_sync_seconds{instance=~"$instance"}', "{{instance}}"), width=6),
            graph("Disk left", "bytes", "Where the data directory is.",
                  ('pmpo_replay_filesystem_free_bytes{instance=~"$instance"}', "free ({{instance}})"),
                  ('pmpo_replay_filesystem_size_bytes{instance=~"$instance"}', "size ({{instance}})"),
                  width=6),
            stat("Recovery took", "s", "At the newest start.",
                 (f"max(pmpo_replay_recovery_seconds{{{R}}})", "recovery"), width=2, height=8),
            stat("Recovered", "short", "Items that were there again at the newest start.",
                 (f"sum(pmpo_replay_recovered_items{{{R}}})", "items"), width=2, height=8),
            stat("Damaged", "none", "Stretches of the log that could not be read at the newest start.",
                 (f"sum(pmpo_replay_damaged_records{{{R}}})", "stretches"), width=2, height=8, red_from=1),
        ]),
        ("Process", processes('job="replay",instance=~"$instance"', "{{instance}}")),
    ])


def statistic(title, names, description, **more):
    """Statistics of the update, averaged over learner.stats_period_steps."""
    return graph(title, "none", description,
                 (f'pmpo_learner_statistic_mean{{name=~"{names}"}}', "{{name}}"), **more)


def quantiles(metric):
    """Median and 99th percentile of a histogram of seconds."""
    buckets = f"sum by (le) (rate({metric}_bucket[5m]))"
    return [(f"histogram_quantile({q}, {buckets})", f"p{q * 100:.0f}") for q in (0.5, 0.99)]


NAMED = "policy_loss|critic_loss|value|target|kl.*|policy_std|policy_entropy|.*_gradient_norm"
LEARNER = dashboard(
    "pmpo-learner", "PMPO / Learner", "The update: its losses, its time, what it keeps and publishes.", [], [
        ("Update", [
            statistic("Losses", "policy_loss|critic_loss", "As minimised. They need not fall: the targets "
                      "move. A jump in both is worth a look at the gradient norms."),
            statistic("Q", "value|target", "Mean value of the batch's actions and its target, in scaled "
                      "rewards. Values far above targets, or growing without returns, are overestimation."),
            statistic("KL to the reference policy", "kl.*", "Since the last target copy: of mean and "
                      "standard deviation, or jointly. Near 0 nothing is learned; sudden growth is a beta "
                      "too small."),
            statistic("Width of the policy", "policy_std|policy_entropy", "Mean standard deviation, or "
                      "entropy of a categorical policy. Near 0 exploration is over."),
            statistic("Gradient norms", ".*_gradient_norm", "Before clipping to max_gradient_norm."),
            graph("Other statistics", "none", "What the chosen loss tells beside: preference, temperature, "
                  "margins.",
                  (f'pmpo_learner_statistic_mean{{name!~"{NAMED}"}}', "{{name}}")),
        ]),
        ("Time", [
            graph("Steps a second", STEPS_RATE, "Updates taken.",
                  ("pmpo:learner_steps:rate1m", "learner"), width=6),
            graph("Time of the update thread", "percentunit", "waiting: for a batch, so actors or limiter "
                  "are slower; updating; publishing; saving: a checkpoint.",
                  ("pmpo:learner_time:share1m", "{{state}}"), stacked=True, top=1, width=6),
            graph("Time of a step", "s", "Without the wait for its batch.",
                  *quantiles("pmpo_learner_update_seconds"), width=6),
            graph("Wait for a batch", "s", "From the end of a step to the next batch.",
                  *quantiles("pmpo_learner_batch_wait_seconds"), width=6),
        ]),
        ("Data and policy", [
            graph("Prefetched batches", "none", "Received and not yet taken; 0 all the time means waiting.",
                  ('pmpo_replay_client_prefetched_batches{job="learner"}', "batches"), width=6),
            STALENESS | {"width": 6},
            graph("Publications", "suffix: /min", "Policy versions a minute, and snapshots handed to "
                  "subscribers: as many for each of them, unless one is slow and skips.",
                  ("60 * deriv(pmpo_learner_policy_version[2m])", "versions"),
                  ("60 * rate(pmpo_learner_snapshots_sent_total[2m])", "snapshots sent"), width=6),
            graph("Subscriptions", "none", "Accepted in the last ten minutes; actors that come back "
                  "subscribe again.",
                  ("increase(pmpo_learner_subscriptions_total[10m])", "accepted"), width=4),
            stat("Snapshot", "bytes", "Size of a published policy.",
                 ("pmpo_learner_snapshot_bytes", "bytes"), width=2, height=8),
        ]),
        ("Returns", [
            RETURNS,
            graph("Since the newest evaluation", "s", "An alert fires at half an hour.",
                  ("time() - pmpo_learner_last_evaluation_timestamp_seconds", "age"), width=6),
            graph("Training episodes", "suffix: /min", "Reported by actors, a minute.",
                  ("60 * rate(pmpo_learner_episodes_total[5m])", "episodes"), width=6),
        ]),
        ("What is kept", [
            graph("Since the newest checkpoint", "s", "What a crash would cost; see "
                  "learner.checkpoint_period_s.",
                  ("time() - pmpo_learner_last_checkpoint_timestamp_seconds", "age"), width=6),
            graph("Time to write a checkpoint", "s", "The update waits meanwhile.",
                  *quantiles("pmpo_learner_checkpoint_seconds"), width=6),
            graph("Disk left", "bytes", "Where the run's folder is.",
                  ("pmpo_learner_filesystem_free_bytes", "free"),
                  ("pmpo_learner_filesystem_size_bytes", "size"), width=6),
            stat("Checkpoint", "bytes", "Size of the newest.",
                 ("pmpo_learner_checkpoint_bytes", "bytes"), width=2, height=8),
            stat("Rows waiting", "none", "Evaluations on their way to progress.csv.",
                 ("pmpo_learner_record_queue_rows", "rows"), width=2, height=8),
            stat("NaN stops", "none", "Stops because of a loss or gradient that was not finite, over all "
                 "resumptions; not_finite.json has them.",
                 ("pmpo_learner_not_finite_stops_total", "stops"), width=2, height=8, red_from=1),
        ]),
        ("GPU (where NVIDIA's DCGM exporter is scraped)", [
            graph("GPU busy", "percent", "Each GPU of the machine. Low with a busy update thread: the steps are "
                  "too small for it.",
                  ("DCGM_FI_DEV_GPU_UTIL", "GPU {{gpu}}"), top=100, width=12),
            graph("GPU memory", "decmbytes", "Other processes' included.",
                  ("DCGM_FI_DEV_FB_USED", "used, GPU {{gpu}}"),
                  ("DCGM_FI_DEV_FB_FREE", "free, GPU {{gpu}}"), width=12),
        ]),
        ("Process", processes('job="learner"', "{{instance}}")),
    ])

A = 'instance=~"$instance"'
ACTORS = dashboard(
    "pmpo-actors", "PMPO / Actors", "Episodes, speed and health of actors and evaluators.", [
        variable("instance", "Actor", "label_values(pmpo_actor_environments, instance)"),
    ], [
        ("Episodes", [
            graph("Return of the newest episode", "none", "By actor, exploration included.",
                  (f"pmpo_actor_episode_return{{{A}}}", "{{instance}}")),
            graph("Returns over actors", "none", "Worst, median and best of the actors' newest episodes.",
                  (f"min(pmpo_actor_episode_return{{{A}}})", "worst"),
                  (f"quantile(0.5, pmpo_actor_episode_return{{{A}}})", "median"),
                  (f"max(pmpo_actor_episode_return{{{A}}})", "best")),
            graph("Length of the newest episode", STEPS_RATE.replace("/s", ""),
                  "Constant, unless the task ends episodes early.",
                  (f"pmpo_actor_episode_length_steps{{{A}}}", "{{instance}}")),
        ]),
        ("Speed", [
            graph("Environment steps a second", STEPS_RATE, "By actor, all its environments.",
                  (f"rate(pmpo_actor_environment_steps_total{{{A}}}{RATE})", "{{instance}}")),
            graph("Time of the environments' threads", "percentunit",
                  "inference: the policy's forward pass and sampling; environment: physics; inserting: "
                  "gathering, and waiting until the replay takes more. A step that is still held back counts "
                  "when it ends, so a stack below 100 % is waiting too.",
                  (f"sum by (state) (rate(pmpo_actor_worker_seconds_total{{{A}}}[1m])) "
                   f"/ on () group_left () sum(pmpo_actor_environments{{{A}}})", "{{state}}"),
                  stacked=True, top=1),
            graph("Time of a step", "s", "Of one environment step: inference and physics, over 5 minutes.",
                  (f"sum by (state) (rate(pmpo_actor_worker_seconds_total{{{A},"
                   f'state=~"inference|environment"}}[5m])) / on () group_left () '
                   f"sum(rate(pmpo_actor_environment_steps_total{{{A}}}[5m]))", "{{state}}")),
        ]),
        ("Policy", [
            graph("Behind the learner", "suffix: versions", "Versions between the learner's newest policy and "
                  "each actor's; scraped at different moments, so a few are nothing.",
                  (f"scalar(max(pmpo_learner_policy_version)) - pmpo_actor_policy_version{{{A}}}",
                   "{{instance}}"), width=6),
            graph("Age of the policy", "s", "Since each actor received its policy. An alert fires at two "
                  "minutes while the learner publishes.",
                  (f"time() - pmpo_actor_policy_received_timestamp_seconds{{{A}}}", "{{instance}}"), width=6),
            graph("Delay of publications", "s", "From publication to ready to act, by the two machines' "
                  "clocks.",
                  (f"pmpo_actor_policy_delay_seconds{{{A}}}", "{{instance}}"), width=6),
            graph("Refused or older snapshots", "none", "In the last ten minutes.",
                  (f"increase(pmpo_actor_snapshots_refused_total{{{A}}}[10m])", "refused ({{instance}})"),
                  (f"increase(pmpo_actor_version_regressions_total{{{A}}}[10m])", "older ({{instance}})"),
                  (f"increase(pmpo_actor_policy_regressions_total{{{A}}}[10m])",
                   "of fewer learner steps ({{instance}})"),
                  width=6),
        ]),
        ("To the replay", [
            graph("Unacknowledged steps", "short", "Sent, and not known to be stored; bounded by "
                  "actor.writer.max_in_flight_items for each environment.",
                  (f"pmpo_replay_client_in_flight_steps{{{A}}}", "{{instance}}"), width=6),
            graph("Acknowledged", STEPS_RATE, "Stored by the replay.",
                  (f"rate(pmpo_replay_client_acknowledged_steps_total{{{A}}}{RATE})", "{{instance}}"), width=6),
            graph("Lost connections", "none", "In the last ten minutes: to the replay, and to the learner's "
                  "weights.",
                  (f"increase(pmpo_replay_client_connection_failures_total{{{A}}}[10m])",
                   "replay ({{instance}})"),
                  (f"increase(pmpo_actor_subscription_failures_total{{{A}}}[10m])", "learner ({{instance}})"),
                  width=6),
            graph("Void and unreported episodes", "none", "In the last ten minutes: diverged in the "
                  "simulation, or dropped because reports queued up.",
                  (f"increase(pmpo_actor_divergent_episodes_total{{{A}}}[10m])", "diverged ({{instance}})"),
                  (f"increase(pmpo_actor_reports_dropped_total{{{A}}}[10m])", "unreported ({{instance}})"),
                  width=6),
        ]),
        ("Evaluators", [
            graph("Evaluation return", "none", "By evaluator.",
                  ("pmpo_evaluator_return_mean", "{{instance}}")),
            graph("Time of an evaluation", "s", "Longer than evaluator.period_learner_steps takes: some "
                  "periods are skipped.",
                  ("pmpo_evaluator_evaluation_seconds", "{{instance}}")),
            graph("Since the newest evaluation", "s", "By evaluator.",
                  ("time() - pmpo_evaluator_last_evaluation_timestamp_seconds", "{{instance}}")),
        ]),
        ("Processes", [
            graph("Restarts", "none", "In the last hour, by instance.",
                  (f'changes(process_start_time_seconds{{job="actor",{A}}}[1h])', "{{instance}}"), width=6),
            graph("Up for", "s", "Since each process started.",
                  (f'time() - process_start_time_seconds{{job="actor",{A}}}', "{{instance}}"), width=6),
            *[panel | {"width": 6} for panel in processes(f'job="actor",{A}', "{{instance}}")[:2]],
        ]),
    ])

LANGUAGE = dashboard(
    "pmpo-language", "PMPO / Language", "A language model's run: what its completions are worth, how fast they come, "
    "and how old they are.", [], [
        ("Learning", [
            graph("Reward", "none", "Of the newest step's completions and of the newest evaluation on held-out prompts. "
                  "The first may rise by what the second does not see.",
                  ("pmpo_language_reward_mean", "training"),
                  ("pmpo_language_evaluation_reward_mean", "held out"), width=9),
            graph("Spread of rewards", "none", "Standard deviation in a step. Without any, no completion is better than "
                  "another, and nothing is learned.",
                  ("pmpo_language_reward_std", "training"), width=5),
            graph("KL to the reference", "none", "KL(reference || policy) of a completion in nats, exact, summed over its "
                  "tokens. It falls to 0 where the reference becomes a copy of the policy.",
                  ("pmpo_language_kl_nats", "KL"), width=5),
            graph("Entropy", "none", "Of a token, in nats. Near 0 all completions are alike.",
                  ("pmpo_language_entropy_nats", "entropy"), width=5),
            graph("Length", "none", "Tokens of a completion.",
                  ("pmpo_language_completion_tokens_mean", "tokens"), width=6),
            graph("Unfinished", "percentunit", "Completions that lm.max_completion_length has cut.",
                  ("pmpo_language_completions_clipped_ratio", "cut"), top=1, width=6),
            graph("Learner steps", "short", "Over all resumptions.", ("pmpo_language_steps", "steps"), width=6),
            graph("Weights published", "suffix: /min", "Sets of weights, a minute.",
                  ("60 * rate(pmpo_language_weights_published_total[2m])", "sets"), width=6),
        ]),
        ("Generators", [
            graph("Tokens a second", "suffix: tokens/s", "Drawn by all generators, and learnt from.",
                  (f"sum(rate(pmpo_generator_tokens_total{RATE}))", "drawn"),
                  (f"rate(pmpo_language_tokens_total{RATE})", "learnt from")),
            graph("Groups", "suffix: groups/s", "Handed to the replay, by generator.",
                  (f"rate(pmpo_generator_groups_total{RATE})", "{{instance}}")),
            graph("Time of the generators' threads", "percentunit", "drawing; judging: the reward's; waiting: for room in "
                  "the queue, so that the learner is slower.",
                  ("avg by (state) (rate(pmpo_generator_worker_seconds_total[1m]))", "{{state}}"), stacked=True, top=1),
            graph("Failures of the reward", "none", "In the last ten minutes; completions are held back meanwhile.",
                  ("increase(pmpo_generator_reward_failures_total[10m])", "{{instance}}"), width=12),
            graph("Lost subscriptions", "none", "To the learner's weights, in the last ten minutes.",
                  ("increase(pmpo_generator_subscription_failures_total[10m])", "{{instance}}"), width=12),
        ]),
        ("Age", [
            graph("Staleness", "suffix: steps", "Learner steps that the policies of the newest step's groups lie behind, on "
                  "average; bounded by lm.max_staleness.",
                  ("pmpo_language_staleness_steps", "mean")),
            graph("Behind the learner", "suffix: steps", "Learner steps between the newest weights and a generator's.",
                  ("scalar(max(pmpo_language_steps)) - pmpo_generator_policy_version", "{{instance}}")),
            graph("Dropped groups", "none", "In the last ten minutes: too old, or not as the run lays them out.",
                  ("increase(pmpo_language_stale_groups_total[10m])", "too old"),
                  ("increase(pmpo_language_refused_groups_total[10m])", "refused")),
        ]),
    ])

DASHBOARDS = {"overview": OVERVIEW, "replay": REPLAY, "learner": LEARNER, "actors": ACTORS, "language": LANGUAGE}


def rendered():
    """What each file should hold."""
    return {FOLDER / f"{name}.json": json.dumps(board, indent=1, ensure_ascii=False) + "\n"
            for name, board in DASHBOARDS.items()}


def outdated():
    """Files that do not hold what they should, or should not be there."""
    files = rendered()
    wrong = [path for path, text in files.items()
             if not path.is_file() or path.read_text(encoding="utf-8") != text]
    return wrong + [path for path in FOLDER.glob("*") if path not in files]


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit("".join(f"{path}: run deploy/grafana/dashboards.py\n" for path in outdated()) or 0)
    for path, text in rendered().items():
        path.write_text(text, encoding="utf-8")
