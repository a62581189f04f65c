"""Environments of one's own for the tests, as a user writes them: `python:worlds:function`.

A fault comes once, in the run's actor: a file in the folder `WORLDS_FOLDER` says that it has come.
"""

import os
import pathlib
import sys
import time

import dm_env
import gymnasium
import numpy as np
from dm_env import specs
from gymnasium import spaces


class Point(gymnasium.Env):
    """A point on a line, which is to be brought to 0."""

    observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = spaces.Box(-2.0, 1.0, (1,), np.float32)
    steps = 40

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.step_count = self.np_random.uniform(-1.0, 1.0), 0
        return self.observation(), {}

    def observation(self):
        return np.array([self.at, 1.0], np.float32)

    def step(self, action):
        assert self.action_space.contains(action), action
        self.at += 0.1 * float(action[0])
        self.step_count += 1
        return self.observation(), -abs(self.at), abs(self.at) > 9.0, self.step_count >= self.steps, {}


def point():
    return Point()


class Drawn(Point):
    """A point that is drawn: a white column where it is."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        picture = np.zeros((8, 21, 3), np.uint8)
        picture[:, round(10 + self.at)] = 255
        return picture


def drawn(render_mode=None):
    return Drawn(render_mode)


def several(kind=Point, mode="NextStep", count=3):
    """A vector of points."""
    return gymnasium.vector.SyncVectorEnv([kind] * count, autoreset_mode=mode)


def points():
    return gymnasium.wrappers.vector.RecordEpisodeStatistics(several())


def points_anew_in_the_same_step():
    return several(mode="SameStep")


def one_point_raises():
    return several(raises_in_a_point())


def one_point_says_nan():
    return several(faulty(lambda observation, *rest: (np.full(2, np.nan, np.float32), *rest)))


def comes():
    """Whether the fault comes now."""
    if "actor" not in sys.argv:
        return False
    mark = pathlib.Path(os.environ["WORLDS_FOLDER"]) / "has_come"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def faulty(fault):
    """A point whose step 25 of an episode is `fault` of what it should be, once."""

    class Faulty(Point):
        def step(self, action):
            right = super().step(action)
            return fault(*right) if self.step_count == 25 and comes() else right

    return Faulty


def raises_in_a_point():
    def fault(*_):
        raise OSError("the motor is\non fire")

    return faulty(fault)


def raises():
    return raises_in_a_point()()


def says_nan():
    return faulty(lambda observation, *rest: (np.full(2, np.nan, np.float32), *rest))()


def rewards_nan():
    return faulty(lambda observation, reward, *rest: (observation, float("nan"), *rest))()


def wrong_shape():
    return faulty(lambda observation, *rest: (np.zeros(3, np.float32), *rest))()


def hangs():
    return faulty(lambda *_: time.sleep(3600))()


def dies():
    return faulty(lambda *_: os._exit(9))()


def other_in_the_actor():
    """Not what was described: the actor's has another observation."""
    world = Point()
    if "actor" in sys.argv:
        world.observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    return world


class Steered(Point):
    """A point that is moved to one side, not at all, or to the other."""

    action_space = spaces.Discrete(3)

    def step(self, action):
        self.at += 0.1 * (int(action) - 1)
        self.step_count += 1
        return self.observation(), -abs(self.at), False, self.step_count >= self.steps, {}


def steered():
    """With other observations where the environment says so."""
    world = Steered()
    if "WORLDS_OTHER" in os.environ:
        world.observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    return world


class Arm(gymnasium.Env):
    """Observations of many kinds."""

    observation_space = spaces.Dict(
        {
            "joints": spaces.Dict({"speed": spaces.Box(-1, 1, (3,)), "angle": spaces.Box(-4, 4, (2, 2), np.float64)}),
            "camera": spaces.Box(0, 255, (2, 2, 3), np.uint8),
            "grip": spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)]),
        }
    )
    action_space = spaces.MultiDiscrete([3, 3])

    def observation(self):
        return {
            "camera": np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
            "grip": (np.int64(2), np.array([1, 0], np.int8)),
            "joints": {"angle": np.array([[1.0, 2.0], [3.0, 4.0]]), "speed": np.array([5, 6, 7], np.float32)},
        }

    def reset(self, *, seed=None, options=None):
        return self.observation(), {}

    def step(self, action):
        self.taken = action
        return self.observation(), 1.0, False, True, {}


class Clock(dm_env.Environment):
    """dm_env's interface, with a discount of its own."""

    def reset(self):
        self.time = 0
        return dm_env.restart(self.observation())

    def observation(self):
        return {"time": np.int32(self.time), "hands": np.zeros((2, 2))}

    def step(self, action):
        self.time += 1
        if self.time == 3:
            return dm_env.termination(1.0, self.observation())
        return dm_env.transition(0.5, self.observation(), discount=0.9)

    def observation_spec(self):
        return {"time": specs.Array((), np.int32), "hands": specs.Array((2, 2), float)}

    def action_spec(self):
        return specs.BoundedArray((2,), float, [-1.0, 0.0], [1.0, 3.0])
