"""A replay for other learners: the product's server and client.

    with Server([Table("replay", limiter="min_size", min_size_to_sample=1)]) as server:
        client = Client(server.address)
        with client.writer("replay") as writer:
            writer.append({"observation": observation, "action": action, "reward": reward})
        for batch in client.sampler("replay", batch_size=256):
            batch.data["observation"]        # [256, ...], a NumPy array

A table keeps items. With `sequence_length` 1 an item is a step; with more it is the `sequence_length` steps that end
with the newest when `Writer.create_item` is called, or as many as that says where there is a `min_sequence_length`.

All that waits lets other threads run and ends at an interrupt. Servers, clients, writers and samplers are of the
process that made them: in one that was forked from it they raise `Forked`. A `Client` can be pickled, and so handed to
processes that are started with the method "spawn".
"""

import dataclasses
import json
from typing import Mapping, NamedTuple, Optional, Tuple

import numpy as np

from pmpo._native import Batch, Client, Sampler, Server, Writer

__all__ = [
    "Batch",
    "Blocked",
    "Client",
    "Column",
    "Forked",
    "Refused",
    "ReplayError",
    "Sampler",
    "Server",
    "Table",
    "TableInfo",
    "Unavailable",
    "Waiting",
    "Writer",
]


@dataclasses.dataclass(frozen=True)
class Table:
    """What a table holds, how it is drawn from and when callers wait; None: the server's default.

    The limiter "samples_per_insert" makes both sides wait so that each item is drawn so often on average, once
    `min_size_to_sample` are held; "min_size" only makes samplers wait for those; "queue" makes writers wait while
    `max_size` items are held; "none" makes samplers wait for the first item alone.
    """

    name: str
    sequence_length: Optional[int] = None  # 1; steps of an item
    max_size: Optional[int] = None  # 1,000,000 items; beyond it, each insert removes one
    max_bytes: Optional[int] = None  # 0, no bound; of the steps held
    max_times_sampled: Optional[int] = None  # 0, no bound; an item drawn so often is removed
    sampler: Optional[str] = None  # uniform, prioritized, age_weighted, fifo, lifo, max_heap or min_heap
    remover: Optional[str] = None  # fifo; of the same
    priority_exponent: Optional[float] = None  # 0.6; of prioritized
    age_decay: Optional[float] = None  # 0.9999; of age_weighted
    age_floor: Optional[float] = None  # 0.1
    limiter: Optional[str] = None  # samples_per_insert, min_size, queue or none
    samples_per_insert: Optional[float] = None  # 16
    min_size_to_sample: Optional[int] = None  # 1,000
    error_buffer: Optional[float] = None  # a tenth of min_size_to_sample * samples_per_insert, or a batch's
    max_batch_size: Optional[int] = None  # 4,096
    max_writers: Optional[int] = None  # 16,384 whose numbers are remembered
    min_sequence_length: Optional[int] = None  # sequence_length; the fewest, where items have lengths of their own


class Column(NamedTuple):
    """A column of a step: a dtype by its name in NumPy, and a shape without axes of batch and time."""

    dtype: str
    shape: Tuple[int, ...] = ()
    allow_nonfinite: bool = False


class Waiting(NamedTuple):
    """Callers whom a table makes wait: for what, and which counter has to reach which bound."""

    reason: str  # "min_size" or "inserts": samplers wait; "samples": writers
    counter: str
    value: float
    bound: float
    seconds: float
    callers: int


@dataclasses.dataclass(frozen=True)
class TableInfo:
    """A table as it is now."""

    config: Table  # nothing of it is None
    signature: Optional[Mapping[str, Column]]  # None until a step was stored
    size: int  # items held
    inserts: int  # items ever inserted
    samples: int  # items ever sampled
    bytes: int  # of the steps held
    durable: bool  # outlives the server
    blocked: Tuple[Waiting, ...]


class ReplayError(Exception):
    """What the others are, too."""


class Refused(ReplayError):
    """The server will not do it, however often it is asked; `code` is gRPC's, for instance "not_found"."""

    def __init__(self, message: str, code: str):
        super().__init__(message)
        self.code = code


class Unavailable(ReplayError, ConnectionError):
    """The server has not answered within the client's timeout."""


class Forked(ReplayError):
    """Used in a process that was forked from the one that made it."""


class Blocked(ReplayError, TimeoutError):
    """The rate limiter has made the caller wait for longer than its timeout.

    `reason` is "min_size" or "inserts" of samplers, and "samples" of writers; `value` is that of the `counter` in the
    way, and `bound` what it has to reach.
    """

    def __init__(self, message: str, reason: str, counter: str, value: float, bound: float, seconds: float):
        super().__init__(message)
        self.reason = reason
        self.counter = counter
        self.value = value
        self.bound = bound
        self.seconds = seconds


def _configuration(tables, config):
    """The section `[replay]` as JSON."""
    tables = [_said(table, "tables") for table in tables]
    if not tables:
        raise ValueError("tables: expected at least one, got none")
    return json.dumps({**(config or {}), "table": tables[0], "tables": tables[1:]})


def _table(table):
    """A table's configuration as JSON."""
    return json.dumps(_said(table, "table"))


def _said(table, field):
    """What a table says of itself."""
    if not isinstance(table, Table):
        raise TypeError(f"{field}: expected pmpo.replay.Table, got {type(table).__name__}")
    return {key: value for key, value in dataclasses.asdict(table).items() if value is not None}


def _columns(given):
    """Name, dtype, shape and whether it may hold NaN of each column that is described, or of each value of a step."""
    columns = []
    for name, value in given.items():
        if isinstance(value, Mapping):
            raise ValueError(f"column `{name}`: expected an array, got a mapping: name its parts `{name}/...`")
        if isinstance(value, Column):
            dtype, shape, allow_nonfinite = value
        else:
            described = value if hasattr(value, "dtype") and hasattr(value, "shape") else np.asarray(value)
            dtype, shape, allow_nonfinite = described.dtype, described.shape, False
        # PyTorch's are `torch.float32`.
        dtype = str(dtype).rpartition(".")[2] if not isinstance(dtype, type) else np.dtype(dtype).name
        columns.append((name, dtype, [int(axis) for axis in shape], allow_nonfinite))
    return columns


def _array(value, name, dtype, shape):
    """A value as an array of the column's dtype and shape."""
    if dtype == "bfloat16":
        import ml_dtypes

        array = np.asarray(value, ml_dtypes.bfloat16).view(np.uint16)
    else:
        array = np.asarray(value)
        if type(value) is int and np.dtype(dtype).kind in "iu" and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
            array = np.asarray(value, dtype)
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise ValueError(f"step: column `{name}`: expected {dtype}, got {array.dtype}")
        with np.errstate(over="ignore"):
            array = array.astype(dtype, order="C", copy=False)
    if array.shape != tuple(shape):
        raise ValueError(f"step: column `{name}`: expected the shape {tuple(shape)}, got {array.shape}")
    return np.ascontiguousarray(array).reshape(shape)


def _bfloat16(bits):
    """Bits as numbers, where there is what knows them."""
    try:
        import ml_dtypes
    except ImportError:
        return bits
    return bits.view(ml_dtypes.bfloat16)


def _flat(values, field, dtype):
    """Keys or priorities as an array `[items]`."""
    array = np.asarray(values)
    kinds = "iu" if dtype == "uint64" else "iuf"
    if array.ndim != 1 or not (array.size == 0 or array.dtype.kind in kinds):
        raise ValueError(f"{field}: expected {dtype} [items], got {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array, dtype)
