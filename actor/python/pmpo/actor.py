"""`python -m pmpo.actor`: an actor, as `pmpo actor`."""

from pmpo.__main__ import run

if __name__ == "__main__":
    run("actor")
