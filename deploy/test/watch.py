"""The page of a run in a real browser, and its event files in the real TensorBoard: `make test-watch`.

A run in lockstep has ended; another, a whole cluster, goes on and serves the page. What a user would look at
is looked for, the console must have nothing to complain of, and the pictures stay in target/watch for people
to look at. Then the run is stopped, gone on with, and TensorBoard must find one curve without a step twice.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from browser import INSTALL, Browser, program

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "target/watch"
PMPO = Path(os.environ.get("PMPO", ROOT / "target/release/pmpo"))
LAPTOP = (1440, 900)

# Small, so that evaluations and checkpoints come every few seconds.
SETTINGS = [
    "policy.torso.hidden_sizes=[64, 64]", "critic.torso.hidden_sizes=[64, 64]", "update.batch_size=64",
    "replay.table.min_size_to_sample=500", "learner.checkpoint_period_s=2.0",
    "evaluator.period_learner_steps=300", "evaluator.episodes=3",
]
# What a folder of runs may hold that wants to be more than text.
HOSTILE = "<img src=x onerror=document.title='hostile'>"


def train(run_dir, *flags):
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [PMPO, "train", "--run-dir", run_dir, *settings, *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def url_of(run):
    for line in run.stdout:
        if " at http://" in line:
            return line.split(" at ")[1].strip()
    raise RuntimeError("the run said no address")


def end(run):
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=120)[0]
    assert run.returncode == 0, said


def look(browser, url):
    """A page that goes on; answers nothing, raises what is missing."""
    browser.open(url)
    browser.wait("document.querySelectorAll('#curve circle').length >= 3", "three evaluations in the curve")
    browser.wait("document.querySelector('#state').textContent === 'running'", "a run that goes on")
    browser.wait("document.querySelectorAll('#stations .station').length === 3", "the time of three roles")
    browser.wait("document.querySelectorAll('#system polyline').length >= 6", "rates, lag and replay")
    browser.wait("document.querySelectorAll('#update polyline').length >= 6", "losses")
    assert browser.value("document.querySelector('#waits').textContent.length > 20")
    keys = browser.value("document.querySelectorAll('#config tr').length")
    assert keys > 50, f"{keys} keys of the configuration"
    browser.wait("document.querySelector('#film img')?.naturalWidth === 320", "a film")


def compare(browser):
    """The other run beside this one, on every axis, under the pointer."""
    browser.value("[...document.querySelectorAll('#runs li')].find((li) => li.innerText.startsWith('ended-run')).querySelector('input').click()")
    browser.wait("document.querySelectorAll('#curve polyline').length === 2", "two curves")
    for axis, label in [("learner", "learner steps"), ("time", "time"), ("steps", "environment steps")]:
        browser.value(f"document.querySelector('[data-axis={axis}]').click()")
        found = browser.value("[...document.querySelectorAll('#curve text')].at(-1).textContent")
        assert found == label, found
    box = browser.value("(({x, y, width, height}) => [x + width / 2, y + height / 2])(document.querySelector('#curve svg').getBoundingClientRect())")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    tip = browser.wait("document.querySelector('#curve .tip')?.innerText", "what is under the pointer")
    assert "ended-run" in tip and "going-run" in tip, tip
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    browser.value("document.querySelector('#only').click()")
    found = browser.value("[...document.querySelectorAll('#config td:first-child')].map((cell) => cell.textContent)")
    assert "run.seed" in found and len(found) < 10, found
    browser.value("document.querySelector('#only').click()")


def pictures(browser):
    PICTURES.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        browser.value("window.scrollTo(0, 0)")
        browser.picture(PICTURES / f"{scheme}.png")
    browser.size(LAPTOP[0], browser.value("document.documentElement.scrollHeight"))
    browser.wait("document.querySelectorAll('#curve polyline').length === 2", "the curves again")
    browser.picture(PICTURES / "whole.png")
    browser.size(*LAPTOP)


def watch(runs):
    lockstep = train(runs / "ended-run", "cartpole-swingup", "--lockstep", "--seed", "1", "--learner-steps", "900")
    assert lockstep.wait(timeout=300) == 0
    hostile = runs / HOSTILE
    hostile.mkdir()
    (hostile / "config.toml").write_text(f'[run]\ntask = "{HOSTILE}"\n')
    run = train(runs / "going-run", "cartpole-swingup", "--seed", "2")
    try:
        with Browser(*LAPTOP) as browser:
            look(browser, url_of(run))
            compare(browser)
            pictures(browser)
            named = browser.value("document.querySelector('#runs').innerText")
            assert HOSTILE in named, named
            assert browser.value("document.querySelectorAll('#runs img').length") == 0
            assert browser.value("document.title") == "going-run · PMPO"
            assert browser.problems == [], browser.problems
            run.send_signal(signal.SIGINT)
            browser.wait("document.querySelector('#state').textContent === 'ended'", "the end")
            assert browser.value("document.querySelector('#sentence').textContent").startswith("stopped after")
            browser.wait("document.querySelector('#link').textContent.startsWith('the run has ended')", "that the page is gone")
            browser.picture(PICTURES / "end.png")
    finally:
        end(run)


def tensorboard(run_dir):
    """What TensorBoard finds of a run that was stopped and gone on with."""
    steps = list(csv.DictReader((run_dir / "progress.csv").open()))[-1]["learner_steps"]
    resumed = train(run_dir, "--resume", "--learner-steps", str(int(steps) + 1500))
    assert resumed.wait(timeout=300) == 0
    python = ROOT / "third_party/venv-tensorboard/bin/python"
    reader = Path(__file__).with_name("tensorboard_read.py")
    read = subprocess.run([python, reader, run_dir / "tensorboard"], capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    series = json.loads(read.stdout)
    files = list((run_dir / "tensorboard").iterdir())
    assert len(files) == 2, files
    rows = [(int(row["env_steps"]), float(row["eval_return_mean"])) for row in csv.DictReader((run_dir / "progress.csv").open())]
    found = series["evaluation/return_mean"]
    assert [step for step, _ in found] == [step for step, _ in rows], (found, rows)
    for (_, value), (_, mean) in zip(found, rows):
        assert abs(value - mean) <= 1e-5 * max(1, abs(mean)), (value, mean)
    for tag in ("rate/environment_steps_per_s", "steps/learner", "update/critic_loss", "policy/lag_mean_versions"):
        steps = [step for step, _ in series[tag]]
        assert steps == sorted(steps) and len(steps) > 3, (tag, steps)
    return len(series), len(rows)


def main():
    if program() is None:
        sys.exit(f"watch.py: no browser: {INSTALL}")
    if not PMPO.is_file():
        sys.exit(f"watch.py: {PMPO} is missing: make build")
    subprocess.run([ROOT / "deploy/setup/venv.sh", "tensorboard", "tensorboard==2.21.0"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        runs.mkdir()
        watch(runs)
        print(f"the page: curve, shares, rates, losses, film, configuration, two runs, the end; pictures in {PICTURES}")
        tags, rows = tensorboard(runs / "going-run")
        print(f"TensorBoard: {tags} tags, {rows} evaluations, over a resumption")


if __name__ == "__main__":
    main()
