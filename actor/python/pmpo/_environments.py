"""Environments by name, as the actor steps them: arrays of float64 in, arrays of float64 out.

`gymnasium:ID`, `dm_control:domain-task`, and `python:module:function`, whose function makes an environment of
Gymnasium's or dm_env's interface, or a vector of Gymnasium's. Observations are flattened in the order of their space:
a `Dict`'s fields in its own order, a `Tuple`'s by their numbers, each row-major; nested fields are named `arm/angle`.
"""

import importlib
import inspect
import json
import os
import sys

import numpy as np


def load(task, pictures=False):
    """The environment of a name; one whose `frame` is asked for, where there are to be `pictures`.

    Raises:
        ValueError: there is none, or it cannot be acted in.
    """
    if pictures and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")
    kind, _, name = task.partition(":")
    makers = {"gymnasium": _gymnasium, "dm_control": _dm_control, "python": _function}
    if kind not in makers or not name:
        raise ValueError(
            "expected gymnasium:ID, dm_control:domain-task or python:module:function, "
            f"or a task that `pmpo tasks` lists, got {task!r}"
        )
    return _adapted(task, makers[kind](name, pictures))


def _gymnasium(name, pictures):
    import gymnasium

    return gymnasium.make(name, render_mode="rgb_array") if pictures else gymnasium.make(name)


def _dm_control(name, _pictures):
    from dm_control import suite

    tasks = {f"{domain}-{kind}".replace("_", "-"): (domain, kind) for domain, kind in suite.ALL_TASKS}
    if name not in tasks:
        raise ValueError(f"expected a task of dm_control's suite, such as walker-walk, got {name!r}")
    return suite.load(*tasks[name])


def _function(name, pictures):
    module, _, function = name.rpartition(":")
    if not module:
        raise ValueError(f"expected python:module:function, got python:{name}")
    # As an interpreter that is started in this folder has it.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    make = getattr(importlib.import_module(module), function)
    if pictures and "render_mode" in inspect.signature(make).parameters:
        return make(render_mode="rgb_array")
    return make()


def _adapted(task, environment):
    if hasattr(environment, "single_observation_space") and hasattr(environment, "num_envs"):
        return _Vector(task, environment)
    if hasattr(environment, "observation_space") and hasattr(environment, "action_space"):
        return _Gymnasium(task, environment)
    if hasattr(environment, "observation_spec") and hasattr(environment, "action_spec"):
        return _DmEnv(task, environment)
    raise ValueError(
        f"expected an environment of Gymnasium's or dm_env's interface, got {type(environment).__name__}"
    )


class _Adapter:
    """An environment, or a vector of `count` of them, whose observations are `_fields`, name, size and what makes values
    flat, each with the keys that lead to it, and whose actions are `_actions`.
    """

    count = None

    def __init__(self, task, environment, fields, actions):
        self._task = task
        self._environment = environment
        self._fields = fields
        self._actions = actions
        # The usual case, without the work that the others need.
        self._only = fields[0] if len(fields) == 1 and not fields[0].keys else None

    def description(self):
        """What the environment promises, as JSON."""
        actions = self._actions
        spec = {
            "task": self._task,
            "observation": [{"name": field.name, "size": field.size} for field in self._fields],
            "action": {"minimum": [repr(x) for x in actions.minimum], "maximum": [repr(x) for x in actions.maximum]},
            "control_timestep": self._timestep(),
            "step_limit": self._step_limit(),
            "action_repeat": 1,
        }
        return json.dumps({"spec": spec, "choices": actions.choices, "environments": self.count})

    def _flat(self, observation):
        if self._only is not None:
            return self._only.flat(observation)
        return np.concatenate([field.flat(field.within(observation)) for field in self._fields])

    # Of an environment of Gymnasium's:

    def _timestep(self):
        rate = self._metadata("render_fps") or np.inf
        return float(getattr(self._environment.unwrapped, "dt", 1.0 / rate))

    def _metadata(self, key):
        return (getattr(self._environment, "metadata", None) or {}).get(key)

    def _step_limit(self):
        described = getattr(self._environment, "spec", None)
        return getattr(described, "max_episode_steps", None)


class _Gymnasium(_Adapter):
    """Gymnasium: `terminated` is discount 0; `truncated` ends the episode with discount 1."""

    def __init__(self, task, environment):
        fields = list(_space_fields(environment.observation_space, ()))
        super().__init__(task, environment, fields, _space_actions(environment.action_space))

    def reset(self, seed):
        observation, _ = self._environment.reset(seed=None if seed is None else seed % 2**32)
        return self._flat(observation)

    def step(self, action):
        observation, reward, terminated, truncated, _ = self._environment.step(self._actions.take(action))
        discount = 0.0 if terminated else 1.0
        return self._flat(observation), float(reward), discount, bool(terminated or truncated)

    def frame(self, _width, _height, camera):
        """What the environment draws, in its own size: width, height, and rows of red, green, blue."""
        mode = getattr(self._environment, "render_mode", None)
        if mode != "rgb_array":
            raise ValueError(
                f"expected an environment with render_mode 'rgb_array' for a picture, got {mode!r}; a function that "
                "takes render_mode is given it"
            )
        if camera is not None:
            raise ValueError(f"expected no camera, which the environment chooses itself, got {camera!r}")
        return _picture(self._environment.render())


