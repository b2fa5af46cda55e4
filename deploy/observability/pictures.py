"""`python -m deploy.observability.pictures --prometheus URL`: draw the dashboards as SVG, from the same queries.

For the documents: one sees what a dashboard holds without a Grafana. Titles, units, limits and places are those of the
description. It must never be mistaken for Grafana's own drawing, and says so in each picture.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import httpx

from deploy.local.settings import PROJECT
from deploy.observability.panels import ROW_HEIGHT, WIDTH, Dashboard, Kind, Panel, Unit
from deploy.observability.service_screens import DASHBOARDS
from deploy.observability.shared_panels import WINDOW

OUT = PROJECT / "docs" / "pictures"
COLUMN, LINE = 54, 30  # pixels of one unit of the grid
HEAD = 46  # pixels above the first row
GAP = 6
NARROW = 250  # a panel below this shows one number of each series
POINTS = 90  # along the time axis
MOST_NAMED = 5  # series in a legend; the rest are counted
QUERY_TIMEOUT_S = 30.0
COLOURS = ("#2f6fb0", "#d9822b", "#3a9d5d", "#b5447a", "#7a63c0", "#00888f", "#a08216", "#666666")
STATES = {"good": "#2e8b57", "warn": "#c98a00", "bad": "#c0392b"}
STYLE = (
    "text{font-family:Helvetica,Arial,sans-serif;fill:#333}.t{font-size:12px;font-weight:bold}"
    ".a{font-size:9px;fill:#777}.l{font-size:10px}.r{font-size:14px;font-weight:bold}.h{font-size:19px;font-weight:bold}"
)


@dataclass(frozen=True)
class Series:
    """A name and its values, one for each point in time; None where there is none."""

    name: str
    values: Sequence[float | None]

    @property
    def known(self) -> list[float]:
        return [value for value in self.values if value is not None]


@dataclass(frozen=True)
class Span:
    """The time that is drawn, in Unix seconds, and the window of rates."""

    start: float
    end: float
    window_s: int

    @property
    def step(self) -> float:
        return (self.end - self.start) / POINTS


def fetch(client: httpx.Client, panel: Panel, span: Span) -> list[Series]:
    """All series of a panel. Raises httpx.HTTPError where Prometheus does not answer, or refuses."""
    found: list[Series] = []
    for query in panel.queries:
        parameters = {
            "query": query.expr.replace(WINDOW, f"{span.window_s}s"),
            "start": f"{span.start:.3f}",
            "end": f"{span.end:.3f}",
            "step": f"{span.step:.3f}",
        }
        answer = client.get("/api/v1/query_range", params=parameters).raise_for_status()
        for one in answer.json()["data"]["result"]:
            values: list[float | None] = [None] * (POINTS + 1)
            for moment, text in one["values"]:
                number = float(text)
                place = round((float(moment) - span.start) / span.step)
                if math.isfinite(number) and 0 <= place <= POINTS:
                    values[place] = number
            if any(value is not None for value in values):
                found.append(Series(_named(query.legend, one["metric"]), values))
    return found


def _named(legend: str, labels: Mapping[str, str]) -> str:
    for label, value in labels.items():
        legend = legend.replace(f"{{{{{label}}}}}", value)
    return legend.replace("weelo.", "").replace(".v1", "")


def shown(value: float, unit: Unit) -> str:
    """A number as Grafana would put it: three digits, with its unit."""
    if value == 0:
        return "0"
    match unit:
        case Unit.SECONDS:
            for limit, factor, name in (
                (1e-3, 1e6, "µs"),
                (1, 1e3, "ms"),
                (120, 1, "s"),
                (7200, 1 / 60, "min"),
            ):
                if abs(value) < limit:
                    return f"{value * factor:.3g} {name}"
            return f"{value / 3600:.3g} h"
        case Unit.SHARE:
            return f"{value * 100:.2f} %"
        case Unit.BYTES:
            for limit, name in ((1024, "B"), (1024**2, "KiB"), (1024**3, "MiB")):
                if abs(value) < limit:
                    return f"{value * 1024 / limit:.3g} {name}"
            return f"{value / 1024**3:.3g} GiB"
        case Unit.PER_SECOND | Unit.EVENTS_PER_SECOND:
            return f"{value:.3g}/s"
        case _:
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def draw(dashboard: Dashboard, series: Mapping[int, Sequence[Series]], span: Span) -> str:
    """The picture; ``series`` by the panel's number, from 0."""
    body: list[str] = []
    top = number = 0
    for row in dashboard.rows:
        body.append(f'<text class="r" x="{GAP}" y="{HEAD + top * LINE + 20}">{escape(row.title)}</text>')
        top += ROW_HEIGHT
        left = tallest = 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                left, top, tallest = 0, top + tallest, 0
            box = (
                left * COLUMN + GAP // 2,
                HEAD + top * LINE,
                panel.width * COLUMN - GAP,
                panel.height * LINE - GAP,
            )
            body += _panel(panel, series[number], box)
            number += 1
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest
    width, height = WIDTH * COLUMN, HEAD + top * LINE + GAP
    minutes = (span.end - span.start) / 60
    told = f"{minutes:.1f} minutes of the demo; drawn from the dashboard's own queries, not by Grafana"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
            f"<style>{STYLE}</style>",
            f'<rect width="{width}" height="{height}" fill="#f4f5f7"/>',
            f'<text class="h" x="{GAP}" y="22">{escape(dashboard.title)}</text>',
            f'<text class="a" x="{GAP}" y="37">{escape(told)}</text>',
            *body,
            "</svg>\n",
        ]
    )


