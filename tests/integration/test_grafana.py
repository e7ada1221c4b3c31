"""The dashboards as files: made from their source, whole, and as Grafana reads them.

Every query is asked of a real Prometheus in tests/acceptance/test_dashboards.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grafana.build import COLUMNS, dashboards, encoded
from tests.integration.test_prometheus import rules
from tests.support import exported

GRAFANA = Path(__file__).parents[2] / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
UID = "emend-prometheus"
# Of Grafana's list of units (packages/grafana-data/src/valueFormats/categories.ts), those that are used here.
UNITS = Literal[
    "none", "short", "percent", "percentunit", "s", "reqps", "ops", "bytes", "Bps", "watt", "celsius"
]
Text = Field(min_length=3)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Source(Strict):
    type: Literal["prometheus"]
    uid: Literal["emend-prometheus"]


class Grid(Strict):
    h: int = Field(ge=1, le=20)
    w: int = Field(ge=1, le=COLUMNS)
    x: int = Field(ge=0, lt=COLUMNS)
    y: int = Field(ge=0)


class Target(Strict):
    datasource: Source
    editorMode: Literal["code"]
    expr: str = Text
    instant: bool
    legendFormat: str = Field(min_length=1)
    range: bool
    refId: str = Field(pattern=r"^[A-Z]$")


class Step(Strict):
    color: Literal["blue", "green", "yellow", "red"]
    value: float | None


class Thresholds(Strict):
    mode: Literal["absolute"]
    steps: list[Step] = Field(min_length=1)


class Color(Strict):
    mode: Literal["palette-classic", "thresholds"]


class Stacking(Strict):
    group: Literal["A"]
    mode: Literal["none", "normal"]


class ThresholdsStyle(Strict):
    mode: Literal["off", "dashed"]


class Custom(Strict):
    drawStyle: Literal["line", "bars"]
    fillOpacity: int = Field(ge=0, le=100)
    lineWidth: int
    showPoints: Literal["never"]
    spanNulls: int
    stacking: Stacking
    thresholdsStyle: ThresholdsStyle


class Defaults(Strict):
    color: Color
    thresholds: Thresholds
    unit: UNITS
    min: float | None = None
    max: float | None = None
    decimals: int | None = None
    custom: Custom | None = None


class FieldConfig(Strict):
    defaults: Defaults
    overrides: list[Any] = Field(max_length=0)


class Panel(Strict):
    datasource: Source
    description: str = Text
    fieldConfig: FieldConfig
    gridPos: Grid
    id: int
    options: dict[str, Any]
    targets: list[Target] = Field(min_length=1)
    title: str = Text
    type: Literal["timeseries", "stat", "bargauge"]


class Row(Strict):
    collapsed: Literal[False]
    gridPos: Grid
    id: int
    panels: list[Any] = Field(max_length=0)
    title: str = Text
    type: Literal["row"]


class VariableQuery(Strict):
    qryType: Literal[1]
    query: str = Field(pattern=r"^label_values\(.+, \w+\)$")
    refId: str


class Variable(Strict):
    allValue: Literal[".*"]
    current: dict[str, Any]
    datasource: Source
    definition: str
    includeAll: Literal[True]
    label: str = Text
    multi: Literal[True]
    name: str
    query: VariableQuery
    refresh: Literal[2]
    sort: int
    type: Literal["query"]


class Variables(Strict):
    list: list[Variable]


class Annotation(Strict):
    datasource: Source
    enable: bool
    expr: str = Text
    iconColor: str
    name: str = Text
    step: str
    tagKeys: str
    titleFormat: str = Text


class Annotations(Strict):
    list: list[Annotation]


class Link(Strict):
    type: Literal["dashboards", "link"]
    title: str = Text
    tags: list[str]
    asDropdown: bool
    includeVars: bool
    keepTime: bool
    targetBlank: bool
    icon: str
    tooltip: str
    url: str


class Dashboard(Strict):
    annotations: Annotations
    description: str = Text
    editable: bool
    graphTooltip: Literal[1]
    links: list[Link]
    panels: list[Panel | Row] = Field(min_length=2)
    refresh: str = Field(pattern=r"^\d+[sm]$")
    schemaVersion: int = Field(ge=39)  # Grafana 11 and later bring these up to date without a loss
    tags: list[Literal["emend"]]
    templating: Variables
    time: dict[Literal["from", "to"], str]
    timezone: Literal["browser"]
    title: str = Text
    uid: str = Field(pattern=r"^emend-[a-z]+$", max_length=40)
    version: int


def read(path: Path) -> Dashboard:
    return Dashboard.model_validate_json(path.read_bytes())


def panels(dashboard: Dashboard) -> list[Panel]:
    return [panel for panel in dashboard.panels if isinstance(panel, Panel)]


def test_there_are_four_and_each_is_what_its_source_makes() -> None:
    assert [path.stem for path in FILES] == ["learning", "machine", "pipeline", "service"]
    assert sorted(dashboards()) == FILES
    for path, dashboard in dashboards().items():
        assert path.read_text() == encoded(dashboard), "run `python -m grafana.build`"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dashboard_has_the_form_that_grafana_reads(path: Path) -> None:
    dashboard = read(path)
    ids = [panel.id for panel in dashboard.panels]
    assert len(set(ids)) == len(ids)
    for panel in panels(dashboard):
        refs = [target.refId for target in panel.targets]
        assert len(set(refs)) == len(refs), panel.title
        assert panel.description.endswith("."), panel.title
        assert all(target.instant != target.range for target in panel.targets), panel.title
        assert (panel.fieldConfig.defaults.custom is not None) == (panel.type == "timeseries"), panel.title
        steps = [step.value for step in panel.fieldConfig.defaults.thresholds.steps]
        assert steps[0] is None, panel.title
        assert steps[1:] == sorted(step for step in steps if step is not None), panel.title


def test_the_check_of_the_form_finds_what_grafana_would_not_take() -> None:
    good = json.loads(FILES[0].read_bytes())
    panel = next(i for i, each in enumerate(good["panels"]) if each["type"] != "row")
    changes: list[dict[str, Any]] = [
        {"title": ""},
        {"description": ""},
        {"targets": []},
        {"datasource": {"type": "prometheus", "uid": "another"}},
        {"gridPos": {"h": 8, "w": 25, "x": 0, "y": 0}},
        {"unheard-of": 1},
    ]
    for change in changes:
        bad = json.loads(json.dumps(good))
        bad["panels"][panel].update(change)
        with pytest.raises(ValidationError):
            Dashboard.model_validate_json(json.dumps(bad))
    bad = json.loads(json.dumps(good))
    bad["panels"][panel]["fieldConfig"]["defaults"]["unit"] = "furlongs"
    with pytest.raises(ValidationError):
        Dashboard.model_validate_json(json.dumps(bad))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_fill_the_grid_without_a_hole_or_an_overlap(path: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in read(path).panels:
        grid = panel.gridPos
        assert grid.x + grid.w <= COLUMNS, panel.title
        for cell in [(x, y) for x in range(grid.x, grid.x + grid.w) for y in range(grid.y, grid.y + grid.h)]:
            assert cell not in taken, f"{panel.title} lies over {taken[cell]}"
            taken[cell] = panel.title
    height = 1 + max(y for _, y in taken)
    assert len(taken) == COLUMNS * height


def test_ids_and_titles_of_dashboards_are_their_own() -> None:
    found = [read(path) for path in FILES]
    assert len({dashboard.uid for dashboard in found}) == len({d.title for d in found}) == len(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_metric_of_a_dashboard_is_exported(path: Path) -> None:
    known = exported.metrics() | {rule["record"] for rule in rules("record")}
    dashboard = read(path)
    for panel in panels(dashboard):
        for target in panel.targets:
            assert exported.named_in(target.expr) - known == set(), panel.title
    for annotation in dashboard.annotations.list:
        assert exported.named_in(annotation.expr) <= known
    for variable in dashboard.templating.list:
        assert set(re.findall(r"\(([a-z_]+)", variable.query.query)) <= known, variable.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dashboard_uses_its_variables_and_no_others(path: Path) -> None:
    dashboard = read(path)
    queries = " ".join(target.expr for panel in panels(dashboard) for target in panel.targets)
    given = {variable.name for variable in dashboard.templating.list}
    used = set(re.findall(r"\$([a-z]+)", queries))
    assert used == given


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_legend_names_labels_that_its_query_keeps(path: Path) -> None:
    """Of a sum or maximum by labels, Grafana would show a label that is gone as it is written, in braces."""
    for panel in panels(read(path)):
        for target in panel.targets:
            kept = re.findall(r"\bby \(([^)]*)\)", target.expr)
            named = set(re.findall(r"\{\{(\w+)\}\}", target.legendFormat))
            if kept and not target.expr.startswith(("rate", "time() - node", "1 - node", "node")):
                assert named <= {label.strip() for label in kept[0].split(",")}, panel.title


def test_dashboards_lead_to_each_other_and_to_the_viewer() -> None:
    for path in FILES:
        links = {link.type: link for link in read(path).links}
        assert links["dashboards"].tags == ["emend"]
        assert links["link"].url == "/runs/"


def test_what_is_provisioned_is_what_the_panels_name() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert (source["uid"], source["type"]) == (UID, "prometheus")
    scraped = yaml.safe_load((GRAFANA.parent / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "emend.yml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
