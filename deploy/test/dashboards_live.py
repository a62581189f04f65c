"""The live part of dashboards.py: `pmpo train` as a user runs it, and beside it a learner and a generator of a small
language model; a Prometheus that scrapes them, and every
expression of every panel, variable, recording rule and alert put to Prometheus' HTTP API.

A panel's or a recording rule's expression must return at least one finite number. An alert must be
inactive, as nothing is wrong, and every series its expression selects must be there: then it is
inactive because of what it compares, not because its input is missing. One thing is a stand-in where no
GPU is: a page with the three GPU metrics as `nvidia-smi` would give them (learner/src/host.rs is
tested with a stand-in of that program).
"""

import http.server
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240
POLL_S = 3

# Small, so that within a minute the table is full, checkpoints and evaluations come, and items leave.
SETTINGS = [
    "policy.torso.hidden_sizes=[32, 32]", "critic.torso.hidden_sizes=[32, 32]", "update.batch_size=64", "learner.checkpoint_period_s=5.0",
    "replay.table.max_size=20000", "replay.table.min_size_to_sample=500",
    "evaluator.period_learner_steps=500", "evaluator.episodes=2",
]

GPU_PAGE = """# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0"} 35
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{gpu="0"} 1024
# TYPE DCGM_FI_DEV_FB_FREE gauge
DCGM_FI_DEV_FB_FREE{gpu="0"} 23552
"""

# What Grafana would put in.
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$table": ".*"}

# A metric's name with its label matchers, in a normalised expression.
SELECTOR = re.compile(r"\b(?:up|process_\w+|pmpo[_:][\w:]+)\b(?:\{[^}]*\})?")


def check(panels, rule_files, hold):
    """Problems found; prints a line for each expression."""
    missing = [name for name in ("prometheus", "promtool") if not shutil.which(name)]
    if missing:
        return [f"{missing[0]} is not installed: apt-get install --no-install-recommends prometheus"]
    pmpo = Path(os.environ.get("PMPO", ROOT / "target/release/pmpo"))
    if not pmpo.is_file():
        return [f"{pmpo}: build it first: make build"]
    with tempfile.TemporaryDirectory(prefix="pmpo-dashboards-") as folder:
        folder = Path(folder)
        run = folder / "run"
        processes = []
        try:
            gpu_port = serve_gpu_page()
            processes.append(start_training(pmpo, folder, run))
            processes += start_language(pmpo, folder)
            prometheus, url = start_prometheus(folder, run, gpu_port, rule_files)
            processes.append(prometheus)
            problems = wait_and_judge(processes, url, panels)
            problems += lint(run)
            if hold:
                print(f"{url}/graph shows it; Ctrl-C ends it", flush=True)
                signal.sigwait([signal.SIGINT, signal.SIGTERM])
            return problems
        finally:
            for process in processes:
                process.send_signal(signal.SIGINT if process is processes[0] else signal.SIGTERM)
            for process in processes:
                process.wait(timeout=60)


def serve_gpu_page():
    """Serves GPU_PAGE as a daemon thread; answers its port."""
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            try:
                self.wfile.write(GPU_PAGE.encode())
            except ConnectionError:
                pass  # a busy machine: Prometheus has not waited, and comes again

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def start_training(pmpo, folder, run):
    """A run without a limit, its tables on disk."""
    command = [pmpo, "train", "cartpole-swingup", "--run-dir", run, "--actors", "2", "--seed", "1"]
    for setting in [*SETTINGS, f'replay.data_dir="{folder / "data"}"']:
        command += ["--set", setting]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def start_language(pmpo, folder):
    """A replay, a learner and a generator of a small language model, without a limit."""
    place = folder / "language"
    place.mkdir()
    subprocess.run([pmpo, "lm", "grammar", place / "model", "--steps", "60"], stdout=subprocess.DEVNULL, check=True)
    processes, addresses = [], {}

    def start(role, *command):
        announcement = place / f"{role}.json"
        command = [pmpo, *command, "--announce", announcement]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        deadline = time.monotonic() + 60
        while not announcement.is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        addresses[role] = json.loads(announcement.read_text())

    start("replay", "replay", "--listen", "127.0.0.1:0")
    replay = addresses["replay"]["listen"]
    start("learner", "lm", "train", "--model", place / "model", "--prompts", "grammar", "--run-dir", place / "run",
          "--replay", replay, "--listen", "127.0.0.1:0", "--max-steps", "1000000",
          "--set", "lm.prompts_per_step=4", "--set", "lm.eval_steps=50")
    start("generator", "lm", "generator", "--replay", replay, "--learner", addresses["learner"]["listen"])
    targets = [addresses[role]["metrics"] for role in ("learner", "generator")]
    (place / "targets.json").write_text(json.dumps([{"targets": targets}]))
    return processes


