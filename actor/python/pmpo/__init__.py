"""Distributed actor-learner reinforcement learning with PMPO.

`Policy.load` reads what a run has learned; the command `pmpo` (also `python -m pmpo`) trains.
"""

from pmpo._native import Generator, Policy, __version__

__all__ = ["Generator", "Policy", "__version__"]
