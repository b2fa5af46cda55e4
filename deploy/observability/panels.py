"""The pieces of a dashboard, and what Grafana makes of them: rows of panels, each with its queries, unit and limits.

Pure: a description goes in, Grafana's classic JSON model comes out (https://grafana.com/docs, "Dashboard JSON model").
Nothing here knows a metric. One variable, the data source; rates use ``$__rate_interval``, so that they fit any scrape
interval and any zoom.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

SCHEMA_VERSION = 39  # of Grafana 11; newer ones bring it up to date by themselves
WIDTH = 24  # columns of Grafana's grid
ROW_HEIGHT = 1  # grid units, some 30 pixels each
MIN_STEP = "30s"  # the slowest scrape that is meant; rates then look at two minutes or more
DATA_SOURCE: Mapping[str, str] = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED = "green", "yellow", "red"


class Unit(StrEnum):
    """Grafana's names of units."""

    PER_SECOND = "reqps"
    EVENTS_PER_SECOND = "eps"
    SECONDS = "s"
    SHARE = "percentunit"
    COUNT = "short"
    BYTES = "bytes"
    CORES = "none"


class Kind(StrEnum):
    """How a panel shows its numbers."""

    LINES = "timeseries"
    STACK = "stack"
    """Lines on top of one another: parts of a whole."""
    NUMBER = "stat"


@dataclass(frozen=True)
class Query:
    """One PromQL expression. ``legend`` names its series, with ``{{label}}`` for what differs.

    ``silent_when_well``: it finds no series as long as all is well, as errors do.
    """

    expr: str
    legend: str
    silent_when_well: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture.

    From the value ``bad_from`` on it is red, from ``warn_from`` on yellow; or it is red below ``bad_below``.
    """

    title: str
    queries: Sequence[Query]
    unit: Unit
    about: str
    kind: Kind = Kind.LINES
    warn_from: float | None = None
    bad_from: float | None = None
    bad_below: float | None = None
    width: int = 8
    height: int = 8
    decimals: int | None = None


@dataclass(frozen=True)
class Row:
    """Panels under one heading, side by side as far as they fit."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Dashboard:
    """One screen. ``uid`` is its address, and its file's name."""

    uid: str
    title: str
    about: str
    rows: Sequence[Row]
    links: Sequence[str] = field(default=())
    """Uids of dashboards that one goes to from here."""

    @property
    def panels(self) -> Iterator[Panel]:
        """All panels, in order."""
        for row in self.rows:
            yield from row.panels


def grafana_json(dashboard: Dashboard, titles: Mapping[str, str]) -> dict[str, Any]:
    """The dashboard as Grafana reads it; ``titles`` are those of all dashboards, by uid."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["weelo"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,  # one cross-hair over all panels
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "templating": {"list": [_data_source_variable()]},
        "annotations": {"list": [_alarms()]},
        "links": [_link(uid, titles[uid]) for uid in dashboard.links],
        "panels": list(_placed(dashboard)),
    }


def _data_source_variable() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "refresh": 1,
        "regex": "",
        "multi": False,
        "includeAll": False,
        "options": [],
    }


def _alarms() -> dict[str, Any]:
    """Alarms that ring, as red marks in every picture."""
    return {
        "name": "Alarms",
        "datasource": DATA_SOURCE,
        "enable": True,
        "iconColor": RED,
        "expr": 'max by (alertname, severity) (ALERTS{alertstate="firing"})',
        "step": MIN_STEP,
        "titleFormat": "{{alertname}}",
        "textFormat": "{{severity}}",
    }


def _link(uid: str, title: str) -> dict[str, Any]:
    return {
        "title": title,
        "type": "link",
        "url": f"/d/{uid}",
        "icon": "dashboard",
        "keepTime": True,
        "includeVars": True,
        "targetBlank": False,
    }


def _placed(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    """Rows and panels with their places in the grid: left to right, then down."""
    number, top = 0, 0
    for row in dashboard.rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": ROW_HEIGHT},
            "panels": [],
        }
        top += ROW_HEIGHT
        left = line_height = 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                left, top, line_height = 0, top + line_height, 0
            number += 1
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            yield _panel(panel, number, place)
            left += panel.width
            line_height = max(line_height, panel.height)
        top += line_height


def _panel(panel: Panel, number: int, place: Mapping[str, int]) -> dict[str, Any]:
    is_number = panel.kind is Kind.NUMBER
    return {
        "id": number,
        "type": "stat" if is_number else "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": DATA_SOURCE,
        "gridPos": dict(place),
        "interval": MIN_STEP,
        "targets": [
            {
                "refId": chr(ord("A") + position),
                "datasource": DATA_SOURCE,
                "editorMode": "code",
                "expr": query.expr,
                "legendFormat": query.legend,
                "range": not is_number,
                "instant": is_number,
            }
            for position, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _field_defaults(panel), "overrides": []},
        "options": _number_options() if is_number else _lines_options(),
    }


def _field_defaults(panel: Panel) -> dict[str, Any]:
    limits: dict[str, Any] = {
        "unit": panel.unit.value,
        "thresholds": {"mode": "absolute", "steps": _steps(panel)},
    }
    if panel.decimals is not None:
        limits["decimals"] = panel.decimals
    if panel.kind is Kind.NUMBER:
        return {**limits, "color": {"mode": "thresholds"}, "noValue": "–"}
    stacked = panel.kind is Kind.STACK
    has_limits = len(_steps(panel)) > 1
    return {
        **limits,
        "min": 0,
        "color": {"mode": "palette-classic"},
        "custom": {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if stacked else 5,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if has_limits else "off"},
        },
    }


def _steps(panel: Panel) -> list[dict[str, Any]]:
    if panel.bad_below is not None:
        return [{"color": RED, "value": None}, {"color": GREEN, "value": panel.bad_below}]
    steps: list[dict[str, Any]] = [{"color": GREEN, "value": None}]
    for color, value in ((YELLOW, panel.warn_from), (RED, panel.bad_from)):
        if value is not None:
            steps.append({"color": color, "value": value})
    return steps


def _number_options() -> dict[str, Any]:
    return {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "auto",
        "justifyMode": "auto",
        "orientation": "auto",
    }


def _lines_options() -> dict[str, Any]:
    return {
        "legend": {
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