def start_prometheus(folder, run, gpu_port, rule_files):
    """A Prometheus that scrapes the run each second, with the rules as they are."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rule_files],
        "scrape_configs": [
            {"job_name": "pmpo", "file_sd_configs": [
                {"files": [f"{run}/roles/*.targets.json"], "refresh_interval": "1s"}]},
            {"job_name": "language", "file_sd_configs": [{"files": [str(folder / "language/targets.json")]}]},
            {"job_name": "gpu-stand-in", "static_configs": [{"targets": [f"127.0.0.1:{gpu_port}"]}]},
        ],
    }
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(config))  # JSON is YAML
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = open(folder / "prometheus.log", "wb")  # the process keeps it
    process = subprocess.Popen(
        ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={folder / 'tsdb'}",
         f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    return process, f"http://127.0.0.1:{port}"


def ask(url, path, **parameters):
    """The `data` of an answer of Prometheus' HTTP API; None while there is none."""
    query = urllib.parse.urlencode(parameters)
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        return {"error": json.load(error).get("error", str(error))}
    except (OSError, ValueError):
        return None


def samples(url, expression):
    """(finite samples, the first value, what is wrong) of an instant query."""
    data = ask(url, "query", query=expression)
    if not data or "error" in data:
        return 0, "", (data or {}).get("error", "no answer")
    values = [float(result["value"][1]) for result in data["result"]]
    finite = [value for value in values if math.isfinite(value)]
    return len(finite), f"{finite[0]:.6g}" if finite else "", "no data"


def label_values(url, query):
    """As `samples`, of Grafana's label_values(metric, label)."""
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()
    values = ask(url, f"label/{label}/values", **{"match[]": metric}) or []
    return len(values), ", ".join(values)[:40], "no values"


def results(url, panels):
    """(where, expression, samples, a value, what is wrong or "") of everything there is to evaluate."""
    for board, panel in panels:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            count, value, wrong = samples(url, expression)
            where = f"{board['title'].removeprefix('PMPO / ')}: {panel['title']}"
            yield where, target["expr"], count, value, "" if count else wrong
    seen = {id(board): board for board, _ in panels}
    for board in seen.values():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                count, value, wrong = label_values(url, variable["query"]["query"])
                yield f"{board['title']}: ${variable['name']}", variable["query"]["query"], count, value, \
                    "" if count else wrong
    for group in (ask(url, "rules") or {}).get("groups", []):
        for rule in group["rules"]:
            yield rule_result(url, rule)


def rule_result(url, rule):
    """A recording rule has data; an alert is inactive with all its inputs there."""
    name, query = rule["name"], rule["query"]
    if rule["health"] != "ok":
        return f"rule {name}", query, 0, "", rule.get("lastError") or rule["health"]
    if rule["type"] == "recording":
        count, value, wrong = samples(url, query)
        return f"rule {name} {rule.get('labels', {}).get('part', '')}", query, count, value, \
            "" if count else wrong
    counts = {selector: samples(url, selector)[0] for selector in sorted(set(SELECTOR.findall(query)))}
    absent = [selector for selector, count in counts.items() if not count]
    wrong = f"no {absent[0]}" if absent else "" if rule["state"] == "inactive" else rule["state"]
    return f"alert {name}", query, sum(counts.values()), rule["state"], wrong


def wait_and_judge(processes, url, panels):
    """Asks until everything is there, or patience is at its end."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        time.sleep(POLL_S)
        for process in processes:
            if process.poll() is not None:
                return [f"{Path(str(process.args[0])).name} ended with {process.returncode}"]
        found = list(results(url, panels))
        wrong = [result for result in found if result[4]]
        rules_loaded = any(where.startswith("alert ") for where, *_ in found)
        if (rules_loaded and not wrong) or time.monotonic() > deadline:
            break
    print(f"{'samples':>7} {'for example':>12}  expression")
    for where, expression, count, value, problem in found:
        print(f"{count:7} {value[:12]:>12}  {where}: {expression}{'  <-- ' + problem if problem else ''}")
    print(f"live: {len(found)} expressions, {len(wrong)} without what they should have")
    problems = [f"{where}: {expression}: {problem}" for where, expression, _, _, problem in wrong]
    return problems + ([] if rules_loaded else ["Prometheus has no rules"])


def lint(run):
    """What `promtool check metrics` says of each process's page."""
    problems = []
    for path in sorted((run / "roles").glob("*.targets.json")):
        target = json.loads(path.read_text())[0]["targets"][0]
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as page:
            text = page.read()
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
        print(f"promtool check metrics {path.name}: {len(text.splitlines())} lines, exit {done.returncode}")
        if done.returncode:
            problems.append(f"{path.name}: {done.stderr.decode() or done.stdout.decode()}")
    return problems
