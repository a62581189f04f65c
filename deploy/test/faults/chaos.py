#!/usr/bin/env python3
"""Chaos on one machine: deploy/test/faults/chaos.py [--minutes 15] [--events 30] [--seed 1]

A durable replay, a learner that resumes, three actors (one with an allotted index) and an evaluator, each a
process under a small supervisor that starts again what dies. At random moments one is killed (SIGKILL), frozen
for 1 to 20 seconds (SIGSTOP, SIGCONT) or has all its connections reset (`ss -K`; Debian: iproute2). Every kind
of fault meets every role if there are at least twelve events. Needs root, for `ss -K`. Exits 1 on a violation.
"""

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import roles

REPLAY, LEARNER = "127.0.0.1:17001", "127.0.0.1:17002"
KINDS = ["kill", "freeze", "reset"]
# Given indices out of the way of the allotted one.
ACTORS = ["actor-10", "actor-11", "actor-auto"]


def command(pmpo, folder, name):
    kind = name.split("-")[0]
    flags = {
        "replay": ["--listen", REPLAY, "--data-dir", str(folder / "data")],
        "learner": ["cartpole-swingup", "--run-dir", str(folder / "run"), "--resume=auto",
                    "--listen", LEARNER, "--replay", REPLAY],
        "actor": ["--replay", REPLAY, "--learner", LEARNER, "--index", name.split("-")[-1]],
        "evaluator": ["--learner", LEARNER],
    }[kind]
    return [pmpo, kind, *flags, *roles.settings()]


def schedule(rng, events):
    """(role, kind) pairs: all of them once, as far as they go, then any; in random order."""
    roles = ["replay", "learner", "actor", "evaluator"]
    pairs = [(role, kind) for role in roles for kind in KINDS]
    rng.shuffle(pairs)
    while len(pairs) < events:
        pairs.append((rng.choice(roles), rng.choice(KINDS)))
    pairs = pairs[:events]
    rng.shuffle(pairs)
    return [(rng.choice(ACTORS) if role == "actor" else role, kind) for role, kind in pairs]


def reset_connections(pid):
    """Resets every connection of a process, at both ends; answers how many."""
    listing = subprocess.run(["ss", "-Htnp", "state", "established"], capture_output=True, text=True)
    lines = [line for line in listing.stdout.splitlines() if f"pid={pid}," in line]
    pairs = [re.findall(r":(\d+)\s", line)[:2] for line in lines]
    for local, peer in pairs:
        for here, there in [(local, peer), (peer, local)]:
            subprocess.run(["ss", "-K", "sport", "=", f":{here}", "dport", "=", f":{there}"],
                           capture_output=True)
    return len(pairs)