def _picture(pixels):
    pixels = np.ascontiguousarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"expected a picture of uint8 [height, width, 3], got {pixels.dtype} {list(pixels.shape)}")
    height, width, _ = pixels.shape
    return width, height, pixels.tobytes()


class _Vector(_Adapter):
    """Gymnasium's `VectorEnv`: `count` environments that are stepped together, in each of its modes of autoreset."""

    FIRST, MID, LAST = 0.0, 1.0, 2.0

    def __init__(self, task, environment):
        fields = list(_space_fields(environment.single_observation_space, ()))
        super().__init__(task, environment, fields, _space_actions(environment.single_action_space))
        self.count = int(environment.num_envs)
        mode = self._metadata("autoreset_mode") or "NextStep"
        self._mode = getattr(mode, "value", mode)
        if self._mode not in ("NextStep", "SameStep", "Disabled"):
            raise ValueError(
                "expected metadata['autoreset_mode'] of gymnasium.vector.AutoresetMode, which says when an environment "
                f"of the vector begins anew, got {mode!r}"
            )
        # Which begin anew with the next step, whatever their action is.
        self._ended = np.zeros(self.count, bool)

    def reset(self, seed):
        """float64 `[count, size]`."""
        observation, _ = self._environment.reset(seed=None if seed is None else seed % 2**32)
        self._ended[:] = False
        return self._rows(observation)

    def step(self, actions):
        """Carries out float64 `[count, action_size]`. Answers what each environment has come to: observations
        `[count, size]`, rewards, discounts and kinds of step `[count]`, and, where those that end begin anew with
        the same step, the observations they begin with, else None.
        """
        observation, reward, terminated, truncated, infos = self._environment.step(self._actions.take_rows(actions))
        rows = self._rows(observation)
        ends = np.logical_or(terminated, truncated)
        kinds = np.where(self._ended, self.FIRST, np.where(ends, self.LAST, self.MID))
        first = None
        if self._mode == "NextStep":
            self._ended = ends & ~self._ended
        elif ends.any():
            if self._mode == "SameStep":
                first, rows = rows, rows.copy()
                for at in np.flatnonzero(ends):
                    rows[at] = self._flat(infos["final_obs"][at])
            else:
                again, _ = self._environment.reset(options={"reset_mask": ends})
                first = self._rows(again)
        return (
            rows,
            np.array(reward, np.float64).reshape(self.count),
            np.where(terminated, 0.0, 1.0),
            kinds,
            first,
        )

    def _rows(self, observation):
        parts = [field.rows(field.within(observation), self.count) for field in self._fields]
        # A copy: a vector may write its next observations into the same array.
        return np.concatenate(parts, axis=1, dtype=np.float64)


class _DmEnv(_Adapter):
    """dm_env: the discount is the environment's own."""

    def __init__(self, task, environment):
        fields = list(_spec_fields(environment.observation_spec(), ()))
        super().__init__(task, environment, fields, _spec_actions(environment.action_spec()))

    def reset(self, seed):
        if seed is not None:
            self._seed(seed % 2**32)
        return self._flat(self._environment.reset().observation)

    def step(self, action):
        step = self._environment.step(self._actions.take(action))
        if step.first():
            raise ValueError("the environment began another episode in the middle of one")
        return self._flat(step.observation), float(step.reward), float(step.discount), step.last()

    def frame(self, width, height, camera):
        """As dm_control draws it: width, height, and rows of red, green, blue."""
        physics = getattr(self._environment, "physics", None)
        if physics is None:
            raise ValueError("expected dm_control's physics for a picture, which the environment does not have")
        return _picture(physics.render(height=height, width=width, camera_id=0 if camera is None else camera))

    def _seed(self, seed):
        """dm_env knows no seeds; dm_control's tasks keep their generator here."""
        task = getattr(self._environment, "task", None)
        if isinstance(getattr(task, "_random", None), np.random.RandomState):
            task._random = np.random.RandomState(seed)

    def _timestep(self):
        timestep = getattr(self._environment, "control_timestep", None)
        return float(timestep()) if callable(timestep) else 0.0

    def _step_limit(self):
        limit = getattr(self._environment, "_step_limit", float("inf"))
        return int(np.ceil(limit)) if np.isfinite(limit) else None


