"""`pmpo.train`: the command of that name, from a script or a notebook."""

import csv
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, Optional

import numpy as np

from pmpo._native import Policy

_POLL_S = 0.25


@dataclasses.dataclass(frozen=True)
class Result:
    """What a training has come to.

    Attributes:
        run_dir: folder of the run.
        reason: why it ended, in words.
        env_steps, learner_steps: how far it came.
        best_return, last_return: mean returns of evaluations; None before the first.
        curve: columns of `progress.csv` by name, float64 `[evaluations]`, NaN where a value is absent.
    """

    run_dir: pathlib.Path
    reason: str
    env_steps: int
    learner_steps: int
    best_return: Optional[float]
    last_return: Optional[float]
    curve: Dict[str, np.ndarray]

    def policy(self, checkpoint="best"):
        """The policy of the best evaluation, or another of the run's: see `Policy.load`."""
        return Policy.load(self.run_dir, checkpoint)


def train(
    env,
    run_dir=None,
    *,
    seed=0,
    preset=None,
    config: Optional[Dict[str, Any]] = None,
    env_steps=None,
    learner_steps=None,
    max_minutes=None,
    stop_at_return=None,
    callback: Optional[Callable[[Dict[str, float]], Any]] = None,
    progress=True,
) -> Result:
    """Trains on this machine until a limit or an interrupt: replay, learner, actors and evaluator as processes.

    Args:
        env: a name, as of `pmpo train`, or a function of a module, without arguments, that makes an environment.
        run_dir: folder of the run; default: a new one under `runs/`.
        seed: of the run.
        preset: "fast" or "efficient".
        config: keys and their values, such as `{"update.batch_size": 128}`.
        env_steps, learner_steps, max_minutes, stop_at_return: when it ends.
        callback: is given each evaluation, a row of `progress.csv` by column; the training ends when it
            returns True.
        progress: whether a line on standard error says how far it is.

    Raises:
        ValueError: the environment cannot be named to other processes.
        RuntimeError: the training has failed; its last line says why.
    """
    task = env if isinstance(env, str) else _named(env)
    limits = {
        "--env-steps": env_steps,
        "--learner-steps": learner_steps,
        "--max-minutes": max_minutes,
        "--stop-at-return": stop_at_return,
        "--preset": preset,
    }
    run_dir = pathlib.Path(run_dir) if run_dir is not None else _new_folder(task, seed)
    command = [sys.executable, "-m", "pmpo", "train", task, "--run-dir", str(run_dir), "--seed", str(seed)]
    command += [str(word) for flag, value in limits.items() if value is not None for word in (flag, value)]
    for key, value in (config or {}).items():
        command += ["--set", f"{key}={_toml(value)}"]
    with tempfile.TemporaryFile("w+") as said:
        # A session of its own: an interrupt comes to this process alone, which passes it on.
        process = subprocess.Popen(
            [*command, "--parent", str(os.getpid())], stdout=said, stderr=said, start_new_session=True
        )
        try:
            _follow(process, run_dir, callback, progress)
        finally:
            _end(process)
        said.seek(0)
        lines = [line.strip() for line in said if line.strip()]
    if process.returncode != 0:
        raise RuntimeError(lines[-1] if lines else f"pmpo train ended with {process.returncode}")
    return _result(run_dir, lines)


def _toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # Of texts, numbers, true and false, JSON's spelling is TOML's.
    return json.dumps(value)


def _named(function):
    """The name by which other processes import a function."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    importable = module not in (None, "__main__") and name.isidentifier()
    if not importable or getattr(sys.modules.get(module), name, None) is not function:
        raise ValueError(
            f"expected a name or a function of a module, since actors are processes that import it, got {function!r}; "
            "put it into a file beside this one and import it from there"
        )
    return f"python:{module}:{name}"


def _new_folder(task, seed):
    stamp = time.strftime("%Y%m%dT%H%M%S")
    return pathlib.Path("runs", f"{task.replace(':', '-').replace('/', '-')}-seed{seed}-{stamp}-{os.getpid()}")


def _follow(process, run_dir, callback, progress):
    """Until the process ends; an interrupt or the callback's True end it in order."""
    seen, going = 0, True
    try:
        while going:
            # What was written before it ended is read after it has.
            going = process.poll() is None
            rows = _rows(run_dir)
            for row in rows[seen:]:
                if progress:
                    _tell(row)
                if callback is not None and callback(row) is True and going:
                    # Once: a second interrupt has it hurry. `_end` waits.
                    process.send_signal(signal.SIGINT)
                    going = False
                    break
            seen = len(rows)
            if going:
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
    if progress and seen:
        print(file=sys.stderr)


def _end(process):
    """Waits for what was asked to end; what an error left running is told to."""
    if process.poll() is None and sys.exc_info()[0] is not None:
        process.send_signal(signal.SIGINT)
    process.wait()


def _tell(row):
    line = "{env_steps:.0f} environment steps, {learner_steps:.0f} learner steps, return {eval_return_mean:.1f}"
    print("\r" + line.format(**row).ljust(78), end="", file=sys.stderr, flush=True)


def _rows(run_dir):
    """Complete rows of the run's progress."""
    try:
        text = (run_dir / "progress.csv").read_text()
    except FileNotFoundError:
        return []
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(lines)]


def _result(run_dir, lines):
    rows = _rows(run_dir)
    curve = {key: np.array([row[key] for row in rows]) for key in (rows[0] if rows else ())}
    returns = curve.get("eval_return_mean", np.array([]))
    outcome = json.loads((run_dir / "outcome.json").read_text()) if (run_dir / "outcome.json").is_file() else {}
    return Result(
        run_dir=run_dir,
        reason=next((line for line in reversed(lines) if not line.startswith("run folder:")), ""),
        env_steps=outcome.get("env_steps", 0),
        learner_steps=outcome.get("learner_steps", 0),
        best_return=float(returns.max()) if returns.size else None,
        last_return=float(returns[-1]) if returns.size else None,
        curve=curve,
    )
