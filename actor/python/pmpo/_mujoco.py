"""Where MuJoCo's library and the Control Suite's models are, if their wheels are installed."""

import importlib.util
import os

_FOLDERS = {
    # What the native side looks for in the folder that the variable names: the wheel and a folder in it.
    "PMPO_MUJOCO": ("mujoco", "."),
    "PMPO_ASSETS": ("dm_control", "suite"),
}


def name_files():
    """Names the folders to the native side, and to the processes it starts; what is named already stays."""
    for variable, (wheel, folder) in _FOLDERS.items():
        found = importlib.util.find_spec(wheel)
        if variable not in os.environ and found is not None and found.origin is not None:
            os.environ[variable] = os.path.join(os.path.dirname(found.origin), folder)
