"""A Python actor beside a bare loop: control steps for each second of CPU, of

- `env.step` with a constant action and resets, in this process;
- an actor of `pmpo train` with policy and insertion, while a learner takes few steps.

    python benches/actor.py [--seconds S] gymnasium:HalfCheetah-v5 dm_control:walker-walk

Rounds of both alternate, so that what else the machine does meets both.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from pmpo import _environments

SETTINGS = [
    "actor.environments=1",
    # A learner step for 2000 steps of the environment.
    "replay.table.samples_per_insert=0.128",
    "replay.table.min_size_to_sample=1000",
    "evaluator.period_learner_steps=1000000",
    "evaluator.episodes=1",
]
STEPS = "pmpo_actor_environment_steps_total"


def bare(task, seconds):
    """Control steps a CPU second of the environment alone."""
    adapter = _environments.load(task)
    environment = adapter._environment
    limits = adapter._actions
    action = limits.take(0.5 * (_array(limits.minimum) + _array(limits.maximum)))
    gymnasium = hasattr(environment, "action_space")
    environment.reset()
    steps, begun, end = 0, time.process_time(), time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(100):
            if gymnasium:
                _, _, terminated, truncated, _ = environment.step(action)
                if terminated or truncated:
                    environment.reset()
            else:
                # dm_env begins another episode by itself.
                environment.step(action)
        steps += 100
    return steps / (time.process_time() - begun)


def _array(values):
    import numpy as np

    return np.array(values)


class Actor:
    """The actor of a run."""

    def __init__(self, task, folder):
        run = pathlib.Path(folder) / "run"
        flags = [flag for setting in SETTINGS for flag in ("--set", setting)]
        command = [sys.executable, "-m", "pmpo", "train", task, "--run-dir", str(run), *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        announced = run / "roles" / "actor-0.json"
        while not announced.is_file():
            assert self.process.poll() is None, "the run has ended"
            time.sleep(0.1)
        role = json.loads(announced.read_text())
        self.pid, self.metrics = role["pid"], role["metrics"]
        while self.count() < 2000:
            time.sleep(0.5)

    def count(self):
        with urllib.request.urlopen(f"http://{self.metrics}/metrics") as page:
            lines = [line for line in page.read().decode().splitlines() if line.startswith(STEPS)]
        return float(lines[0].split()[-1]) if lines else 0.0

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def measure(self, seconds):
        steps, cpu = self.count(), self.cpu()
        time.sleep(seconds)
        return (self.count() - steps) / (self.cpu() - cpu)

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{'environment':32} {'bare, steps/CPU-s':>18} {'actor, steps/CPU-s':>19} {'ratio':>6}")
    for task in arguments.tasks:
        with tempfile.TemporaryDirectory() as folder:
            actor = Actor(task, folder)
            rounds = []
            for _ in range(arguments.rounds):
                os.kill(actor.pid, signal.SIGSTOP)
                of_loop = bare(task, arguments.seconds)
                os.kill(actor.pid, signal.SIGCONT)
                rounds.append((of_loop, actor.measure(arguments.seconds)))
            actor.end()
        loop, acting = (statistics.median(side) for side in zip(*rounds))
        ratio = statistics.median(b / a for a, b in rounds)
        print(f"{task:32} {loop:18.0f} {acting:19.0f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
