import os
from typing import Any, List, Mapping, Optional, Tuple, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pmpo.replay import Batch as Batch
from pmpo.replay import Client as Client
from pmpo.replay import Sampler as Sampler
from pmpo.replay import Server as Server
from pmpo.replay import Writer as Writer

__version__: str

class Generator:
    """Where the draws of actions come from: the same seed, the same draws."""

    def __init__(self, seed: int) -> None: ...

class Policy:
    """A trained policy: `policy(observation)` is its action."""

    @staticmethod
    def load(path: Union[str, "os.PathLike[str]"], checkpoint: Union[str, int, None] = None) -> "Policy": ...
    def __call__(
        self, observation: Union[ArrayLike, Mapping[str, Any]], generator: Optional[Generator] = None
    ) -> NDArray[np.float64]: ...
    @property
    def task(self) -> str: ...
    @property
    def checkpoint(self) -> str: ...
    @property
    def observation_fields(self) -> List[Tuple[str, int]]: ...
    @property
    def observation_size(self) -> int: ...
    @property
    def action_size(self) -> int: ...
    @property
    def action_minimum(self) -> NDArray[np.float64]: ...
    @property
    def action_maximum(self) -> NDArray[np.float64]: ...

def command(arguments: List[str], program: List[str]) -> int: ...
