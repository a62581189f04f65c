"""Environments in Python between their own spaces and flat arrays."""

import json
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import worlds
from pmpo import _environments


def adapted(environment):
    return _environments._adapted("python:worlds:test", environment)


def described(environment):
    return json.loads(adapted(environment).description())


def acting_in(space):
    world = worlds.Point()
    world.action_space = space
    return adapted(world)


def test_terminated_is_discount_zero_and_truncated_is_not():
    world = worlds.Point()
    of_pole = adapted(world)
    of_pole.reset(0)
    _, _, discount, last = of_pole.step(np.array([0.0]))
    assert (discount, last) == (1.0, False)
    world.step_count = world.steps - 1
    _, _, discount, last = of_pole.step(np.array([0.0]))
    assert (discount, last) == (1.0, True), "truncated"
    of_pole.reset(None)
    world.at = 9.5
    _, _, discount, last = of_pole.step(np.array([0.0]))
    assert (discount, last) == (0.0, True), "terminated"
    of_pole.reset(None)
    world.at, world.step_count = 9.5, world.steps - 1
    _, _, discount, last = of_pole.step(np.array([0.0]))
    assert (discount, last) == (0.0, True), "both at once are a termination"


def test_spaces_are_flattened_in_their_order_row_major():
    arm = adapted(worlds.Arm())
    fields = described(worlds.Arm())["spec"]["observation"]
    order = list(worlds.Arm.observation_space.spaces)
    expected = {
        "joints": [("joints/speed", 3), ("joints/angle", 4)],
        "camera": [("camera", 12)],
        "grip": [("grip/0", 3), ("grip/1", 2)],
    }
    inner = list(worlds.Arm.observation_space["joints"].spaces)
    expected["joints"].sort(key=lambda field: inner.index(field[0].partition("/")[2]))
    named = [(field["name"], field["size"]) for field in fields]
    assert named == [field for name in order for field in expected[name]]
    flat = arm.reset(0)
    assert flat.dtype == np.float64
    parts = dict(zip((name for name, _ in named), np.split(flat, np.cumsum([size for _, size in named])[:-1])))
    assert parts["joints/angle"].tolist() == [1, 2, 3, 4]
    assert parts["joints/speed"].tolist() == [5, 6, 7]
    assert parts["camera"].tolist() == list(range(12))
    assert parts["grip/0"].tolist() == [0, 0, 1], "one of three"
    assert parts["grip/1"].tolist() == [1, 0]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_vector_says_what_each_of_its_environments_has_come_to(mode):
    """Two points side by side are each what a point by itself is: the first is terminated in its third step, the
    second truncated in its fourth, and both begin anew as the mode says."""
    vector = worlds.several(mode=mode, count=2)
    several = adapted(vector)
    assert several.count == 2
    assert described(worlds.several(count=2))["spec"] == described(worlds.Point())["spec"]
    one = several.reset(5)
    assert one.shape == (2, 2) and one.dtype == np.float64
    assert one.tolist() == [adapted(worlds.Point()).reset(seed).tolist() for seed in (5, 6)]
    inner, taken = vector.envs, []
    for step in range(6):
        if step == 2:
            inner[0].at = 9.5
        if step == 3:
            inner[1].step_count = inner[1].steps - 1
        rows, rewards, discounts, kinds, first = several.step(np.array([[-1.0], [0.5]]))
        assert rows.shape == (2, 2) and rewards.dtype == discounts.dtype == np.float64
        taken.append((kinds.tolist(), discounts.tolist(), None if first is None else first.shape))
        if step == 2:
            assert rows[0, 0] == np.float32(9.4) and rewards[0] == -9.4, "the last state, not the next first one"
            assert first is None or first[0, 0] == np.float32(inner[0].at) != rows[0, 0]
    first_mid_last = {"NextStep": (None, None), "SameStep": ((2, 2), (2, 2)), "Disabled": ((2, 2), (2, 2))}
    at_three, at_four = first_mid_last[mode]
    after = 0.0 if mode == "NextStep" else 1.0
    assert taken == [
        ([1.0, 1.0], [1.0, 1.0], None),
        ([1.0, 1.0], [1.0, 1.0], None),
        ([2.0, 1.0], [0.0, 1.0], at_three),
        ([after, 2.0], [1.0, 1.0], at_four),
        ([1.0, after], [1.0, 1.0], None),
        ([1.0, 1.0], [1.0, 1.0], None),
    ]


