"""`pmpo.Policy`: the actor's policy, bit for bit."""

import csv
import json
import threading
import timeit

import numpy as np
import pytest
from dm_control import suite

import pmpo as package
from conftest import RUNS, pmpo

SEED = 7


def observations(policy, rows, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, policy.observation_size)) * 2.0


@pytest.mark.parametrize("name", RUNS)
def test_an_episode_in_dm_control_is_the_products_own(runs, name, tmp_path):
    """The return of Rust's evaluation, to the last bit, of the actions that are taken here: dm_control steps bit
    for bit as the product does, and `pmpo trace` gives the product's rewards for them."""
    task = RUNS[name][0]
    policy = package.Policy.load(runs[name], checkpoint="newest")
    domain, _, kind = task.rpartition("-")
    environment = suite.load(domain.replace("-", "_"), kind, task_kwargs={"random": SEED})
    step = environment.reset()
    with open(tmp_path / "actions.csv", "w", newline="") as file:
        while not step.last():
            action = policy(step.observation)
            csv.writer(file).writerow([repr(float(value)) for value in action])
            step = environment.step(action)
    pmpo("trace", task, "--seed", SEED, "--actions", tmp_path / "actions.csv", "--out", tmp_path / "trace.csv")
    with open(tmp_path / "trace.csv", newline="") as file:
        rewards = [float(row["reward"]) for row in csv.DictReader(file) if row["reward"]]
    report = json.loads(pmpo("eval", runs[name], "--checkpoint", "newest", "--episodes", 1, "--seed", SEED, "--json").stdout)
    assert len(rewards) == 1000
    total = 0.0
    for reward in rewards:
        total += reward
    assert report["returns"] == [total]


@pytest.mark.parametrize("name", RUNS)
def test_a_batch_is_its_observations_one_by_one(runs, name):
    policy = package.Policy.load(runs[name], checkpoint="newest")
    batch = observations(policy, 50)
    assert policy(batch).shape == (50, policy.action_size)
    for rows in (1, 3, 50):
        assert np.array_equal(policy(batch[:rows]), [policy(row) for row in batch[:rows]])
    assert np.array_equal(policy(batch.astype(np.float32)), policy(batch)), "actors narrow to float32"
    assert np.array_equal(policy(batch[0].tolist()), policy(batch[0]))
    assert np.array_equal(policy(batch[:3].tolist()), policy(batch[:3]))
    assert np.array_equal(policy(batch[::2]), policy(batch)[::2]), "strides do not matter"


@pytest.mark.parametrize("name", RUNS)
def test_draws_are_their_generators(runs, name):
    policy = package.Policy.load(runs[name], checkpoint="newest")
    batch = observations(policy, 20)
    one_by_one = package.Generator(3)
    draws = np.array([policy(row, one_by_one) for row in batch])
    assert np.array_equal(policy(batch, package.Generator(3)), draws)
    assert not np.array_equal(policy(batch, package.Generator(4)), draws)
    assert not np.array_equal(policy(batch), draws)
    low, high = policy.action_minimum, policy.action_maximum
    assert ((low <= draws) & (draws <= high)).all()


def test_a_mapping_is_taken_by_the_fields_names(runs):
    policy = package.Policy.load(runs["residual"])
    assert policy.observation_fields == [("orientations", 14), ("height", 1), ("velocity", 9)]
    flat = observations(policy, 4)
    named = {"velocity": flat[:, 15:], "height": flat[:, 14], "orientations": flat[:, :14], "other": 1.0}
    assert np.array_equal(policy(named), policy(flat))
    one = {name: value[0] if name != "other" else value for name, value in named.items()}
    assert np.array_equal(policy(one), policy(flat[0]))


def test_which_policy_of_a_run(runs, tmp_path):
    run = runs["default"]
    newest = package.Policy.load(run, checkpoint="newest")
    assert package.Policy.load(str(run), checkpoint=40).checkpoint == newest.checkpoint
    assert package.Policy.load(run).checkpoint.endswith("best")
    assert newest.task == "cartpole-swingup"
    of_folder = package.Policy.load(newest.checkpoint)
    pmpo("export", run, "--checkpoint", "newest", "--safetensors", tmp_path / "p.safetensors")
    of_file = package.Policy.load(tmp_path / "p.safetensors")
    batch = observations(newest, 9)
    assert np.array_equal(of_folder(batch), newest(batch))
    assert np.array_equal(of_file(batch), newest(batch))


def test_what_cannot_be_is_refused_in_one_line(runs, tmp_path):
    policy = package.Policy.load(runs["default"])
    (tmp_path / "x.safetensors").write_bytes(b"no policy at all")
    for call, expected in [
        (lambda: policy(np.zeros(3)), "expected 5 values, position 3, velocity 2, or a batch of them, got an array of shape [3]"),
        (lambda: policy(np.full(5, np.nan)), "a value is not finite in float32"),
        (lambda: policy(np.full(5, 1e300)), "a value is not finite in float32"),
        (lambda: policy({"position": np.zeros(3)}), "expected a field 'velocity'"),
        (lambda: policy("five"), "could not convert"),
        (lambda: package.Policy.load(tmp_path), "no"),
        (lambda: package.Policy.load(tmp_path / "x.safetensors"), "not safetensors"),
        (lambda: package.Policy.load(runs["default"], checkpoint="latest"), "expected best, newest or a learner step, got latest"),
        (lambda: package.Policy.load(runs["default"], checkpoint=41), "41"),
    ]:  # fmt: skip
        with pytest.raises(ValueError) as refused:
            call()
        message = str(refused.value)
        assert expected in message and "\n" not in message, message
    with pytest.raises(OverflowError):
        package.Generator(-1)


def test_threads_share_a_policy(runs):
    policy = package.Policy.load(runs["residual"])
    batch = observations(policy, 400)
    expected = policy(batch)
    equal = []

    def act():
        equal.extend(np.array_equal(policy(batch), expected) for _ in range(20))

    threads = [threading.Thread(target=act) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 80


def test_a_call_takes_at_most_fifteen_microseconds(runs):
    """The least of many rounds, which other work on the machine does not disturb."""
    policy = package.Policy.load(runs["default"])
    observation = observations(policy, 1)[0]
    rounds = timeit.repeat(lambda: policy(observation), number=500, repeat=60)
    assert min(rounds) / 500 <= 15e-6
