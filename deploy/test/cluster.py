#!/usr/bin/env python3
"""Starts the cluster of docker-compose.yml with a real engine and tries it: `make test-cluster`.

Under a project name of its own and on free ports it builds the images, starts everything, and wants to
see progress after each thing that may befall a cluster: more actors, each container killed, taken down
and up again. What it sees comes from where an operator looks: Prometheus, the containers' state,
their logs. Needs Python 3, Docker with Compose (v2 or 1.29) and, where no registry of images can be
reached, the stand-ins that `stand_ins.sh` makes. Leaves nothing behind but images.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import engine

ROOT = pathlib.Path(__file__).resolve().parents[2]
TAG = "test"
IMAGE = f"pmpo:{TAG}"
ACTORS, SCALED = 2, 4
# Services that run for as long as the cluster does, in the order in which they are killed.
SERVICES = ["evaluator", "actor", "replay", "learner", "prometheus", "grafana"]
SETTINGS = {
    "TASK": "cartpole-swingup",
    "SEED": "1",
    "ACTORS": str(ACTORS),
    "PMPO_TAG": TAG,
    "LEARNER_ARGS": "--set learner.checkpoint_period_s=5",
    "ACTOR_ARGS": "--set actor.environments=1",
    "EVALUATOR_ARGS": "--set evaluator.episodes=2",
}
ENVIRONMENT_STEPS = "pmpo_actor_environment_steps_total"
LEARNER_STEPS = "pmpo_learner_updates_total"


class Failed(Exception):
    """Something that was to be seen was not."""


def wait_for(what, condition, timeout=180):
    """Polls `condition` until it returns something true, which is returned."""
    deadline = time.monotonic() + timeout
    seen = None
    while time.monotonic() < deadline:
        try:
            seen = condition()
        except (OSError, urllib.error.URLError, RuntimeError) as error:
            seen = error
        else:
            if seen:
                return seen
        time.sleep(1)
    raise Failed(f"{what}: not within {timeout} s; last seen: {seen}")


def expect(truth, message):
    """Raises unless `truth`."""
    if not truth:
        raise Failed(message)


class Cluster:
    """The project under test and its Prometheus."""

    def __init__(self):
        self.prometheus_port, self.grafana_port = engine.free_port(), engine.free_port()
        ports = {"PROMETHEUS_PORT": str(self.prometheus_port), "GRAFANA_PORT": str(self.grafana_port)}
        self.project = engine.Project(f"pmpo-test-{os.getpid()}", {**SETTINGS, **ports})
        self.rows = []

    # What can be seen.

    def get(self, port, path):
        """The JSON that a published port answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return json.load(answer)

    def query(self, expression):
        """Prometheus' value of an expression, None while there is none."""
        path = "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        result = self.get(self.prometheus_port, path)["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def scraped_since(self, metric, since):
        """Sum of a metric over what was scraped since a moment, None while nothing was."""
        return self.query(f"sum({metric} and (timestamp({metric}) > {since}))")

    def targets(self, role=None):
        """How many of a role's targets, or of all, are up, if none is down."""
        targets = self.get(self.prometheus_port, "/api/v1/targets?state=active")["data"]["activeTargets"]
        health = [t["health"] for t in targets if role in (None, t["labels"]["job"])]
        return len(health) if set(health) == {"up"} else 0

    def all_healthy(self, count):
        """Whether so many containers run and all are healthy."""
        running = self.project.containers()
        return len(running) == count and all(map(engine.healthy, running))

    def progress(self):
        """Waits until environment and learner steps were scraped anew and then grew; returns both."""
        since, first = time.time(), {}

        def grew(metric):
            now = self.scraped_since(metric, since)
            return now is not None and now > first.setdefault(metric, now) and now

        steps = [wait_for(f"{m} grows", lambda m=m: grew(m)) for m in (ENVIRONMENT_STEPS, LEARNER_STEPS)]
        return "env +{:.0f}, learner +{:.0f} steps".format(
            steps[0] - first[ENVIRONMENT_STEPS], steps[1] - first[LEARNER_STEPS])

    def log(self, role, message):
        """The newest event with this message in a role's log, with how many there are."""
        (container,) = self.project.containers(role, all=True)
        done = subprocess.run(["docker", "logs", container["Id"]], capture_output=True, text=True, check=True)
        events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        events = [event for event in events if event["message"] == message]
        return len(events), events[-1] if events else None

    def checkpoint(self):
        """Learner steps of the newest checkpoint."""
        (learner,) = self.project.containers("learner")
        folder = "/runs/{TASK}-seed{SEED}/checkpoints".format(**SETTINGS)
        names = engine.docker("exec", learner["Id"], "ls", folder).split()
        return max((int(n.removeprefix("step-")) for n in names if n.removeprefix("step-").isdigit()),
                   default=0)

    # What is done.

    def check(self, what, action):
        """Runs one check and prints its row."""
        start = time.monotonic()
        seen = action()
        self.rows.append(what)
        print(f"ok    {what:<34} {seen:<68} {time.monotonic() - start:6.1f} s", flush=True)

    def build(self):
        self.project.compose("build", timeout=3600)
        size = int(engine.docker("image", "inspect", "--format", "{{.Size}}", IMAGE))
        base = int(engine.docker("image", "inspect", "--format", "{{.Size}}", base_image()))
        return f"{IMAGE} {size / 1e6:.0f} MB, of which {base / 1e6:.0f} MB are Debian"

    def up(self):
        self.project.compose("up", "--detach")
        count = len(SERVICES) + ACTORS - 1
        wait_for(f"{count} healthy containers", lambda: self.all_healthy(count))
        (certs,) = self.project.containers("certs", all=True)
        expect(certs["State"]["ExitCode"] == 0, f"certs: exit code {certs['State']['ExitCode']}")
        return f"{count} containers healthy"

    def contained(self):
        containers = self.project.containers()
        for container in containers:
            host, name = container["HostConfig"], engine.name(container)
            user = container["Config"]["User"].partition(":")[0]
            published = [p["HostIp"] for ports in (host["PortBindings"] or {}).values() for p in ports]
            expect(user not in ("", "0", "root"), f"{name} runs as root")
            expect(host["ReadonlyRootfs"], f"{name} has a writable root")
            expect(host["CapDrop"] == ["ALL"], f"{name} keeps capabilities")
            expect(any("no-new-privileges" in o for o in host["SecurityOpt"]), f"{name} may gain privileges")
            expect(host["Memory"] > 0, f"{name} has no bound on memory")
            expect(set(published) <= {"127.0.0.1"}, f"{name} is published on {published}")
        return f"{len(containers)} containers: user, read-only root, no capabilities, memory, ports"

    def scraped(self):
        # Prometheus itself may be among them.
        least = len(SERVICES) - 2 + ACTORS - 1
        return f"{wait_for('all targets are up', lambda: self.targets() >= least and self.targets())} up"

    def evaluated(self):
        value = wait_for("an evaluation", lambda: self.query("sum(pmpo_evaluator_evaluations_total) > 0"))
        mean = self.query("max(pmpo_learner_evaluation_return_mean)")
        return f"{value:.0f} evaluations, the newest with a mean return of {mean:.1f}"

    def uninvited(self):
        network = self.project.networks()[0]
        stranger = ["run", "--rm", f"--network={network}", "--read-only", "--cap-drop=ALL"]
        tables = [IMAGE, "tables", "--replay", "replay:7001"]
        with_certificates = [
            f"--volume={self.project.name}_actor-certs:/certs:ro",
            *(f"--env=PMPO__SECURITY__{k}=/certs/{v}" for k, v in
              (("TLS_CERT", "cert.pem"), ("TLS_KEY", "key.pem"), ("TLS_CA", "ca.pem"),
               ("TOKEN_FILE", "token")))]
        as_actor = [*with_certificates, *tables, "--max-size", "1"]
        for who, arguments, why in (("without certificate", tables, "transport error"),
                                    ("an actor", as_actor, "role actor may not call")):
            done = subprocess.run(["docker", *stranger, *arguments], capture_output=True, text=True,
                                  timeout=60, check=False)
            expect(done.returncode != 0 and why in done.stderr,
                   f"{who}: expected to be refused with {why!r}, got: {done.stdout}{done.stderr}")
        shown = self.project.compose("run", "--rm", "-T", "admin", "tables", "--replay", "replay:7001")
        expect("replay" in shown, f"the administrator saw: {shown}")
        return "no certificate: refused; actor as administrator: refused; administrator: served"

    def scale(self, actors):
        self.project.compose("up", "--detach", "--scale", f"actor={actors}")
        wait_for(f"{actors} actor targets", lambda: self.targets("actor") == actors)
        since = time.time()
        acting = f"count(rate({ENVIRONMENT_STEPS}[1m]) > 0 and timestamp({ENVIRONMENT_STEPS}) > {since})"
        wait_for(f"{actors} actors act", lambda: self.query(acting) == actors)
        members = 'pmpo_learner_members{role="actor"}'
        wait_for(f"{actors} members", lambda: self.query(members) == actors)
        return f"{actors} actor targets up, {actors} acting, {actors} members of the run"

    def kill(self, victim):
        """Kills one container's process and waits until all is as before and there is progress."""
        count, saw = len(self.project.containers()), ""
        role, started = engine.service(victim), victim["State"]["StartedAt"]
        items = self.query("sum(pmpo_replay_table_items)")
        resumed, checkpoint = (self.log("learner", "resuming")[0], self.checkpoint()) if role == "learner" else (0, 0)
        since = time.time()
        engine.kill(victim, IMAGE)

        def back():
            (now,) = [c for c in self.project.containers(role) if c["Id"] == victim["Id"]] or [victim]
            return now["State"]["StartedAt"] != started and self.all_healthy(count)

        wait_for(f"{engine.name(victim)} is back", back)
        if role == "learner":
            times, event = self.log("learner", "resuming")
            expect(times == resumed + 1 and event["learner_steps"] >= checkpoint,
                   f"the checkpoint had {checkpoint} steps; the log says {event}")
            saw = f"resumed at step {event['learner_steps']}; "
        if role == "replay":
            recovered = wait_for("recovered items", lambda: self.scraped_since(
                "pmpo_replay_recovered_items", since))
            expect(recovered >= items, f"{items:.0f} items before the kill, {recovered:.0f} after it")
            saw = f"{recovered:.0f} items are back; "
        wait_for("all targets are up", self.targets)
        return saw + self.progress()

    def stop(self):
        start = time.monotonic()
        self.project.compose("stop")
        seconds = time.monotonic() - start
        codes = {engine.name(c): c["State"]["ExitCode"] for c in self.project.containers(all=True)}
        expect(137 not in codes.values(), f"killed for not stopping in time: {codes}")
        self.steps = self.checkpoint_after_stop()
        self.project.compose("down")
        left = self.project.containers(all=True) + self.project.networks()
        expect(not left, f"down left {left}")
        volumes = self.project.volumes()
        expect(len(volumes) >= 4, f"down left of the volumes {volumes}")
        return f"stopped in {seconds:.1f} s within their grace; nothing left but {len(volumes)} volumes"

    def checkpoint_after_stop(self):
        """Learner steps that the learner's last log line told of."""
        _, event = self.log("learner", "ended")
        expect(event is not None, "the learner did not end in order")
        outcome = event["outcome"]
        return int(outcome.split(" and ")[1].split()[0])

    def resume(self):
        self.up()
        _, event = self.log("learner", "resuming")
        expect(event is not None and event["learner_steps"] >= self.steps,
               f"ended after {self.steps} learner steps; the log says {event}")
        return f"ended at learner step {self.steps}, resumed at {event['learner_steps']}; {self.progress()}"

    def remove(self):
        self.project.compose("down", "--volumes")
        left = self.project.containers(all=True) + self.project.networks() + self.project.volumes()
        expect(not left, f"left: {left}")
        return "no container, network or volume left"

    def run(self):
        """All checks, in order."""
        self.check("images build", self.build)
        self.check("up", self.up)
        self.check("contained", self.contained)
        self.check("Prometheus scrapes every role", self.scraped)
        self.check("training makes progress", self.progress)
        self.check("an evaluation lands", self.evaluated)
        self.check("uninvited", self.uninvited)
        self.check(f"--scale actor={SCALED}", lambda: self.scale(SCALED))
        self.check(f"--scale actor={ACTORS}", lambda: self.scale(ACTORS))
        for role in SERVICES:
            for victim in self.project.containers(role):
                # As it is now: the one before may have changed it.
                self.check(f"kill -9 {engine.name(victim).removeprefix(self.project.name)[1:]}",
                           lambda victim=victim: self.kill(victim))
        self.check("down", self.stop)
        self.check("up again", self.resume)
        self.check("down --volumes", self.remove)

    def explain(self):
        """What the containers said, for a failure."""
        print(self.project.compose("ps", check=False), file=sys.stderr)
        print(self.project.compose("logs", "--no-color", "--tail=15", check=False), file=sys.stderr)


def base_image():
    """The Debian image of the Dockerfile."""
    words = (ROOT / "deploy/docker/Dockerfile").read_text().split()
    return next(word for word in words if word.startswith("debian:"))


def main():
    os.chdir(ROOT)
    there, what = engine.answers()
    if not there:
        print(f"test-cluster: SKIPPED, nothing was tested: no Docker engine answers ({what})")
        sys.exit(0 if "--skip-without-engine" in sys.argv else 1)
    print(f"test-cluster: {what}", flush=True)
    subprocess.run(["deploy/test/stand_ins.sh"], check=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cluster = Cluster()
    try:
        cluster.run()
    except (Failed, RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        cluster.explain()
        print(f"FAILED after {len(cluster.rows)} checks: {error}")
        print(f"{len(cluster.rows)} passed, 1 failed")
        sys.exit(1)
    finally:
        cluster.project.compose("down", "--volumes", "--timeout=5", check=False)
    print(f"{len(cluster.rows)} passed, 0 failed")


if __name__ == "__main__":
    main()
