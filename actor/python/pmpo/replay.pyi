import dataclasses
import os
from types import TracebackType
from typing import Any, Dict, Iterable, Iterator, Mapping, NamedTuple, Optional, Tuple, Type, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Path = Union[str, "os.PathLike[str]"]

@dataclasses.dataclass(frozen=True)
class Table:
    name: str
    sequence_length: Optional[int] = None
    max_size: Optional[int] = None
    max_bytes: Optional[int] = None
    max_times_sampled: Optional[int] = None
    sampler: Optional[str] = None
    remover: Optional[str] = None
    priority_exponent: Optional[float] = None
    age_decay: Optional[float] = None
    age_floor: Optional[float] = None
    limiter: Optional[str] = None
    samples_per_insert: Optional[float] = None
    min_size_to_sample: Optional[int] = None
    error_buffer: Optional[float] = None
    max_batch_size: Optional[int] = None
    max_writers: Optional[int] = None
    min_sequence_length: Optional[int] = None

class Column(NamedTuple):
    dtype: str
    shape: Tuple[int, ...] = ()
    allow_nonfinite: bool = False

class Waiting(NamedTuple):
    reason: str
    counter: str
    value: float
    bound: float
    seconds: float
    callers: int

@dataclasses.dataclass(frozen=True)
class TableInfo:
    config: Table
    signature: Optional[Mapping[str, Column]]
    size: int
    inserts: int
    samples: int
    bytes: int
    durable: bool
    blocked: Tuple[Waiting, ...]

class ReplayError(Exception): ...

class Refused(ReplayError):
    code: str

class Unavailable(ReplayError, ConnectionError): ...
class Forked(ReplayError): ...

class Blocked(ReplayError, TimeoutError):
    reason: str
    counter: str
    value: float
    bound: float
    seconds: float

class Server:
    """A replay server in this process, on threads of its own."""

    def __init__(
        self,
        tables: Iterable[Table],
        port: Optional[int] = None,
        data_dir: Optional[_Path] = None,
        *,
        host: str = "127.0.0.1",
        config: Optional[Dict[str, Any]] = None,
        seed: int = 0,
        tls_cert: Optional[_Path] = None,
        tls_key: Optional[_Path] = None,
        tls_ca: Optional[_Path] = None,
        token_file: Optional[_Path] = None,
        insecure: bool = False,
    ) -> None: ...
    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    def stop(self) -> None: ...
    def wait(self, timeout: Optional[float] = None) -> bool: ...
    def __enter__(self) -> "Server": ...
    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        exception: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None: ...

class Client:
    """A connection to a replay server; can be pickled."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 10.0,
        tls_ca: Optional[_Path] = None,
        tls_cert: Optional[_Path] = None,
        tls_key: Optional[_Path] = None,
        token_file: Optional[_Path] = None,
        role: str = "admin",
    ) -> None: ...
    @property
    def address(self) -> str: ...
    def writer(
        self,
        table: str,
        signature: Optional[Mapping[str, Any]] = None,
        *,
        max_in_flight_steps: int = 4096,
        timeout: Optional[float] = None,
    ) -> "Writer": ...
    def sampler(
        self,
        table: str,
        batch_size: int,
        *,
        prefetch: int = 2,
        compression: str = "none",
        timeout: Optional[float] = None,
        padded: bool = True,
    ) -> "Sampler": ...
    def update_priorities(self, table: str, keys: ArrayLike, priorities: ArrayLike) -> Tuple[int, int]: ...
    def delete_items(self, table: str, keys: ArrayLike) -> Tuple[int, int]: ...
    def tables(self) -> Dict[str, TableInfo]: ...
    def configure(
        self,
        table: str,
        *,
        samples_per_insert: Optional[float] = None,
        min_size_to_sample: Optional[int] = None,
        error_buffer: Optional[float] = None,
        max_size: Optional[int] = None,
        max_bytes: Optional[int] = None,
    ) -> TableInfo: ...
    def reset(self, table: str) -> TableInfo: ...
    def create_table(self, table: Table) -> TableInfo: ...
    def checkpoint(self, keep: Optional[int] = None) -> str: ...
    def list_writers(self, table: str) -> Dict[str, int]: ...

class Writer:
    """Writes steps into a table, exactly once."""

    def append(self, step: Mapping[str, ArrayLike], priority: Optional[float] = None) -> None: ...
    def create_item(self, num_steps: Union[int, slice, None] = None, priority: Optional[float] = None) -> None: ...
    def end_episode(self) -> None: ...
    def flush(self, timeout: Optional[float] = None) -> None: ...
    def close(self, timeout: Optional[float] = None) -> None: ...
    @property
    def acknowledged_items(self) -> int: ...
    @property
    def lost_items(self) -> int: ...
    @property
    def in_flight_steps(self) -> int: ...
    def __enter__(self) -> "Writer": ...
    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        exception: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None: ...

class Sampler:
    """Draws batches from a table, ahead of their use."""

    def next(self, timeout: Optional[float] = None) -> "Batch": ...
    def update_priorities(self, keys: ArrayLike, priorities: ArrayLike) -> None: ...
    def close(self) -> None: ...
    def __iter__(self) -> Iterator["Batch"]: ...
    def __next__(self) -> "Batch": ...
    def __enter__(self) -> "Sampler": ...
    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        exception: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None: ...

class Batch:
    """Items that were drawn together; `data` is `{name: [batch_size, (sequence_length,) ...]}`."""

    @property
    def data(self) -> Dict[str, NDArray[Any]]: ...
    @property
    def lengths(self) -> Optional[NDArray[np.uint32]]: ...
    @property
    def mask(self) -> Optional[NDArray[np.bool_]]: ...
    @property
    def keys(self) -> NDArray[np.uint64]: ...
    @property
    def probabilities(self) -> NDArray[np.float64]: ...
    @property
    def priorities(self) -> Optional[NDArray[np.float64]]: ...
    @property
    def times_sampled(self) -> NDArray[np.uint32]: ...
    @property
    def size(self) -> int: ...
    @property
    def inserts(self) -> int: ...
    @property
    def samples(self) -> int: ...