def test_an_environment_that_says_little_of_itself_is_taken_all_the_same():
    """Of Gymnasium's interface it has the spaces, `reset` and `step`: no metadata, no render_mode."""

    class Bare:
        observation_space, action_space = worlds.Point.observation_space, worlds.Point.action_space
        unwrapped = property(lambda self: self)

    assert described(Bare())["spec"]["control_timestep"] == 0.0
    with pytest.raises(ValueError, match="render_mode 'rgb_array' for a picture, got None"):
        adapted(Bare()).frame(1, 1, None)


def test_a_vector_flattens_and_acts_as_one_does():
    one, several = adapted(worlds.Arm()), adapted(worlds.several(worlds.Arm, count=2))
    assert several.reset(0).tolist() == [one.reset(0).tolist()] * 2
    several.step(np.array([[1.9999999, 0.0], [0.0, 1.0]]))
    assert [world.taken.tolist() for world in several._environment.envs] == [[2, 0], [0, 1]]
    choice = adapted(gymnasium.make_vec("CartPole-v1", 2))
    choice.reset(0)
    assert choice.step(np.array([[0.0], [1.0]]))[0].shape == (2, 4)


def test_choices_are_of_the_spaces_own_kind():
    world = worlds.Arm()
    arm = adapted(world)
    assert described(world)["choices"] == 3
    arm.reset(0)
    arm.step(np.array([1.9999999, 0.0]))
    assert world.taken.tolist() == [2, 0] and world.taken.dtype == world.action_space.dtype
    one = acting_in(spaces.Discrete(4, start=-1))
    spec = json.loads(one.description())
    assert spec["choices"] == 4
    assert spec["spec"]["action"] == {"minimum": ["-1.0"], "maximum": ["2.0"]}
    taken = one._actions.take(np.array([1.0000001]))
    assert taken == 1 and spaces.Discrete(4, start=-1).contains(taken)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8, np.int64])
def test_boxes_of_any_kind_take_actions_of_theirs(dtype):
    space = spaces.Box(np.array([[-3, 0]], dtype), np.array([[5, 1]], dtype), dtype=dtype)
    box = acting_in(space)
    assert json.loads(box.description())["spec"]["action"] == {"minimum": ["-3.0", "0.0"], "maximum": ["5.0", "1.0"]}
    for action in ([-3.0, 1.0], [5.0, 0.0], [0.7, 0.3]):
        assert space.contains(box._actions.take(np.array(action)))


def test_dm_env_keeps_its_discount():
    clock = adapted(worlds.Clock())
    spec = described(worlds.Clock())["spec"]
    assert [(field["name"], field["size"]) for field in spec["observation"]] == [("time", 1), ("hands", 4)]
    assert spec["action"] == {"minimum": ["-1.0", "0.0"], "maximum": ["1.0", "3.0"]}
    assert clock.reset(None).tolist() == [0, 0, 0, 0, 0]
    assert [clock.step(np.zeros(2))[1:] for _ in range(3)] == [(0.5, 0.9, False), (0.5, 0.9, False), (1.0, 0.0, True)]


def test_seeds_are_the_environments():
    for task in ("gymnasium:Pendulum-v1", "dm_control:cartpole-swingup"):
        first = [_environments.load(task).reset(seed).tolist() for seed in (3, 3, 2**64 - 1)]
        assert first[0] == first[1] != first[2]
    wrapped = adapted(gymnasium.wrappers.RecordEpisodeStatistics(worlds.Point()))
    assert wrapped.reset(5).tolist() == adapted(worlds.Point()).reset(5).tolist()


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), "expected finite bounds"),
        (spaces.Box(-1.0, np.array([1.0, np.inf], np.float32)), "RescaleAction"),
        (spaces.MultiDiscrete([2, 3]), "as many choices in each dimension, got [2, 3]"),
        (spaces.Discrete(1), "at least two choices"),
        (spaces.Text(3), "expected Box, Discrete, MultiDiscrete or MultiBinary"),
        (spaces.Box(0.0, 1.0, (0,)), "at least one dimension"),
    ],
)
def test_actions_that_no_policy_takes_are_refused_with_a_hint(space, expected):
    with pytest.raises(ValueError) as refused:
        acting_in(space)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("gymnasium:Nope-v0", "Nope"),
        ("walker:walk", "expected gymnasium:ID, dm_control:domain-task or python:module:function"),
        ("dm_control:walker-fly", "such as walker-walk"),
        ("python:worlds", "expected python:module:function"),
        ("python:worlds:nothing", "nothing"),
        ("python:worlds:comes", "expected an environment of Gymnasium's or dm_env's interface, got bool"),
    ],
)
def test_names_that_are_none_are_refused(task, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(Exception) as refused:
        _environments.load(task)
    assert expected in str(refused.value)
