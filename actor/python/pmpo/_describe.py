"""`python -m pmpo._describe NAME`: what an environment promises, as one line of JSON."""

import sys

from pmpo import _environments


def main():
    """Loads the environment and says what it is; what cannot be is said in one line, with exit code 2."""
    (task,) = sys.argv[1:]
    try:
        described = _environments.load(task).description()
    except Exception as error:  # Whatever it raises is the caller's to know.
        text = " ".join(str(error).split())
        sys.exit(f"{task}: {type(error).__name__}: {text}")
    print(described)


if __name__ == "__main__":
    main()