Box = tuple[int, int, int, int]  # left, top, width, height in pixels


def _panel(panel: Panel, series: Sequence[Series], box: Box) -> Iterator[str]:
    x, y, width, height = box
    yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" fill="#fff" stroke="#dcdfe3"/>'
    yield f'<text class="t" x="{x + 8}" y="{y + 17}">{escape(panel.title)}</text>'
    if not series:
        is_well = all(query.silent_when_well for query in panel.queries)
        told = "nothing: all is well" if is_well else "nothing in this time"
        yield f'<text class="l" x="{x + 8}" y="{y + height // 2}">{told}</text>'
    elif panel.kind is Kind.NUMBER:
        yield from _numbers(panel, series, box)
    else:
        yield from _lines(panel, series, box)


def _numbers(panel: Panel, series: Sequence[Series], box: Box) -> Iterator[str]:
    x, y, width, height = box
    share = width / len(series)
    for position, one in enumerate(series):
        value = one.known[-1]
        middle = x + share * (position + 0.5)
        size = 26 if len(series) < 3 else 20
        colour = STATES[_state(panel, value)]
        yield (
            f'<text x="{middle:.0f}" y="{y + height * 0.62:.0f}" text-anchor="middle" '
            f'style="font-size:{size}px;fill:{colour}">{escape(shown(value, panel.unit))}</text>'
        )
        yield (
            f'<text class="a" x="{middle:.0f}" y="{y + height * 0.62 + 18:.0f}" text-anchor="middle">'
            f"{escape(one.name)}</text>"
        )


def _state(panel: Panel, value: float) -> str:
    if panel.bad_below is not None:
        return "bad" if value < panel.bad_below else "good"
    if panel.bad_from is not None and value >= panel.bad_from:
        return "bad"
    return "warn" if panel.warn_from is not None and value >= panel.warn_from else "good"


