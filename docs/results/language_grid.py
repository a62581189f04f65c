#!/usr/bin/env python3
"""The grid over alpha and beta of docs/results/language.md, from nothing to its tables. Usage:

    python3 docs/results/language_grid.py PMPO FOLDER [SEEDS [JOBS]]

Makes the small model over the grammar, trains it with each setting, and prints a table of held-out reward, share of
completions that are of the grammar, and their product. Runs that are there already are not run again.
"""

import concurrent.futures
import csv
import pathlib
import statistics
import subprocess
import sys

BETAS = [0, 0.25, 0.5, 1, 1.5]
METHODS = [("A + R", 0.5), ("A", 1.0), ("R", 0.0)]
REFERENCES = [("the first model", 0), ("a copy each 25 steps", 25)]
DPO = [0.1, 0.5, 1]
COMMON = ["--prompts", "grammar", "--max-steps", "150", "--set", "lm.learning_rate=1e-3",
          "--set", "lm.prompts_per_step=32", "--set", "lm.eval_steps=50", "--set", "lm.save_steps=150",
          "--set", "lm.eval_completions=200", "--set", "lm.max_completion_length=20"]


def configurations():
    for reference, period in REFERENCES:
        for name, alpha in METHODS:
            for beta in BETAS:
                yield reference, name, beta, ["pmpo", alpha, beta, period]
        for beta in DPO:
            yield reference, "DPO", beta, ["dpo", 0.5, beta, period]


def train(folder, settings, seed):
    loss, alpha, beta, period = settings
    run = folder / f"{loss}-{alpha}-{beta}-{period}-{seed}"
    if not (run / "done").exists():
        subprocess.run(["rm", "-rf", run], check=True)
        keys = {"loss_type": f'"{loss}"', "alpha": float(alpha), "beta": float(beta),
                "ref_model_sync_steps": period}
        flags = [flag for key, value in keys.items() for flag in ("--set", f"lm.{key}={value}")]
        subprocess.run([PMPO, "lm", "train", "--model", folder / "model", "--run-dir", run, "--seed", str(seed),
                        *COMMON, *flags], check=True, stdout=subprocess.DEVNULL)
        (run / "done").touch()
    rows = list(csv.DictReader(open(run / "progress.csv")))
    last = rows[-1]
    reward, parses = float(last["eval_return_mean"]), float(last["eval_parses"])
    return reward, parses, reward * parses


def main():
    folder = pathlib.Path(sys.argv[2])
    seeds = range(1, 1 + int(sys.argv[3] if len(sys.argv) > 3 else 1))
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        subprocess.run([PMPO, "lm", "grammar", folder / "model", "--steps", "800"], check=True)
    with concurrent.futures.ThreadPoolExecutor(int(sys.argv[4] if len(sys.argv) > 4 else 2)) as pool:
        asked = [(reference, name, beta, [pool.submit(train, folder, settings, seed) for seed in seeds])
                 for reference, name, beta, settings in configurations()]
        print("| reference | method | beta | reward | parses | reward x parses, mean | its spread |")
        print("|---|---|---|---|---|---|---|")
        for reference, name, beta, futures in asked:
            results = [future.result() for future in futures]
            reward, parses, gold = (statistics.mean(column) for column in zip(*results))
            golds = [result[2] for result in results]
            print(f"| {reference} | {name} | {beta} | {reward:.2f} | {parses:.2f} | {gold:.2f} "
                  f"| {min(golds):.2f} to {max(golds):.2f} |", flush=True)


if __name__ == "__main__":
    PMPO = sys.argv[1]
    main()