class _Field:
    """One array of an observation; `keys` lead to it from the whole, `choices` is the size of a one-hot one."""

    def __init__(self, keys, shape, choices=None):
        self.keys = keys
        self.name = "/".join(str(key) for key in keys) or "observation"
        self.shape = tuple(shape)
        self.size = choices or int(np.prod(self.shape))
        self._choices = choices
        if self.size == 0:
            raise ValueError(f"observation {self.name!r}: expected at least one value")

    def within(self, observation):
        for key in self.keys:
            observation = observation[key]
        return observation

    def flat(self, values):
        if self._choices is not None:
            return np.eye(self._choices)[int(values)]
        values = np.asarray(values, dtype=np.float64)
        if values.shape != self.shape:
            raise ValueError(
                f"observation {self.name!r}: expected shape {list(self.shape)}, got {list(values.shape)}"
            )
        return np.ascontiguousarray(values).reshape(-1)

    def rows(self, values, count):
        """Of `count` environments at once, `[count, size]`."""
        values = np.asarray(values)
        if values.shape != (count, *self.shape):
            raise ValueError(
                f"observation {self.name!r}: expected shape {[count, *self.shape]}, got {list(values.shape)}"
            )
        if self._choices is not None:
            return np.eye(self._choices)[values.astype(np.int64)]
        return values.reshape(count, -1)


def _space_fields(space, keys):
    kind = type(space).__name__
    if kind == "Dict":
        for key, part in space.spaces.items():
            yield from _space_fields(part, (*keys, key))
    elif kind == "Tuple":
        for index, part in enumerate(space.spaces):
            yield from _space_fields(part, (*keys, index))
    elif kind == "Discrete" and int(space.start) == 0:
        yield _Field(keys, (), choices=int(space.n))
    elif kind in ("Box", "MultiBinary", "MultiDiscrete"):
        yield _Field(keys, space.shape)
    else:
        raise ValueError(f"observations: expected Box, Discrete, or a Dict or Tuple of them, got {space}")


def _spec_fields(spec, keys):
    if hasattr(spec, "items"):
        for key, part in spec.items():
            yield from _spec_fields(part, (*keys, key))
    else:
        yield _Field(keys, spec.shape)


class _Actions:
    """Bounds of the flat action, and the way back to the environment's own; `choices` of each dimension, where it
    is made of choices.
    """

    def __init__(self, minimum, maximum, shape, dtype, choices=None):
        self.minimum = np.asarray(minimum, dtype=np.float64).reshape(-1).tolist()
        self.maximum = np.asarray(maximum, dtype=np.float64).reshape(-1).tolist()
        self.choices = choices
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._whole = self._dtype.kind in "iu"
        if not self.minimum:
            raise ValueError("actions: expected at least one dimension")
        bounds = [*self.minimum, *self.maximum]
        if not np.isfinite(bounds).all() or max(map(abs, bounds)) >= 1e10:
            raise ValueError(
                "actions: expected finite bounds, since policies act between them, got "
                f"{self.minimum} to {self.maximum}; wrap the environment, for example in "
                "gymnasium.wrappers.RescaleAction, so that it says what it takes"
            )

    def take(self, action):
        if self._whole:
            action = np.rint(action)
        action = action.astype(self._dtype).reshape(self._shape)
        return action

    def take_rows(self, actions):
        """Of several environments, float64 `[count, action_size]`, as their vector takes them."""
        if self._whole:
            actions = np.rint(actions)
        return actions.astype(self._dtype).reshape(-1, *self._shape)


class _Choice(_Actions):
    """One choice, which Gymnasium wants as a number."""

    def take(self, action):
        return self._dtype.type(round(float(action[0])))


def _space_actions(space):
    kind = type(space).__name__
    if kind == "Box":
        return _Actions(space.low, space.high, space.shape, space.dtype)
    if kind == "Discrete":
        first, choices = int(space.start), int(space.n)
        return _Choice([first], [first + choices - 1], (), space.dtype, _at_least_two(choices))
    if kind in ("MultiDiscrete", "MultiBinary"):
        each = np.broadcast_to(space.nvec if kind == "MultiDiscrete" else 2, space.shape)
        if (each != each.flat[0]).any():
            raise ValueError(f"actions: expected as many choices in each dimension, got {each.tolist()}")
        choices = _at_least_two(int(each.flat[0]))
        return _Actions(np.zeros(space.shape), each - 1, space.shape, space.dtype, choices)
    raise ValueError(f"actions: expected Box, Discrete, MultiDiscrete or MultiBinary, got {space}")


def _at_least_two(choices):
    if choices < 2:
        raise ValueError(f"actions: expected at least two choices, got {choices}")
    return choices


def _spec_actions(spec):
    if hasattr(spec, "num_values"):
        return _Choice([0], [spec.num_values - 1], (), spec.dtype, _at_least_two(int(spec.num_values)))
    minimum = getattr(spec, "minimum", -np.inf)
    maximum = getattr(spec, "maximum", np.inf)
    bounds = (np.broadcast_to(bound, spec.shape) for bound in (minimum, maximum))
    return _Actions(*bounds, spec.shape, spec.dtype)
