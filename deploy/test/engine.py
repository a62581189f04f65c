"""The Docker engine and Compose as `cluster.py` uses them: commands, and what a project has there."""

import json
import os
import shutil
import socket
import subprocess

LABEL = "com.docker.compose.project"


def run(*command, env=None, check=True, timeout=900):
    """Runs a command and returns its standard output; a failure raises with what it said."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, check=False)
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-15:]
        raise RuntimeError("\n".join([f"{' '.join(command)}: exit code {done.returncode}", *said]))
    return done.stdout


def docker(*arguments, **options):
    """`docker ARGUMENTS`."""
    return run("docker", *arguments, **options)


def answers():
    """Whether an engine answers, and which; the reason if none does."""
    if shutil.which("docker") is None:
        return False, "no docker command"
    try:
        version = docker("version", "--format", "{{.Server.Version}}", timeout=30).strip()
        return True, f"Docker engine {version}, {' '.join(compose_command())}"
    except (RuntimeError, subprocess.TimeoutExpired, FileNotFoundError) as error:
        return False, str(error).splitlines()[-1]


def compose_command():
    """`docker compose` where the plugin is there, otherwise `docker-compose`."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        raise FileNotFoundError("neither `docker compose` nor `docker-compose` is installed")
    return ["docker-compose"]


def free_port():
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Project:
    """A Compose project of its own name and settings, and its containers, networks and volumes."""

    def __init__(self, name, settings):
        self.name = name
        # The older Compose gives up on an engine that is busy for a minute.
        patience = {"COMPOSE_HTTP_TIMEOUT": "600"}
        self.env = {**os.environ, **settings, **patience, "COMPOSE_PROJECT_NAME": name}
        self.command = compose_command()

    def compose(self, *arguments, **options):
        """`docker compose ARGUMENTS` of the repository's own file."""
        return run(*self.command, *arguments, env=self.env, **options)

    def _list(self, *what):
        return docker(*what, "--filter", f"label={LABEL}={self.name}").split()

    def containers(self, *services, all=False):
        """What `docker inspect` says of the containers, running ones or all."""
        ids = self._list("ps", "--quiet", "--no-trunc", *(["--all"] if all else []))
        found = json.loads(docker("inspect", *ids)) if ids else []
        found = [c for c in found if not services or service(c) in services]
        return sorted(found, key=name)

    def networks(self):
        """Names of the networks."""
        return self._list("network", "ls", "--format", "{{.Name}}")

    def volumes(self):
        """Names of the volumes."""
        return self._list("volume", "ls", "--format", "{{.Name}}")


def name(container):
    """Name of an inspected container."""
    return container["Name"].lstrip("/")


def service(container):
    """Service of an inspected container."""
    return container["Config"]["Labels"]["com.docker.compose.service"]


def healthy(container):
    """Whether an inspected container runs and its health check passes."""
    state = container["State"]
    return state["Running"] and state.get("Health", {}).get("Status") == "healthy"


def kill(container, image):
    """Ends a container's process with SIGKILL, as a crash or the out-of-memory killer would: `docker
    kill` would have the engine take it for stopped by the user, and not start it again."""
    pid = container["State"]["Pid"]
    docker("run", "--rm", "--pid=host", "--network=none", "--user=0", "--entrypoint=sh", image,
           "-c", f"kill -9 {pid}")
