#!/usr/bin/env python3
"""Partitions between separate hosts: deploy/test/faults/partition.py [--seconds 60]

Replay (durable), learner and two actors, each in a network namespace of its own on one bridge. During
training all packets between the actors and the replay are dropped for a while, then all between the learner
and the replay. Needs root, iproute2 and iptables; touches no interface of the machine, for the bridge is in
a namespace too. Exits 1 if an acknowledged item was lost or doubled, training did not go on, or memory grew.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import roles

HOSTS = {"replay": "10.77.0.1", "learner": "10.77.0.2", "actor-0": "10.77.0.3", "actor-1": "10.77.0.4"}
HARNESS = "10.77.0.254"
INSIDE = "PMPO_PARTITION_INSIDE"
# How long what was under way when the cable was pulled may take to show.
SETTLE = 5
# Memory that a process may take more at its peak than before the partitions: buffers have bounds.
GROWTH_MB = 48


def run(*command):
    subprocess.run(command, check=True)


def namespace(host):
    return f"pmpo-{os.getpid()}-{host}"


def inside(host):
    return ["ip", "netns", "exec", namespace(host)]


def lay_cables():
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "bridge", "type", "bridge")
    run("ip", "address", "add", f"{HARNESS}/24", "dev", "bridge")
    run("ip", "link", "set", "bridge", "up")
    for number, (host, address) in enumerate(HOSTS.items()):
        run("ip", "netns", "add", namespace(host))
        run("ip", "link", "add", f"port{number}", "type", "veth",
            "peer", "name", "eth0", "netns", namespace(host))
        run("ip", "link", "set", f"port{number}", "master", "bridge", "up")
        run("ip", "-n", namespace(host), "address", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", namespace(host), "link", "set", "eth0", "up")
        run("ip", "-n", namespace(host), "link", "set", "lo", "up")


def partition(host, others, action):
    """Drops (`-I`) or again passes (`-D`) all between a host and others, without a word to either."""
    for other in others:
        run(*inside(host), "iptables", action, "INPUT", "-s", HOSTS[other], "-j", "DROP")
        run(*inside(host), "iptables", action, "OUTPUT", "-d", HOSTS[other], "-j", "DROP")


def command(pmpo, folder, role):
    replay, learner = f"{HOSTS['replay']}:7001", f"{HOSTS['learner']}:7002"
    kind = role.split("-")[0]
    flags = {
        "replay": ["--listen", replay, "--data-dir", str(folder / "data")],
        "learner": ["cartpole-swingup", "--run-dir", str(folder / "run"), "--resume=auto",
                    "--listen", learner, "--replay", replay],
        "actor": ["--replay", replay, "--learner", learner, "--index", role.split("-")[-1]],
    }[kind]
    # Namespaces without a way out; on real hosts: certificates.
    return [pmpo, kind, *flags, "--metrics", f"{HOSTS[role]}:9000", "--insecure",
            *roles.settings()]


class Proof:
    def __init__(self, pmpo, folder, seconds):
        self.seconds = seconds
        self.pmpo = pmpo
        self.folder = folder
        self.roles = {
            name: roles.Role(folder, name, command(pmpo, folder, name), inside(name))
            for name in HOSTS
        }
        self.actors = [self.roles["actor-0"], self.roles["actor-1"]]
        self.verdict = roles.Verdict()
        self.sampler = roles.Sampler(self.roles.values())

    def updates(self):
        return roles.total(self.roles["learner"].now.seen, roles.UPDATES)

    def acknowledged(self):
        return [roles.total(actor.now.seen, roles.ACKNOWLEDGED) for actor in self.actors]

    def items(self):
        return roles.total(self.roles["replay"].now.seen, "pmpo_replay_table_items")

    def memory(self):
        return {name: role.now.rss_mb() for name, role in self.roles.items()}

    def goes_on(self, since):
        """Each actor has more acknowledged and the learner has trained."""
        updates, acknowledged = since
        more = all(now > then for now, then in zip(self.acknowledged(), acknowledged))
        return more and self.updates() > updates + 100

    def cut(self, what, host, others, stands_still):
        partition(host, others, "-I")
        print(f"{what}: cut off for {self.seconds} s", flush=True)
        time.sleep(SETTLE)
        start = stands_still()
        time.sleep(self.seconds - SETTLE)
        since = (self.updates(), self.acknowledged())
        passed = stands_still() - start
        self.verdict.check(f"{what}: nothing passes meanwhile", passed == 0, f"{passed:.0f}")
        partition(host, others, "-D")
        took = roles.wait_until("training goes on", lambda: self.goes_on(since), 60)
        self.verdict.check(f"{what}: all goes on", True, f"{took:.1f} s after the cable was back")
        time.sleep(10)

    def prove(self):
        lay_cables()
        for role in self.roles.values():
            role.start()
        self.sampler.start()
        roles.wait_until("training", lambda: self.updates() > 500, 120)
        roles.wait_until("a full table", lambda: self.items() >= 20_000, 120)
        before = self.memory()
        for role in self.roles.values():
            role.peak_mb = 0.0
        both = ["actor-0", "actor-1"]
        self.cut("actors and replay", "replay", both, lambda: sum(self.acknowledged()))
        self.cut("learner and replay", "replay", ["learner"], self.updates)
        after = self.memory()
        codes = {actor.name: actor.stop() for actor in self.actors}
        address = f"{HOSTS['replay']}:7001"
        stored, inserts = roles.writers_of(self.pmpo, address, inside("replay"))
        roles.account(self.verdict, self.actors, stored, inserts)
        self.sampler.stop()
        for name in ["learner", "replay"]:
            codes[name] = self.roles[name].stop()
        self.verdict.check("all end with code 0 at SIGTERM", set(codes.values()) == {0}, codes)
        print("\n  memory, MB     before    peak   after")
        for name, role in self.roles.items():
            print(f"  {name:<12} {before[name]:>8.1f} {role.peak_mb:>7.1f} {after[name]:>7.1f}")
        growth = max(role.peak_mb - before[name] for name, role in self.roles.items())
        self.verdict.check("memory is bounded", growth < GROWTH_MB, f"at most {growth:.1f} MB more")

    def end(self):
        for role in self.roles.values():
            if role.lives and role.now.popen.poll() is None:
                role.now.popen.kill()
                role.now.popen.wait()
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", namespace(host)], check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    root = Path(__file__).resolve().parents[3]
    parser.add_argument("--pmpo", default=str(root / "target/release/pmpo"))
    args = parser.parse_args()
    if not os.environ.get(INSIDE):
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory() as folder:
        return roles.carry_out(Proof(args.pmpo, Path(folder), args.seconds))


if __name__ == "__main__":
    sys.exit(main())
