"""What `pip install` gives."""

import importlib.metadata
import subprocess
import sys

import pmpo as package
from conftest import pmpo


def test_numpy_is_the_only_requirement_and_the_command_is_there():
    distribution = importlib.metadata.distribution("pmpo")
    assert distribution.requires == ["numpy"]
    assert distribution.metadata["Requires-Python"] == ">=3.9"
    assert pmpo("--version").stdout.strip() == f"pmpo {distribution.version}"
    assert package.__version__ == distribution.version


def test_the_module_runs_the_command_too_and_answers_its_exit_code():
    done = subprocess.run([sys.executable, "-m", "pmpo", "eval", "/nonexistent"], capture_output=True, text=True)
    assert done.returncode == pmpo("eval", "/nonexistent", check=False).returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_mujoco_is_the_installed_wheels_or_is_missed_in_one_line():
    assert "walker-walk" in pmpo("tasks").stdout
    missed = pmpo("tasks", check=False, env={"PMPO_MUJOCO": "/nonexistent"})
    (line,) = missed.stderr.strip().splitlines()
    assert missed.returncode != 0 and "pip install mujoco==" in line, line


def test_types_and_docstrings_come_along():
    files = {str(file) for file in importlib.metadata.files("pmpo")}
    assert {"pmpo/py.typed", "pmpo/__init__.pyi", "pmpo/_native.pyi", "pmpo/replay.pyi"} <= files
    for documented in (package.Policy, package.Policy.load, package.Policy.__call__, package.Generator):
        assert documented.__doc__


def test_a_run_whose_processes_are_interpreters_learns_and_ends_in_order(tmp_path):
    done = pmpo(
        "train", "cartpole-balance", "--run-dir", tmp_path / "run", "--learner-steps", 50,
        "--set", "evaluator.episodes=1",
    )  # fmt: skip
    assert "reached its limit of learner steps" in done.stdout + done.stderr
    assert (tmp_path / "run" / "learning_curve.svg").is_file()
