"""The command `pmpo`."""

import sys

from pmpo import _mujoco, _native


def main():
    """Runs the command with this process's arguments, and ends with its exit code."""
    _mujoco.name_files()
    sys.exit(_native.command(["pmpo", *sys.argv[1:]], [sys.executable, "-m", "pmpo"]))


if __name__ == "__main__":
    main()
