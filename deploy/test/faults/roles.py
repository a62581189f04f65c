"""Roles as processes, watched from outside: what the proofs of faults share. Standard library only.

What is counted, and why it proves something: each environment of an actor has a writer with a random id
that numbers its items from 0. The actor logs the id when the writer begins, and when it ends how many
items were acknowledged and how many steps were not; while it lives, /metrics holds the process's sum. The
replay lists for each writer how many of its numbers are stored, and how many items were ever inserted.
"""

import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

ACKNOWLEDGED = "pmpo_replay_client_acknowledged_steps_total"
UPDATES = "pmpo_learner_updates_total"
VERSION = "pmpo_learner_policy_version"
ACTOR_VERSION = "pmpo_actor_policy_version"
ACTOR_STEPS = "pmpo_actor_policy_learner_steps"
REGRESSIONS = "pmpo_actor_version_regressions_total"

# Small networks and batches, so that the machine has time for faults, and a table that is full at once.
SETTINGS = [
    "policy.torso.hidden_sizes=[32, 32]", "critic.torso.hidden_sizes=[32, 32]",
    "update.batch_size=64",
    "learner.checkpoint_period_s=10.0",
    "learner.lease_s=5.0",
    "replay.table.samples_per_insert=16.0",
    "replay.table.max_size=20000",
    "evaluator.episodes=2",
    "evaluator.period_learner_steps=2000",
    "actor.shutdown_grace_s=10.0",
    "actor.environments=2",
]


