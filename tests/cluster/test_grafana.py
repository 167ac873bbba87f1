"""The dashboard: made from the list of metrics, all of them and no others, and what Grafana takes."""

import re
from typing import Any

import pytest

from proteinlm.cluster.grafana import as_json, dashboard
from proteinlm.cluster.metrics import METRICS
from tests.conftest import ROOT


def test_the_file_is_what_the_code_makes() -> None:
    assert (ROOT / "cluster" / "dashboards" / "proteinlm.json").read_text() == as_json()


def test_panels_show_every_exported_metric_and_no_other() -> None:
    panels: list[dict[str, Any]] = dashboard()["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    shown = [name for expression in expressions for name in re.findall(r"ray_\w+", expression)]
    assert sorted(shown) == sorted(metric.exported for metric in METRICS)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_metrics_of_one_panel_have_one_unit() -> None:
    units: dict[str, set[str]] = {}
    for metric in METRICS:
        units.setdefault(metric.panel, set()).add(metric.unit)
    assert all(len(found) == 1 for found in units.values())


def test_panels_lie_beside_each_other() -> None:
    cells = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells.add((place["x"], place["y"]))
    assert len(cells) == len(dashboard()["panels"])


def test_grafanas_own_types_take_it() -> None:
    """Grafana's foundation SDK, made from its schema, reads it and writes it again with nothing lost."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    read = models.Dashboard.from_json(dashboard())
    assert read.title == "ProteinLM"
    assert read.panels is not None
    assert [panel.title for panel in read.panels] == [panel["title"] for panel in dashboard()["panels"]]


def test_every_metric_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "watching.md").read_text()
    rows = [f"| `{m.exported}` | {', '.join(m.tags)} | {m.help} |" for m in METRICS]
    assert [row for row in rows if row not in guide] == []
