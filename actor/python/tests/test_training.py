"""`pmpo train` with environments in Python: the same cluster, and what becomes of their faults."""

import csv
import json
import os
import pathlib
import subprocess
import sys
import time
import tomllib

import imageio
import numpy as np
import pytest

import pmpo as package
import worlds
from conftest import pmpo

QUICK = [
    "--set", "evaluator.episodes=1",
    "--set", "evaluator.period_learner_steps=50",
    "--set", "actor.environments=1",
    "--set", "replay.table.min_size_to_sample=200",
    "--set", "update.batch_size=64",
]  # fmt: skip


def train(task, folder, *flags, check=True):
    """Trains in `folder`; answers how that ended."""
    here = str(pathlib.Path(__file__).parent)
    env = {"PYTHONPATH": here, "WORLDS_FOLDER": str(folder)}
    return pmpo("train", task, "--run-dir", folder / "run", *QUICK, *flags, check=check, env=env)


def rows(run):
    with open(run / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))


def log(folder):
    return (folder / "run" / "logs" / "actor-0.log").read_text()


@pytest.mark.parametrize("task", ["gymnasium:Pendulum-v1", "dm_control:cartpole-balance", "python:worlds:point"])
def test_environments_of_every_kind_train(task, tmp_path):
    done = train(task, tmp_path, "--learner-steps", 3000, "--set", "evaluator.period_learner_steps=500")
    assert "reached its limit of learner steps" in done.stdout + done.stderr
    run = tmp_path / "run"
    assert len(rows(run)) >= 1 and (run / "learning_curve.svg").is_file()
    policy = package.Policy.load(run)
    assert policy.task == task
    action = policy(np.zeros(policy.observation_size))
    assert ((policy.action_minimum <= action) & (action <= policy.action_maximum)).all()


@pytest.mark.parametrize("task", ["python:worlds:points", "python:worlds:points_anew_in_the_same_step"])
def test_a_vector_of_environments_trains_and_is_evaluated(task, tmp_path):
    """Episodes have 40 steps, and all that were taken are counted."""
    flags = ["--learner-steps", 1000, "--set", "evaluator.period_learner_steps=300", "--set", "evaluator.episodes=4"]
    done = train(task, tmp_path, *flags)
    assert "reached its limit of learner steps" in done.stdout + done.stderr
    assert "environments=3" in log(tmp_path)
    run = tmp_path / "run"
    assert len(rows(run)) >= 1
    env = {"PYTHONPATH": str(pathlib.Path(__file__).parent)}
    said = pmpo("eval", run, "--episodes", 5, "--json", env=env).stdout
    report = json.loads(said)
    assert len(report["returns"]) == 5 and all(-400 < value < 0 for value in report["returns"])
    policy = package.Policy.load(run)
    assert policy(np.zeros((3, 2))).shape == (3, 1)


@pytest.mark.parametrize(
    ("fault", "says", "voided"),
    [("one_point_raises", "OSError: the motor is on fire", 3), ("one_point_says_nan", "not finite in f32", 1)],
)
def test_a_fault_in_a_vector_voids_what_it_spoils(fault, says, voided, tmp_path):
    """What raises has ended the vector's call, and all of it is made anew; what is not finite is one environment's."""
    train(f"python:worlds:{fault}", tmp_path, "--learner-steps", 100)
    lines = [line for line in log(tmp_path).splitlines() if "void" in line]
    assert len(lines) == voided and all(says in line for line in lines), lines


