from pmpo._native import Generator as Generator
from pmpo._native import Policy as Policy

__version__: str
