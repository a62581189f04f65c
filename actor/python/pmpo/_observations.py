"""Observations as environments give them, as the arrays that the native side takes."""

from collections.abc import Mapping

import numpy as np


def flatten(observation, fields):
    """One array of float64, `[size]` or `[batch, size]`, of an observation or a batch of them.

    Args:
        observation: an array or lists of numbers, or a mapping from the names of `fields` to arrays; names
            such as `arm/angle` are of the mapping `arm` within it, and of a tuple the names are numbers.
        fields: name and number of values of each field, in order.

    Raises:
        ValueError: a field is not there, or has another number of values.
    """
    numbered = isinstance(observation, (tuple, list)) and fields[0][0].partition("/")[0] == "0"
    if not isinstance(observation, Mapping) and not numbered:
        if len(fields) == 1:
            return _rows(observation, fields[0][1], fields[0][0])
        return np.ascontiguousarray(observation, dtype=np.float64)
    parts = [_rows(_find(observation, name), size, name) for name, size in fields]
    return np.ascontiguousarray(np.concatenate(parts, axis=-1))


def _find(observation, name):
    if isinstance(observation, Mapping) and name in observation:
        return observation[name]
    head, _, rest = name.partition("/")
    try:
        part = observation[head] if isinstance(observation, Mapping) else observation[int(head)]
    except (KeyError, IndexError, TypeError, ValueError):
        raise ValueError(f"observation: expected a field {name!r}, which is not there") from None
    return _find(part, rest) if rest else part


def _rows(values, size, name):
    values = np.asarray(values, dtype=np.float64)
    if values.size == size:
        return values.reshape(size)
    if values.ndim > 0 and values.size == len(values) * size:
        return values.reshape(len(values), size)
    raise ValueError(
        f"observation: expected {size} values of {name!r}, or a batch of them, got shape {list(values.shape)}"
    )