def test_an_episode_is_drawn_as_the_environment_draws_it(tmp_path):
    """40 steps at 20 pictures a second of simulated time, each in the environment's own size."""
    env = {"PYTHONPATH": str(pathlib.Path(__file__).parent)}
    train("python:worlds:drawn", tmp_path, "--lockstep", "--learner-steps", 60)
    run, out = tmp_path / "run", tmp_path / "walk.png"
    said = pmpo("render", run, "--out", out, "--fps", 20, "--seed", 3, env=env).stdout
    assert "41 frames" in said
    pictures = [imageio.v3.imread(path) for path in sorted(tmp_path.glob("walk-*.png"))]
    assert len(pictures) == 41 and {picture.shape for picture in pictures} == {(8, 21, 3)}
    point = worlds.Point()
    point.reset(seed=3)
    assert pictures[0][:, round(10 + point.at)].min() == 255
    pmpo("render", run, "--out", tmp_path / "walk.gif", "--seconds", 0.5, env=env)
    assert imageio.v3.imread(tmp_path / "walk.gif").shape[1:] == (8, 21, 3)
    refused = pmpo("render", run, "--out", out, "--camera", "side", check=False, env=env)
    assert refused.returncode == 2 and "expected no camera" in refused.stderr


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("python:worlds:point", "render_mode 'rgb_array' for a picture, got None; a function that takes render_mode"),
        ("python:worlds:points", "expected one environment here, got a vector of 3"),
    ],
)
def test_what_is_not_drawn_says_so(task, says, tmp_path):
    env = {"PYTHONPATH": str(pathlib.Path(__file__).parent)}
    train(task, tmp_path, "--learner-steps", 60)
    refused = pmpo("render", tmp_path / "run", "--out", tmp_path / "walk.gif", check=False, env=env)
    said = refused.stderr.splitlines()[-1]
    assert refused.returncode == 2 and said.startswith(f"pmpo: {task}: ") and says in said
    assert not (tmp_path / "walk.gif").exists()


@pytest.mark.parametrize("flag", ["--lockstep", "--set=run.action_repeat=2"])
def test_what_a_vector_cannot_do_is_refused(flag, tmp_path):
    done = train("python:worlds:points", tmp_path, flag, "--learner-steps", 60, check=False)
    said = "expected one environment with --lockstep, got a vector of 3" if flag == "--lockstep" else "run.action_repeat: expected 1"
    assert done.returncode == 2 and said in done.stderr and not (tmp_path / "run").exists(), done.stderr


def test_choices_take_the_categorical_head_by_themselves(tmp_path):
    train("gymnasium:CartPole-v1", tmp_path, "--learner-steps", 60)
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["policy"]["head"] == {"kind": "categorical", "bins": 2}
    policy = package.Policy.load(tmp_path / "run")
    actions = policy(np.random.default_rng(0).normal(size=(50, 4)), package.Generator(1))
    assert set(actions.ravel()) <= {0.0, 1.0}
    other = ["--set", 'policy.head={kind="categorical",bins=5}', "--set", 'update.policy_loss.kl={kind="joint"}']
    refused = train("gymnasium:CartPole-v1", tmp_path / "other", *other, check=False)
    assert refused.returncode == 2 and "bins = 2" in refused.stderr and not (tmp_path / "other").exists()


def test_lockstep_and_evaluation_have_them_too(tmp_path):
    flags = ["--lockstep", "--learner-steps", 60, "--seed", 3]
    for name in ("a", "b"):
        train("python:worlds:point", tmp_path / name, *flags)
    without_time = [
        [{key: value for key, value in row.items() if key != "wall_s"} for row in rows(tmp_path / name / "run")]
        for name in ("a", "b")
    ]
    assert without_time[0] == without_time[1] != []
    env = {"PYTHONPATH": str(pathlib.Path(__file__).parent)}
    said = pmpo("eval", tmp_path / "a" / "run", "--episodes", 2, env=env).stdout
    assert "over 2 episodes" in said


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("raises", "OSError: the motor is on fire"),
        ("says_nan", "an observation is not finite in f32"),
        ("rewards_nan", "the reward is NaN"),
        ("wrong_shape", "observation 'observation': expected shape [2], got [3]"),
    ],
)
def test_a_fault_voids_its_episode_and_is_one_line(fault, says, tmp_path):
    """The environment goes on, and what is stored is what it was before: the learner would end at a number that
    is not finite, and the replay refuses one."""
    task = f"python:worlds:{fault}"
    train(task, tmp_path, "--learner-steps", 100)
    assert (tmp_path / "has_come").is_file()
    lines = [line for line in log(tmp_path).splitlines() if "void" in line]
    assert len(lines) == 1 and task in lines[0] and says in lines[0], lines
    # 24 steps were valid; the windows that would have reached the fault are dropped, and no others.
    assert "dropped_steps=" in lines[0]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("hangs", "hangs, no answer for 2s"),
        ("dies", "actor-0 of python:worlds:dies ended with exit status: 9"),
    ],
)
def test_a_process_that_hangs_or_dies_is_started_again_with_one_line(fault, says, tmp_path):
    task = f"python:worlds:{fault}"
    done = train(task, tmp_path, "--learner-steps", 100, "--set", "actor.environment_timeout_s=2")
    assert (tmp_path / "has_come").is_file()
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "started again" in line]
    assert len(lines) == 1 and task in lines[0] and says in lines[0], done.stdout + done.stderr
    assert "reached its limit of learner steps" in done.stdout + done.stderr


