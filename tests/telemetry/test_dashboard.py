"""The Grafana dashboard asks only for what there is, and for all of it."""

import json
import re
from pathlib import Path
from typing import Any

from durable.telemetry.metrics import ASKED, TOLD

DASHBOARD: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs" / "dashboard.json").read_text())
#: By the names of its series, what labels each has besides those of Prometheus.
SERIES = {
    name: set(family.labels) | ({"le"} if name.endswith("_bucket") else set())
    for family in (*TOLD, *ASKED)
    for name in (
        [f"{family.prometheus}{suffix}" for suffix in ("_bucket", "_sum", "_count")]
        if family.kind == "histogram"
        else [family.prometheus]
    )
}
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
#: Those of the page about metrics: what to be woken by.
ALERTS = [
    line.partition(" #")[0].rstrip() for line in PAGE.partition("```promql\n")[2].partition("```")[0].splitlines()
]


def test_each_query_names_series_that_exist_and_labels_that_they_have() -> None:
    variables = [one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    for query in (*QUERIES, *variables, *ALERTS):
        named = re.findall(r"durable_\w+", query)
        assert named and set(named) <= SERIES.keys(), query
        labels = set(re.findall(r"(\w+)=~?\"", query)) | {
            label.strip() for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(",")
        }
        assert labels - {"instance"} <= set.intersection(*(SERIES[name] for name in named)), query
        assert query.count("(") == query.count(")") and query.count("{") == query.count("}")


def test_whoever_has_to_act_is_woken() -> None:
    assert len(ALERTS) > 4
    assert 'sum(durable_invocations_open{status="paused"}) > 0' in ALERTS


def test_a_counter_is_asked_for_its_rate_and_a_gauge_is_not() -> None:
    for query in QUERIES:
        for name in re.findall(r"durable_\w+", query):
            grows = name.endswith(("_total", "_bucket", "_sum", "_count"))
            assert bool(re.search(rf"(rate|increase)\({name}\{{", query)) is grows, query


def test_each_metric_is_in_some_panel() -> None:
    named = {name for query in QUERIES for name in re.findall(r"durable_\w+", query)}
    for family in (*TOLD, *ASKED):
        assert any(name.startswith(family.prometheus) for name in named), family.name


def test_it_is_what_grafana_imports() -> None:
    """A title, a uid, a schema, panels with ids and places of their own; the data source is chosen at the import."""
    assert DASHBOARD["title"] and DASHBOARD["uid"] and DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD and "__inputs" not in DASHBOARD
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["type"] in ("timeseries", "stat") and panel["title"]
        for source in (panel, *panel["targets"]):
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == ["datasource", "instance"]