class Process:
    """One life of a role."""

    def __init__(self, popen, announcement):
        self.popen = popen
        self.announcement = announcement
        self.metrics = None
        # The newest scrape.
        self.seen = {}

    @property
    def pid(self):
        return self.popen.pid

    def address(self):
        """Where its metrics are; None until it has said so."""
        if self.metrics is None and self.announcement.exists():
            try:
                self.metrics = json.loads(self.announcement.read_text())["metrics"]
            except ValueError:
                return None
        return self.metrics

    def scrape(self, timeout=2.0):
        """All series; None where it does not answer."""
        address = self.address()
        if address is None:
            return None
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=timeout) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        series = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                key, value = line.rsplit(" ", 1)
                series[key] = float(value)
        self.seen = series
        return series

    def rss_mb(self):
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Role:
    """A role with its command line, started as often as it takes."""

    def __init__(self, folder, name, command, prefix=()):
        self.folder, self.name = Path(folder), name
        self.command, self.prefix = list(command), list(prefix)
        self.lives = []
        self.peak_mb = 0.0

    @property
    def log(self):
        return self.folder / f"{self.name}.log"

    @property
    def now(self):
        return self.lives[-1]

    def start(self):
        announcement = self.folder / f"{self.name}-{len(self.lives)}.json"
        flags = ["--announce", str(announcement), "--log-format", "json"]
        with open(self.log, "a") as log:
            popen = subprocess.Popen(
                self.prefix + self.command + flags,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self.lives.append(Process(popen, announcement))

    def sample(self):
        self.now.scrape()
        self.peak_mb = max(self.peak_mb, self.now.rss_mb())
        return self.now.seen

    def stop(self, timeout=60):
        """Its exit code after SIGTERM."""
        if self.now.popen.poll() is None:
            self.now.popen.send_signal(signal.SIGTERM)
        try:
            return self.now.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.now.popen.kill()
            return "killed after the grace period"


def settings():
    return [flag for setting in SETTINGS for flag in ("--set", setting)]


def total(series, name, label=""):
    """The sum of a metric's series."""
    found = [v for key, v in series.items() if re.split(r"[ {]", key)[0] == name and label in key]
    return sum(found)


def wait_until(what, holds, seconds):
    """How long it took until `holds`; ends the proof where it takes longer."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.2)
    return time.monotonic() - start


def events(role):
    """The events of a role's log, over all its lives."""
    if not role.log.exists():
        return
    for line in role.log.read_text(errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def writers_of(pmpo, replay, prefix=()):
    """({writer: items stored}, items inserted) by the replay's own account."""
    command = list(prefix) + [pmpo, "tables", "--writers", "--replay", replay]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    stored = {w: int(n) for w, n in re.findall(r"writer ([0-9a-f]{32}): (\d+) steps", text)}
    inserts = int(re.search(r"(\d+) items inserted", text).group(1))
    return stored, inserts


class Verdict:
    """Findings, and whether all of them are good."""

    def __init__(self):
        self.rows = []

    def check(self, what, good, value):
        self.rows.append((what, bool(good), str(value)))

    def good(self):
        return all(good for _, good, _ in self.rows)

    def show(self):
        width = max(len(what) for what, _, _ in self.rows)
        for what, good, value in self.rows:
            print(f"  {'ok  ' if good else 'FAIL'}  {what:<{width}}  {value}")
        print("all hold" if self.good() else "VIOLATED")


def carry_out(proof):
    """Runs a proof to its end, shows what it found, and answers the exit code."""
    try:
        proof.prove()
    except (TimeoutError, subprocess.SubprocessError) as error:
        proof.verdict.check("the proof ran to its end", False, error)
    finally:
        proof.end()
    proof.verdict.show()
    if not proof.verdict.good():
        for role in proof.roles.values():
            print(f"--- {role.name}", *role.log.read_text().splitlines()[-5:], sep="\n")
    return 0 if proof.verdict.good() else 1


def account(verdict, actors, stored, inserts):
    """Acknowledged against stored. Call it once the actors have ended."""
    owner, ended = {}, {}
    for actor in actors:
        for event in events(actor):
            if event.get("message") == "writer begins":
                owner[event["writer"]] = actor.name
            if event.get("message") == "writer ended":
                ended[event["writer"]] = event
    numbered = sum(stored.values())
    verdict.check("items inserted = numbers stored, so none is doubled", inserts == numbered,
                  f"{inserts:,} = {numbered:,} over {len(stored)} writers")
    strangers = [writer for writer in stored if writer not in owner]
    verdict.check("every writer is known", not strangers, f"{len(strangers)} unknown")
    lost = extra = acknowledged = exact = 0
    for writer, event in ended.items():
        known, open_steps = event["acknowledged_items"], event["unacknowledged_steps"]
        has = stored.get(writer, 0)
        acknowledged += known
        lost += max(0, known - has)
        extra += max(0, has - known - open_steps)
        exact += open_steps == 0 and known == has
    verdict.check("writers that ended: acknowledged and lost", lost == 0,
                  f"{acknowledged:,} acknowledged, {lost} lost")
    verdict.check("writers that ended: stored and never sent", extra == 0, f"{extra} too many")
    whole = sum(event["unacknowledged_steps"] == 0 for event in ended.values())
    verdict.check("writers that ended with nothing open: acknowledged = stored", exact == whole,
                  f"{exact} of {whole} writers to the item")
    # A process that was killed: what it was last seen to have acknowledged, over its writers.
    killed = last = 0
    for actor in actors:
        begun = [w for w, name in owner.items() if name == actor.name and w not in ended]
        seen = sum(int(total(life.seen, ACKNOWLEDGED)) for life in actor.lives
                   if life.popen.returncode == -signal.SIGKILL)
        has = sum(stored.get(writer, 0) for writer in begun)
        killed += max(0, seen - has)
        last += seen
    verdict.check("actors that were killed: acknowledged when last seen and lost", killed == 0,
                  f"{last:,} acknowledged, {killed} lost")


class Sampler(threading.Thread):
    """Looks at all roles every half second."""

    def __init__(self, roles, each=lambda role, series: None):
        super().__init__(daemon=True)
        self.roles, self.each = roles, each
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(0.5):
            for role in self.roles:
                if role.lives and role.now.popen.poll() is None:
                    self.each(role, role.sample())

    def stop(self):
        self.over.set()
        self.join()