class Proof:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.rng = random.Random(args.seed)
        names = ["replay", "learner", *ACTORS, "evaluator"]
        self.roles = {n: roles.Role(folder, n, command(args.pmpo, folder, n)) for n in names}
        self.actors = [self.roles[name] for name in ACTORS]
        self.verdict = roles.Verdict()
        self.sampler = roles.Sampler(self.roles.values(), self.look)
        self.newest = 0.0
        self.went_back = []
        self.regressions = Counter()
        self.steps_of = {}
        self.two_policies = []
        self.unexpected = []
        self.restarts = Counter()
        self.faults = Counter()
        self.killed = set()

    def look(self, role, series):
        """At every scrape: numbers of policies only grow, and a number means one policy."""
        if role.name == "learner" and roles.VERSION in series:
            version = series[roles.VERSION]
            if version < self.newest:
                self.went_back.append((self.newest, version))
            self.newest = max(self.newest, version)
        pair = self.policy(series)
        if role.name == "learner" or not pair or self.policy(role.now.scrape() or {}) != pair:
            return
        version, step = pair
        self.regressions[role.name, role.now.pid] = roles.total(series, roles.REGRESSIONS)
        if self.steps_of.setdefault(version, step) != step:
            self.two_policies.append((version, self.steps_of[version], step))

    @staticmethod
    def policy(series):
        pair = (series.get(roles.ACTOR_VERSION), series.get(roles.ACTOR_STEPS))
        return pair if None not in pair else None

    def supervise(self, until):
        """Starts again what has died, until a moment."""
        while time.monotonic() < until:
            for role in self.roles.values():
                code = role.now.popen.poll()
                if code is None:
                    continue
                if role.now.pid in self.killed:
                    self.restarts["after a kill"] += 1
                else:
                    self.unexpected.append((role.name, code))
                role.start()
            time.sleep(0.25)

    def strike(self, number, name, kind):
        role = self.roles[name]
        life = role.now
        detail = ""
        if kind == "kill":
            # Seen at the last moment, so that what it had acknowledged is known.
            life.scrape()
            self.killed.add(life.pid)
            life.popen.kill()
            life.popen.wait()
        elif kind == "freeze":
            seconds = self.rng.uniform(1, min(20, self.pause - 2))
            life.popen.send_signal(signal.SIGSTOP)
            detail = f"{seconds:.1f} s"
            print(f"{number:>3} {time.monotonic() - self.begin:6.0f} s  freeze  {name:<11} {detail}",
                  flush=True)
            self.supervise(time.monotonic() + seconds)
            life.popen.send_signal(signal.SIGCONT)
        else:
            detail = f"{reset_connections(life.pid)} connections"
        self.faults[kind] += 1
        if kind != "freeze":
            print(f"{number:>3} {time.monotonic() - self.begin:6.0f} s  {kind:<7} {name:<11} {detail}",
                  flush=True)

    def learner_steps(self):
        steps = [int(path.name[5:]) for path in (self.folder / "run/checkpoints").glob("step-*")]
        return max(steps, default=0)

    def prove(self):
        for role in self.roles.values():
            role.start()
        self.begin = time.monotonic()
        self.sampler.start()
        # Long enough to be training when the first fault comes.
        warm_up = min(20, self.args.minutes * 60 / 4)
        self.supervise(self.begin + warm_up)
        end = self.begin + self.args.minutes * 60
        self.pause = (end - time.monotonic()) / (self.args.events + 1)
        first = self.learner_steps()
        for number, (name, kind) in enumerate(schedule(self.rng, self.args.events), 1):
            at = self.begin + warm_up + number * self.pause
            self.supervise(max(time.monotonic() + 1, at - self.rng.uniform(0, self.pause / 3)))
            self.strike(number, name, kind)
        self.supervise(max(end, time.monotonic() + 30))
        self.verdict.check("faults", sum(self.faults.values()) == self.args.events, dict(self.faults))
        self.check_policies()
        self.check_end(first)

    def check_policies(self):
        """Everyone acts with the learner's newest policy: at one moment, between two of its publications."""
        versions = {}

        def same():
            before = self.roles["learner"].now.scrape() or {}
            for name in [*ACTORS, "evaluator"]:
                versions[name] = (self.roles[name].now.scrape() or {}).get(roles.ACTOR_VERSION)
            after = self.roles["learner"].now.scrape() or {}
            versions["learner"] = before.get(roles.VERSION)
            still = versions["learner"] == after.get(roles.VERSION)
            return still and versions["learner"] and len(set(versions.values())) == 1

        try:
            roles.wait_until("one policy everywhere", same, 60)
            good = True
        except TimeoutError:
            good = False
        self.verdict.check("one policy version everywhere", good, versions)
        self.verdict.check("versions never went back at the learner", not self.went_back,
                           self.went_back or f"newest {self.newest:,.0f}")
        back = sum(self.regressions.values())
        self.verdict.check("versions never went back at actors and evaluator", back == 0, f"{back:.0f}")
        self.verdict.check("a version is one policy, by its learner step", not self.two_policies,
                           self.two_policies or f"{len(self.steps_of)} versions seen")

    def check_end(self, first):
        self.sampler.stop()
        codes = {name: self.roles[name].stop() for name in [*ACTORS, "evaluator"]}
        stored, inserts = roles.writers_of(self.args.pmpo, REPLAY)
        roles.account(self.verdict, self.actors, stored, inserts)
        for name in ["learner", "replay"]:
            codes[name] = self.roles[name].stop()
        self.verdict.check("all end with code 0 at SIGTERM", set(codes.values()) == {0}, codes)
        replay = self.roles["replay"]
        replay.start()
        roles.wait_until("the replay's return", lambda: replay.now.scrape() is not None, 30)
        again = roles.writers_of(self.args.pmpo, REPLAY)
        self.verdict.check("a replay that starts again has the same numbers",
                           again == (stored, inserts), f"{again[1]:,} inserts")
        replay.stop()
        last = self.learner_steps()
        self.verdict.check("learner steps advanced", last > first, f"{first:,} to {last:,}")
        self.verdict.check("nobody died but by a kill", not self.unexpected,
                           self.unexpected or dict(self.restarts))
        peaks = {name: f"{role.peak_mb:.0f}" for name, role in self.roles.items()}
        self.verdict.check("peak memory, MB", True, peaks)

    def end(self):
        for role in self.roles.values():
            if role.lives and role.now.popen.poll() is None:
                role.now.popen.send_signal(signal.SIGKILL)
                role.now.popen.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--events", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", help="folder for logs and data, kept")
    root = Path(__file__).resolve().parents[3]
    parser.add_argument("--pmpo", default=str(root / "target/release/pmpo"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return roles.carry_out(Proof(args, folder))


if __name__ == "__main__":
    sys.exit(main())
