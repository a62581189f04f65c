"""Stands in for Grafana in `make test-cluster`, where the real image cannot be had: it draws nothing.

It answers `GET /api/health` with 200 once everything that Grafana would be provisioned with reads
well: each data source has a name, a type and a URL; each dashboard provider a folder; each dashboard in
it a title, a uid of its own and panels. Otherwise it answers 503 with what is wrong.
"""

import http.server
import json
import os
import pathlib
import signal
import sys

import yaml

PROVISIONING = pathlib.Path(os.environ.get("GF_PATHS_PROVISIONING", "/etc/grafana/provisioning"))


def documents(kind):
    """The YAML files of one kind of provisioning, read."""
    files = sorted((PROVISIONING / kind).glob("*.y*ml"))
    if not files:
        raise ValueError(f"{PROVISIONING / kind}: expected a YAML file, found none")
    return [yaml.safe_load(file.read_text()) for file in files]


def check():
    """Returns how many data sources and dashboards there are; raises for what Grafana would refuse."""
    sources = [source for document in documents("datasources") for source in document["datasources"]]
    for source in sources:
        for key in ("name", "type", "url"):
            if not source.get(key):
                raise ValueError(f"data source {source}: expected a {key}")
    titles = {}
    for provider in (p for document in documents("dashboards") for p in document["providers"]):
        folder = pathlib.Path(provider["options"]["path"])
        for file in sorted(folder.rglob("*.json")):
            dashboard = json.loads(file.read_text())
            uid, title = dashboard["uid"], dashboard["title"]
            if uid in titles or not dashboard["panels"]:
                raise ValueError(f"{file}: expected panels and a uid of its own, got uid {uid}")
            titles[uid] = title
    if not sources or not titles:
        raise ValueError("expected a data source and a dashboard")
    return {"stand_in": True, "database": "ok", "datasources": len(sources),
            "dashboards": sorted(titles.values())}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /api/health."""

    def do_GET(self):  # noqa: N802 (the name is http.server's)
        if self.path != "/api/health":
            return self.answer(404, {"message": "a stand-in for Grafana: /api/health only"})
        try:
            return self.answer(200, check())
        except (ValueError, KeyError, TypeError, OSError, yaml.YAMLError) as error:
            return self.answer(503, {"stand_in": True, "message": f"{type(error).__name__}: {error}"})

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    # The first process of a container gets no signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("not Grafana: a stand-in that checks what it would be provisioned with", file=sys.stderr)
    http.server.ThreadingHTTPServer(("", 3000), Handler).serve_forever()
