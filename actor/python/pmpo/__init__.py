"""Distributed actor-learner reinforcement learning with PMPO.

`train` trains in environments by name, or in one of your own; `Policy.load` reads what a run has learned. The command
`pmpo` (also `python -m pmpo`) is the whole system.
"""

from pmpo._native import Generator, Policy, __version__
from pmpo._training import Result, train

__all__ = ["Generator", "Policy", "Result", "__version__", "train"]