def _lines(panel: Panel, series: Sequence[Series], box: Box) -> Iterator[str]:
    x, y, width, height = box
    named = sorted(series, key=lambda one: -max(one.known))[:MOST_NAMED]
    legend_height = 13 * (min(len(series), MOST_NAMED) + (len(series) > MOST_NAMED))
    left, right, top, bottom = x + 52, x + width - 10, y + 28, y + height - legend_height - 10
    tall = _stacked(series) if panel.kind is Kind.STACK else [one.values for one in series]
    ceiling = _ceiling(max((value or 0.0) for values in tall for value in values), panel.unit)

    def place(position: int, value: float) -> str:
        return (
            f"{left + (right - left) * position / POINTS:.1f},{bottom - (bottom - top) * value / ceiling:.1f}"
        )

    for part in (0.0, 0.5, 1.0):
        level = bottom - (bottom - top) * part
        yield f'<path d="M{left},{level:.1f}H{right}" stroke="#eceef0"/>'
        label = escape(shown(ceiling * part, panel.unit))
        yield f'<text class="a" x="{left - 4}" y="{level + 3:.1f}" text-anchor="end">{label}</text>'
    for limit, state in ((panel.warn_from, "warn"), (panel.bad_from, "bad"), (panel.bad_below, "bad")):
        if limit is not None and limit <= ceiling:
            level = bottom - (bottom - top) * limit / ceiling
            yield f'<path d="M{left},{level:.1f}H{right}" stroke="{STATES[state]}" stroke-dasharray="4 3"/>'
    for number in reversed(range(len(series))):
        colour = COLOURS[number % len(COLOURS)]
        for first, run in _runs(tall[number]):
            path = "L".join(place(first + offset, value) for offset, value in enumerate(run))
            if panel.kind is Kind.STACK:
                below = tall[number - 1] if number else [0.0] * (POINTS + 1)
                floor = "L".join(
                    place(first + offset, below[first + offset] or 0.0)
                    for offset in reversed(range(len(run)))
                )
                yield f'<path d="M{path}L{floor}Z" fill="{colour}" fill-opacity="0.45"/>'
            yield f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.3"/>'
    for line, one in enumerate(named):
        colour = COLOURS[series.index(one) % len(COLOURS)]
        level = y + height - legend_height + 13 * line + 3
        yield f'<rect x="{x + 8}" y="{level - 7}" width="9" height="7" fill="{colour}"/>'
        most = shown(max(one.known), panel.unit)
        numbers = f"max {most}" if width < NARROW else f"last {shown(one.known[-1], panel.unit)}, max {most}"
        room = int((width - 35 - 4.8 * len(numbers)) / 5.6)  # characters of the name
        name = one.name if len(one.name) <= room else f"{one.name[: room - 1]}…"
        yield f'<text class="l" x="{x + 21}" y="{level}">{escape(name)}</text>'
        yield f'<text class="a" x="{x + width - 10}" y="{level}" text-anchor="end">{numbers}</text>'
    if len(series) > MOST_NAMED:
        level = y + height - legend_height + 13 * MOST_NAMED + 3
        yield f'<text class="a" x="{x + 21}" y="{level}">and {len(series) - MOST_NAMED} more</text>'


def _stacked(series: Sequence[Series]) -> list[list[float | None]]:
    """Each on top of those before it."""
    below = [0.0] * (POINTS + 1)
    stacked: list[list[float | None]] = []
    for one in series:
        below = [so_far + (value or 0.0) for so_far, value in zip(below, one.values, strict=True)]
        stacked.append([*below])
    return stacked


def _runs(values: Sequence[float | None]) -> Iterator[tuple[int, list[float]]]:
    """Stretches without a gap, each with where it begins."""
    run: list[float] = []
    for position, value in enumerate([*values, None]):
        if value is not None:
            run.append(max(0.0, value))
        elif run:
            yield position - len(run), run
            run = []


def _ceiling(most: float, unit: Unit) -> float:
    """The next of 1, 2, 5 times a power of ten; for bytes, the next power of two."""
    if most <= 0:
        return 1.0
    if unit is Unit.BYTES:
        return 2.0 ** math.ceil(math.log2(most))
    power = 10.0 ** math.floor(math.log10(most))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= most)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where Prometheus does not answer."""
    parser = argparse.ArgumentParser(prog="python -m deploy.observability.pictures", description=__doc__)
    parser.add_argument("--prometheus", required=True, metavar="URL")
    parser.add_argument("--minutes", type=float, default=5.0, help="how far back from --until")
    parser.add_argument("--until", type=float, default=time.time(), metavar="UNIX_SECONDS")
    parser.add_argument(
        "--window", type=int, default=30, metavar="SECONDS", help="of rates; four scrapes at least"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    span = Span(options.until - options.minutes * 60, options.until, options.window)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with httpx.Client(base_url=options.prometheus, timeout=QUERY_TIMEOUT_S) as client:
            for one in DASHBOARDS:
                series = {number: fetch(client, panel, span) for number, panel in enumerate(one.panels)}
                (options.out / f"{one.uid}.svg").write_text(draw(one, series, span), encoding="utf-8")
    except httpx.HTTPError as error:
        print(f"pictures: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
