"""The command `pmpo`."""

import signal
import sys

from pmpo import _mujoco, _native


def run(*role):
    """Runs the command with `role` and this process's arguments, and ends with its exit code."""
    _mujoco.name_files()
    # An interpreter hears of an interrupt between two of its own steps, of which there are none from here on.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_native.command(["pmpo", *role, *sys.argv[1:]], [sys.executable, "-m", "pmpo"]))


def main():
    """What the script `pmpo` runs."""
    run()


if __name__ == "__main__":
    main()
