"""The command `pmpo`."""

import sys

from pmpo import _mujoco, _native


def run(*role):
    """Runs the command with `role` and this process's arguments, and ends with its exit code."""
    _mujoco.name_files()
    sys.exit(_native.command(["pmpo", *role, *sys.argv[1:]], [sys.executable, "-m", "pmpo"]))


def main():
    """What the script `pmpo` runs."""
    run()


if __name__ == "__main__":
    main()
