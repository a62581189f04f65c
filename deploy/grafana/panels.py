"""Grafana's JSON around a table of panels: what all panels of a kind have in common.

Fields and their values are those of Grafana 11.6, as its Foundation SDK for Python reads and writes them.
"""

SCHEMA_VERSION = 41
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

LEGEND = {
    "displayMode": "table",
    "placement": "bottom",
    "showLegend": True,
    "calcs": ["lastNotNull", "mean"],
}


def graph(title, unit, description, *queries, **more):
    """Lines over time. A query is (expression, legend). `more`: width and height in grid units,
    stacked, decimals, top (upper end of the axis), link (a dashboard's uid)."""
    return {"kind": "graph", "title": title, "unit": unit, "description": description,
            "queries": queries, "width": 8, "height": 8, **more}


def stat(title, unit, description, query, **more):
    """The newest value; with name=True the legend instead of the value."""
    return {"kind": "stat", "title": title, "unit": unit, "description": description,
            "queries": [query], "width": 4, "height": 4, **more}


def variable(name, label, query):
    """A list to choose from, all by default; `query` is Grafana's label_values(...)."""
    return {
        "name": name, "label": label, "type": "query", "datasource": DATASOURCE,
        "query": {"query": query, "refId": name, "qryType": 1},
        "refresh": 2, "sort": 1, "regex": "", "hide": 0,
        "multi": True, "includeAll": True, "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": [],
    }


def dashboard(uid, title, description, variables, rows):
    """A dashboard of `rows`: (title, panels) each, laid out from left to right."""
    return {
        "id": None, "uid": uid, "title": title, "description": description, "tags": ["pmpo"],
        "schemaVersion": SCHEMA_VERSION, "version": 1, "editable": True, "graphTooltip": 1,
        "fiscalYearStartMonth": 0, "liveNow": False, "weekStart": "", "timezone": "browser",
        "refresh": "15s", "time": {"from": "now-1h", "to": "now"}, "timepicker": {},
        "annotations": {"list": []}, "links": [_all_dashboards()],
        "templating": {"list": [_datasource_variable(), *variables]},
        "panels": _lay_out(rows),
    }


def _all_dashboards():
    return {"type": "dashboards", "title": "PMPO", "tags": ["pmpo"], "asDropdown": False,
            "icon": "external link", "includeVars": False, "keepTime": True,
            "targetBlank": False, "tooltip": "", "url": ""}


def _datasource_variable():
    return {"name": "datasource", "label": "Prometheus", "type": "datasource",
            "query": "prometheus", "refresh": 1, "regex": "", "hide": 0, "multi": False,
            "includeAll": False, "current": {}, "options": []}


def _lay_out(rows):
    panels, y = [], 0
    for title, row in rows:
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False,
                       "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y}, "panels": []})
        x, y, height = 0, y + 1, 0
        for panel in row:
            if x + panel["width"] > COLUMNS:
                x, y, height = 0, y + height, 0
            place = {"h": panel["height"], "w": panel["width"], "x": x, "y": y}
            panels.append(_panel(len(panels) + 1, panel, place))
            x, height = x + panel["width"], max(height, panel["height"])
        y += height
    return panels


def _panel(number, panel, place):
    make = {"graph": _graph, "stat": _stat}[panel["kind"]]
    links = []
    if "link" in panel:
        links = [{"title": "More", "url": f"/d/{panel['link']}?${{__url_time_range}}"}]
    return {
        "id": number, "title": panel["title"], "description": panel["description"],
        "datasource": DATASOURCE, "gridPos": place, "links": links,
        "targets": [_target(chr(ord("A") + i), panel, *query)
                    for i, query in enumerate(panel["queries"])],
        **make(panel),
    }


def _target(letter, panel, expression, legend):
    instant = panel["kind"] == "stat" and panel.get("name", False)
    return {"refId": letter, "datasource": DATASOURCE, "editorMode": "code", "expr": expression,
            "legendFormat": legend, "instant": instant, "range": not instant}


def _defaults(panel):
    defaults = {"unit": panel["unit"], "color": {"mode": "palette-classic"}, "mappings": []}
    if "decimals" in panel:
        defaults["decimals"] = panel["decimals"]
    if "top" in panel:
        defaults |= {"min": 0, "max": panel["top"]}
    return defaults


def _graph(panel):
    stacked = panel.get("stacked", False)
    custom = {
        "drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1,
        "fillOpacity": 60 if stacked else 8, "showPoints": "auto", "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    return {
        "type": "timeseries",
        "fieldConfig": {"defaults": _defaults(panel) | {"custom": custom}, "overrides": []},
        "options": {"legend": LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    }


def _stat(panel):
    steps = [{"color": "green", "value": None}]
    if "red_from" in panel:
        steps.append({"color": "red", "value": panel["red_from"]})
    colour = {"color": {"mode": "thresholds"}, "thresholds": {"mode": "absolute", "steps": steps}}
    return {
        "type": "stat",
        "fieldConfig": {"defaults": _defaults(panel) | colour, "overrides": []},
        "options": {
            "textMode": "name" if panel.get("name") else "value", "colorMode": "value",
            "graphMode": "none", "justifyMode": "auto", "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        },
    }
