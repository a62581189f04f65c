"""Runs to act with, and the command as a user has it: installed."""

import os
import pathlib
import subprocess
import sys

import pytest

# Networks of every kind: the default, and what else policies are made of.
RUNS = {
    "default": ("cartpole-swingup", []),
    "residual": (
        "walker-walk",
        [
            "policy.normalise_observations=true",
            'policy.torso.activation="none"',
            "policy.torso.blocks=2",
            "policy.torso.hidden_sizes=[64]",
        ],
    ),
    "squashed": (
        "ball-in-cup-catch",
        [
            'policy.torso.activation="layer_norm_relu_each"',
            "policy.head.tanh_mean=false",
            "policy.head.squash=true",
        ],
    ),
    "categorical": (
        "walker-walk",
        ['policy.head={kind="categorical",bins=7}', 'update.policy_loss.kl={kind="joint"}'],
    ),
}


def pmpo(*arguments, check=True, env=None, timeout=300):
    """Runs the installed command; answers how it ended."""
    command = pathlib.Path(sys.executable).with_name("pmpo")
    done = subprocess.run(
        [command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Folders of short lockstep runs by the kind of their network."""
    folder = tmp_path_factory.mktemp("runs")
    for name, (task, settings) in RUNS.items():
        flags = [flag for setting in settings for flag in ("--set", setting)]
        flags += ["--set", "evaluator.episodes=1", "--set", "evaluator.period_learner_steps=1000"]
        flags += ["--set", "replay.table.min_size_to_sample=300", "--set", "update.batch_size=64"]
        pmpo("train", task, "--lockstep", "--seed", 5, "--learner-steps", 40, "--run-dir", folder / name, *flags)
    return {name: folder / name for name in RUNS}
