#!/usr/bin/env python3
"""Holds dashboards and rules to what the processes really export.

    dashboards.py quick    files only: generated JSON, metric names, every alert tested; no Prometheus
    dashboards.py rules    promtool's checks of configuration and rules, and the rules' tests
    dashboards.py live     a real run and a real Prometheus: every expression must return data
    dashboards.py          all of it

`live` wants target/release/pmpo (or $PMPO) and Debian's package prometheus; it takes two minutes.
`live --hold` leaves both running until Ctrl-C, for a look at Prometheus' own pages.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "deploy/grafana"), str(ROOT / "deploy/test")]

import dashboards  # noqa: E402: the generator

PROMETHEUS = ROOT / "deploy/prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
# Says of every alert when it fires and what to do then.
ALERTS_PAGE = ROOT / "docs" / "guides" / "dashboards.md"
CONFIGS = [PROMETHEUS / "prometheus.yml", PROMETHEUS / "train.yml"]

# What Prometheus itself makes.
BUILT_IN = {"up", "ALERTS"}
NAME = re.compile(r"\b(?:pmpo_[a-z_]+|process_[a-z_]+|pmpo:[a-z_:0-9]+)\b")


def metric_names():
    """Every metric that some metrics.rs declares; of a histogram also its series."""
    constant = re.compile(r'pub const [A-Z_]+: &str =\s*"([a-z_]+)"')
    names = set()
    for path in ROOT.glob("*/**/metrics.rs"):
        if "target" not in path.parts:
            names |= set(constant.findall(path.read_text(encoding="utf-8")))
    return names


def recorded():
    """Names that the recording rules make."""
    return {name for path in RULES for name in re.findall(r"- record: (\S+)", path.read_text())}


def panels():
    """(dashboard, panel) of every panel with queries."""
    for board in dashboards.DASHBOARDS.values():
        for panel in board["panels"]:
            if panel["type"] != "row":
                yield board, panel


def quick():
    """Problems that need no Prometheus to be seen."""
    problems = [f"{path}: run deploy/grafana/dashboards.py" for path in dashboards.outdated()]
    metrics, records = metric_names(), recorded()
    known = metrics | records | {f"{name}{end}" for name in metrics for end in ("_bucket", "_sum", "_count")}
    used = set()
    texts = [(path, path.read_text(encoding="utf-8")) for path in RULES + RULE_TESTS]
    texts += [(f"{board['title']}: {panel['title']}", target["expr"])
              for board, panel in panels() for target in panel["targets"]]
    for where, text in texts:
        names = set(NAME.findall(text))
        used |= names
        problems += [f"{where}: {name} is in no metrics.rs and no recording rule"
                     for name in sorted(names - known)]
    problems += alert_problems() + layout_problems()
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} | used
    unused = sorted(metrics - shown)
    print(f"quick: {len(metrics)} metrics, {len(records)} recorded, in no panel or rule: "
          f"{', '.join(unused) or 'none'}")
    return problems


def alert_problems():
    """Every alert says what is wrong and what to do, and has a case where it fires and one where not."""
    problems = []
    tests = "\n".join(path.read_text(encoding="utf-8") for path in RULE_TESTS)
    cases = re.findall(r"alertname: (.+)\n\s*exp_alerts: *(\[\])?", tests)
    names = {name for path in RULES for name in re.findall(r"- alert: (\S+)", path.read_text())}
    problems += [f"{alert}: tested, but no alert" for alert in {alert for alert, _ in cases} - names]
    manual = ALERTS_PAGE.read_text(encoding="utf-8")
    for path in RULES:
        for block in path.read_text(encoding="utf-8").split("- alert: ")[1:]:
            name = block.split("\n", 1)[0].strip()
            missing = [f"{key}:" for key in ("severity", "summary", "description") if f"{key}:" not in block]
            found = {bool(empty) for alert, empty in cases if alert == name}
            missing += ["a test where it fires"] * (False not in found)
            missing += ["a test where it does not"] * (True not in found)
            missing += [f"a row in {ALERTS_PAGE.relative_to(ROOT)}"] * (f"`{name}`" not in manual)
            problems += [f"{path.name}: {name} lacks {what}" for what in missing]
    return problems


def layout_problems():
    """What Grafana would show badly or not at all."""
    problems, uids = [], set()
    for board in dashboards.DASHBOARDS.values():
        if not re.fullmatch(r"[a-z-]{8,40}", board["uid"]) or board["uid"] in uids:
            problems.append(f"{board['title']}: uid {board['uid']} is not usable or not the only one")
        uids.add(board["uid"])
        numbers = [panel["id"] for panel in board["panels"]]
        if len(set(numbers)) != len(numbers):
            problems.append(f"{board['title']}: panels share an id")
        problems += overlaps(board)
    for board, panel in panels():
        where = f"{board['title']}: {panel['title']}"
        defaults = panel["fieldConfig"]["defaults"]
        if not (panel["description"] and defaults["unit"] and panel["targets"]):
            problems.append(f"{where}: lacks a description, a unit or a query")
        problems += [f"{where}: a query without a legend"
                     for target in panel["targets"] if not target["legendFormat"]]
        problems += [f"{where}: links to no dashboard: {link['url']}" for link in panel["links"]
                     if link["url"].split("?")[0].removeprefix("/d/") not in
                     {other["uid"] for other in dashboards.DASHBOARDS.values()}]
    return problems


def overlaps(board):
    """Panels on top of each other, or beyond the edge."""
    taken, problems = set(), []
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        if cells & taken or place["x"] + place["w"] > 24:
            problems.append(f"{board['title']}: {panel['title']} is on top of another or too wide")
        taken |= cells
    return problems


def rules():
    """Problems that promtool finds."""
    if not shutil.which("promtool"):
        return ["promtool is not installed: apt-get install --no-install-recommends prometheus"]
    problems = []
    for command in (["check", "config", *CONFIGS], ["check", "rules", *RULES], ["test", "rules", *RULE_TESTS]):
        command = ["promtool", *map(str, command)]
        print("rules:", " ".join(command).replace(f"{ROOT}/", ""), flush=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(done.stdout, end="")
        if done.returncode:
            problems.append(f"{' '.join(command[:3])}: {done.stderr or done.stdout}")
    return problems


def live():
    """Problems of a real run; see dashboards_live.py."""
    import dashboards_live  # needs a Prometheus, which the quick part does not
    return dashboards_live.check(list(panels()), RULES, hold="--hold" in sys.argv)


def main():
    parts = {"quick": quick, "rules": rules, "live": live}
    asked = [word for word in sys.argv[1:] if not word.startswith("--")] or list(parts)
    unknown = [word for word in asked if word not in parts]
    if unknown:
        sys.exit(f"{unknown[0]}: expected one of {', '.join(parts)}")
    problems = [problem for word in asked for problem in parts[word]()]
    for problem in problems:
        print(f"FAILED {problem}")
    print(f"{' and '.join(asked)}: {len(problems)} problems")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
