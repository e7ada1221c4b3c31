"""Makes grafana/dashboards/*.json from grafana/source/*.yml.

    python -m grafana.build

Grafana's own form says everything twenty times over; the source says what differs: title, sentence, unit, queries.
The grid is laid out by widths, so that nothing overlaps. A test compares the files with what this makes, checks them
against Grafana's grid and asks a real Prometheus every query. To try a panel, change it in Grafana, then carry it over
here.

Queries choose by the variables `$model`, `$version` and `$machine`; rates are taken over `$__rate_interval`, which
Grafana fits to the scrape interval. What every gateway or orchestrator shows alike is taken as a maximum.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

HERE = Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "emend-prometheus"}
COLUMNS = 24
SCHEMA_VERSION = 39  # Grafana 11's; later ones bring it up to date when they load it
WIDTHS = {"stat": 4, "timeseries": 12, "bargauge": 12}
HEIGHTS = {"stat": 4, "timeseries": 8, "bargauge": 8}

Kind = Literal["stat", "timeseries", "bargauge"]
Steps = list[tuple[float | None, str]]

# Where a colour begins; None: below all others.
STEPS: dict[str, Steps] = {
    "neutral": [(None, "blue")],
    "errors": [(None, "green"), (0.01, "yellow"), (0.05, "red")],
    "slow": [(None, "green"), (0.25, "yellow"), (0.5, "red")],
    "full": [(None, "green"), (0.8, "yellow"), (0.95, "red")],
    "any_is_bad": [(None, "green"), (1, "red")],
    "all_is_good": [(None, "red"), (1, "green")],
    "accuracy": [(None, "red"), (0.7, "yellow"), (0.85, "green")],
    "waiting": [(None, "green"), (3 * 86400, "yellow"), (7 * 86400, "red")],
}
VARIABLES = {
    "model": ("Model", "label_values(emend_champion_version, model)"),
    "version": ("Version", 'label_values(emend_predictions_total{model=~"$model"}, version)'),
    "machine": ("Machine", "label_values(node_boot_time_seconds, instance)"),
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Panel(_Part):
    """kind and title are one key of the source, e.g. `stat: Live version`. means: one or two sentences for the panel's
    corner. unit: Grafana's id. queries: by their legend, in Grafana's words (`{{label}}`)."""

    kind: Kind
    title: str
    means: str
    unit: str
    queries: dict[str, str]
    width: int
    steps: str | Steps = "neutral"
    lowest: float | None = 0
    highest: float | None = None
    decimals: int | None = None
    stacked: bool = False
    bars: bool = False

    @model_validator(mode="before")
    @classmethod
    def _kind_and_title(cls, given: dict[str, Any]) -> dict[str, Any]:
        (kind,) = given.keys() & WIDTHS.keys()
        rest = {key: value for key, value in given.items() if key != kind}
        return {"width": WIDTHS[kind], **rest, "kind": kind, "title": given[kind]}


class Row(_Part):
    title: str
    panels: list[Panel]


class Dashboard(_Part):
    uid: str
    title: str
    means: str
    past: str
    variables: list[Literal["model", "version", "machine"]]
    rows: list[Row] = Field(min_length=1)


def dashboards() -> dict[Path, Dashboard]:
    """By the file that is made of each."""
    return {
        HERE / "dashboards" / f"{path.stem}.json": Dashboard.model_validate(yaml.safe_load(path.read_text()))
        for path in sorted((HERE / "source").glob("*.yml"))
    }


def as_json(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "annotations": {"list": [_promotions()]},
        "description": dashboard.means,
        "editable": False,
        "graphTooltip": 1,
        "links": _links(),
        "panels": _panels(dashboard.rows),
        "refresh": "30s",
        "schemaVersion": SCHEMA_VERSION,
        "tags": ["emend"],
        "templating": {"list": [_variable(name) for name in dashboard.variables]},
        "time": {"from": dashboard.past, "to": "now"},
        "timezone": "browser",
        "title": dashboard.title,
        "uid": dashboard.uid,
        "version": 1,
    }


def encoded(dashboard: Dashboard) -> str:
    return json.dumps(as_json(dashboard), indent=2, ensure_ascii=False) + "\n"


def _links() -> list[dict[str, Any]]:
    """To the other dashboards, and to the viewer, which nginx has at /runs/ beside /grafana/."""
    return [
        {
            "type": "dashboards", "title": "Emend", "tags": ["emend"], "asDropdown": False, "includeVars": True,
            "keepTime": True, "targetBlank": False, "icon": "dashboard", "tooltip": "", "url": "",
        },
        {
            "type": "link", "title": "Runs", "tags": [], "asDropdown": False, "includeVars": False,
            "keepTime": False, "targetBlank": True, "icon": "external link",
            "tooltip": "Each run with its log and verdict", "url": "/runs/",
        },
    ]  # fmt: skip


def _promotions() -> dict[str, Any]:
    """A line in every graph where another version went live."""
    return {
        "datasource": SOURCE,
        "enable": True,
        "expr": "changes(model:emend_champion_version:max[2m]) > 0",
        "iconColor": "purple",
        "name": "Promotions",
        "step": "60s",
        "tagKeys": "model",
        "titleFormat": "Another version is live",
    }


def _variable(name: str) -> dict[str, Any]:
    label, query = VARIABLES[name]
    return {
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": SOURCE,
        "definition": query,
        "includeAll": True,
        "label": label,
        "multi": True,
        "name": name,
        "query": {
            "qryType": 1,
            "query": query,
            "refId": "PrometheusVariableQueryEditor-VariableQuery",
        },
        "refresh": 2,
        "sort": 4,
        "type": "query",
    }


def _panels(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of Grafana one below the other, their panels in lines of 24 columns."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        panels.append(_row(row, len(panels) + 1, y))
        y += 1
        x = 0
        for panel in row.panels:
            grid = {"h": HEIGHTS[panel.kind], "w": panel.width, "x": x, "y": y}
            panels.append(_panel(panel, len(panels) + 1, grid))
            x += panel.width
            if x == COLUMNS:
                x, y = 0, y + HEIGHTS[panel.kind]
        assert x == 0, f"the widths of {row.title!r} do not fill its last line"
    return panels


def _row(row: Row, id_: int, y: int) -> dict[str, Any]:
    grid = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
    return {"collapsed": False, "gridPos": grid, "id": id_, "panels": [], "title": row.title, "type": "row"}


def _panel(panel: Panel, id_: int, grid: dict[str, int]) -> dict[str, Any]:
    return {
        "datasource": SOURCE,
        "description": panel.means,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "gridPos": grid,
        "id": id_,
        "options": _options(panel),
        "targets": [
            _target(expr, legend, ref_id, panel.kind)
            for ref_id, (legend, expr) in zip("ABCDEFGH", panel.queries.items(), strict=False)
        ],
        "title": panel.title,
        "type": panel.kind,
    }


def _target(expr: str, legend: str, ref_id: str, kind: Kind) -> dict[str, Any]:
    now = kind == "bargauge"
    return {
        "datasource": SOURCE,
        "editorMode": "code",
        "expr": expr,
        "instant": now,
        "legendFormat": legend,
        "range": not now,
        "refId": ref_id,
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    lined = panel.kind == "timeseries"
    steps = STEPS[panel.steps] if isinstance(panel.steps, str) else panel.steps
    found: dict[str, Any] = {
        "color": {"mode": "palette-classic" if lined else "thresholds"},
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": color, "value": value} for value, color in steps],
        },
        "unit": panel.unit,
    }
    for key, value in (("min", panel.lowest), ("max", panel.highest), ("decimals", panel.decimals)):
        if value is not None:
            found[key] = value
    if lined:
        found["custom"] = {
            "drawStyle": "bars" if panel.bars else "line",
            "fillOpacity": 60 if panel.bars else 15 if panel.stacked else 0,
            "lineWidth": 1,
            "showPoints": "never",
            "spanNulls": 120_000,  # milliseconds: a scrape that failed is no gap
            "stacking": {"group": "A", "mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": "off" if panel.steps == "neutral" else "dashed"},
        }
    return found


def _options(panel: Panel) -> dict[str, Any]:
    latest = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if panel.kind == "timeseries":
        return {
            "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if panel.kind == "stat":
        return {
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "reduceOptions": latest,
            "textMode": "auto",
        }
    return {
        "displayMode": "basic",
        "minVizHeight": 16,
        "minVizWidth": 8,
        "orientation": "horizontal",
        "reduceOptions": latest,
        "showUnfilled": True,
        "valueMode": "color",
    }


def main() -> None:
    for path, dashboard in dashboards().items():
        path.write_text(encoded(dashboard))


if __name__ == "__main__":
    main()