def test_an_actor_with_another_environment_is_refused(tmp_path):
    done = train("python:worlds:other_in_the_actor", tmp_path, "--learner-steps", 100, check=False)
    assert done.returncode == 7
    assert "has other observations or actions than this program's" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("gymnasium:Nope-v0", "gymnasium:Nope-v0: NameNotFound"),
        ("python:worlds:nothing", "python:worlds:nothing: AttributeError"),
        ("gymnasium:", "expected gymnasium:ID"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_and_leaves_nothing(task, says, tmp_path):
    refused = train(task, tmp_path, check=False)
    assert refused.returncode == 2
    (line,) = refused.stderr.strip().splitlines()
    assert line.startswith("pmpo: ") and says in line
    assert not (tmp_path / "run").exists()


def test_an_interpreter_without_the_package_is_named(tmp_path):
    refused = train("gymnasium:Pendulum-v1", tmp_path, "--set", 'run.python="/nonexistent/python"', check=False)
    assert refused.returncode == 2 and "run.python: starting /nonexistent/python" in refused.stderr


def wait_for(path):
    """What a role announces."""
    for _ in range(600):
        if path.is_file() and path.read_text().strip():
            return json.loads(path.read_text())
        time.sleep(0.1)
    raise AssertionError(f"nothing at {path}")


def test_a_learner_is_told_by_the_first_actor_what_its_environment_is(tmp_path):
    """It cannot load it: on its machine there is no module `worlds`."""
    command = str(pathlib.Path(sys.executable).with_name("pmpo"))
    here = str(pathlib.Path(__file__).parent)
    started = []

    def start(role, *flags, **env):
        announced = tmp_path / f"{role}-{len(started)}.json"
        flags = [command, role, "--announce", announced, "--metrics", "127.0.0.1:0", *flags]
        log = open(tmp_path / f"{role}-{len(started)}.log", "w")
        process = subprocess.Popen(
            [str(flag) for flag in flags], cwd=tmp_path, stdout=log, stderr=log, env={**os.environ, **env}
        )
        started.append((process, log))
        return process, announced

    try:
        settings = [
            "--set", "replay.table.min_size_to_sample=200",
            "--set", "update.batch_size=64",
        ]  # fmt: skip
        _, announced = start("replay", "--listen", "127.0.0.1:0", *settings)
        replay = wait_for(announced)["listen"]
        learner, announced = start(
            "learner", "--run-dir", "run", "--listen", "127.0.0.1:0", "--replay", replay,
            "--set", 'run.task="python:worlds:steered"', *settings,
        )  # fmt: skip
        address = wait_for(announced)["listen"]
        # Whoever cannot say it waits.
        evaluator, _ = start("evaluator", "--learner", address, PYTHONPATH=here)
        time.sleep(1)
        assert evaluator.poll() is None and not (tmp_path / "run").exists()
        actors = ["--learner", address, "--replay", replay, "--set", "actor.environments=1"]
        actor, _ = start("actor", *actors, PYTHONPATH=here)
        config = tmp_path / "run" / "config.toml"
        for _ in range(600):
            if config.is_file():
                break
            time.sleep(0.1)
        # What it was told is what it trains for: three choices of an action.
        head = tomllib.loads(config.read_text())["policy"]["head"]
        assert head == {"kind": "categorical", "bins": 3}
        # One that has another environment by this name is refused.
        other, _ = start("actor", *actors, "--index", 1, PYTHONPATH=here, WORLDS_OTHER="1")
        assert other.wait(60) == 7
        log = next(log for process, log in started if process is other)
        text = pathlib.Path(log.name).read_text()
        assert "has other observations or actions than" in text, text
        assert actor.poll() is None and learner.poll() is None
        learner.terminate()
        assert learner.wait(60) == 0
    finally:
        for process, log in started:
            process.terminate()
            process.wait(30)
            log.close()
    said = (tmp_path / "learner-1.log").read_text()
    assert "waiting for an actor that says what the environment is" in said
