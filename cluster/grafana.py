"""The Grafana dashboard of cluster/metrics.py, as JSON on standard output.

It is kept by `python -m proteinlm.cluster.grafana > cluster/dashboards/proteinlm.json`.
"""

import json
from typing import Any

from proteinlm.cluster.metrics import LAUNCH, METRICS, Metric

SCHEMA_VERSION = 39
"""Version of Grafana's dashboard schema (Grafana 11); a newer Grafana brings it up to its own."""
WIDTH, HEIGHT, COLUMNS = 8, 8, 3
"""Of a panel, in units of Grafana's grid, which is 24 wide."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """The dashboard: a panel for each title of the metrics, in their order, for the runs chosen at its top."""
    titles = dict.fromkeys(metric.panel for metric in METRICS)
    return {
        "uid": "proteinlm",
        "title": "ProteinLM",
        "tags": ["proteinlm", "ray"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source_variable(), _run_variable()]},
        "annotations": {"list": []},
        "panels": [
            _panel(number, title, [metric for metric in METRICS if metric.panel == title])
            for number, title in enumerate(titles)
        ],
    }


def expression(metric: Metric) -> str:
    """PromQL: one series for each run and tag, whichever process of whichever node exported it."""
    chosen = f'{metric.exported}{{run=~"$run"}}'
    if metric is LAUNCH:  # each launch is another process; subquery, since `changes` must see them as one series
        return f"changes(max by (run) ({chosen})[1h:])"
    return f"max by ({', '.join(metric.tags)}) ({chosen})"


def _panel(number: int, title: str, metrics: list[Metric]) -> dict[str, Any]:
    row, column = divmod(number, COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "description": "\n".join(metric.help for metric in metrics),
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": metrics[0].unit}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": expression(metric),
                "legendFormat": _legend(metric, is_alone=len(metrics) == 1),
            }
            for place, metric in enumerate(metrics)
        ],
    }


def _legend(metric: Metric, *, is_alone: bool) -> str:
    tags = " ".join(f"{{{{{tag}}}}}" for tag in metric.tags)
    return tags if is_alone else f"{tags} {metric.name}"


def _source_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _run_variable() -> dict[str, Any]:
    """All runs and sweeps that exported anything in the chosen time."""
    names = "|".join(metric.exported for metric in METRICS if metric.name in ("step", "trials"))
    query = f'label_values({{__name__=~"{names}"}}, run)'
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": "runs"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def as_json() -> str:
    """The dashboard's file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    print(as_json(), end="")
