"""`pmpo bench learner` against its JAX peer: alternating runs, and the ratios of their medians.

    python3 -m venv /tmp/jax && /tmp/jax/bin/pip install "jax[cpu]"
    cargo build --release
    python3 learner/benches/compare.py --python /tmp/jax/bin/python

Both sides may run on as many cores as they have threads. Ratios below 1 are faster than JAX. The
machine should have nothing else to do; medians over alternating runs only bear with short disturbances.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess

HERE = pathlib.Path(__file__).resolve().parent


def run(command, threads):
    cores = sorted(os.sched_getaffinity(0))[:threads]
    output = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    ).stdout
    report = json.loads(output.splitlines()[-1])
    return {
        "wall": 1e3 / report["steps_per_s"],
        "cpu": report["cpu_ms_per_step"],
        "floor": report.get("cpu_over_floor"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="python3", help="a Python with jax[cpu]")
    parser.add_argument("--pmpo", default=HERE.parent.parent / "target/release/pmpo")
    parser.add_argument("--cases", nargs="+", default=["walker", "humanoid", "large"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()

    print("| case | threads | wall ms (JAX) | ratio | CPU ms (JAX) | ratio | CPU over floor |")
    print("|---|---|---|---|---|---|---|")
    for case in arguments.cases:
        for threads in arguments.threads:
            flags = ["--case", case, "--threads", str(threads), "--seconds", str(arguments.seconds)]
            ours = [str(arguments.pmpo), "bench", "learner", "--json", *flags]
            theirs = [arguments.python, str(HERE / "jax_learner.py"), *flags]
            rounds = [(run(ours, threads), run(theirs, threads)) for _ in range(arguments.rounds)]

            def median(side, key):
                return statistics.median(both[side][key] for both in rounds)

            cells = [case, str(threads)]
            for key in ["wall", "cpu"]:
                own, peer = median(0, key), median(1, key)
                cells += [f"{own:.2f} ({peer:.2f})", f"{own / peer:.2f}"]
            cells.append(f"{median(0, 'floor'):.2f}")
            print(f"| {' | '.join(cells)} |", flush=True)


main()
