from pmpo._native import Generator as Generator
from pmpo._native import Policy as Policy
from pmpo._training import Result as Result
from pmpo._training import train as train

__version__: str
