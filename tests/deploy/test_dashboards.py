"""The dashboards read well, the reference of metrics is true, and a newcomer finds both."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from deploy.local.settings import PROJECT
from deploy.observability.declared import MAKERS, declared, misnamed
from deploy.observability.generated import METRICS_DOC, SCREENS, metrics_reference
from deploy.observability.panels import WIDTH, Dashboard, Panel, Unit
from deploy.observability.pictures import shown
from deploy.observability.service_screens import DASHBOARDS

GUIDE = (PROJECT / "docs" / "observability.md").read_text()
README = (PROJECT / "README.md").read_text()
PICTURES = PROJECT / "docs" / "pictures"
PANELS = [(screen, panel) for screen in DASHBOARDS for panel in screen.panels]
every_screen = pytest.mark.parametrize("screen", DASHBOARDS, ids=lambda one: one.uid)
every_panel = pytest.mark.parametrize(
    "panel", [panel for _, panel in PANELS], ids=[f"{screen.uid}: {panel.title}" for screen, panel in PANELS]
)


def file_of(screen: Dashboard) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((PROJECT / SCREENS / f"{screen.uid}.json").read_text())
    return document


def test_there_is_a_screen_for_the_flow_and_one_for_each_service() -> None:
    assert [screen.uid for screen in DASHBOARDS] == [
        "weelo-order-flow",
        *(f"weelo-{name}" for name in MAKERS),
    ]


@every_panel
def test_the_legend_of_a_panel_names_what_its_series_differ_in(panel: Panel) -> None:
    for query in panel.queries:
        grouped = {
            label.strip() for found in re.findall(r"by \(([^)]*)\)", query.expr) for label in found.split(",")
        } - {"le"}
        named = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
        is_one_by_instance = "by (" not in query.expr and "sum" not in query.expr
        assert named <= (grouped | {"instance"} if is_one_by_instance else grouped), query.legend
        is_sum_of_sums = query.expr.startswith("sum(max by")
        assert is_sum_of_sums or grouped <= named, f"{query.legend} does not tell {grouped - named} apart"


@every_panel
def test_a_panel_tells_its_lines_apart_and_says_what_it_shows(panel: Panel) -> None:
    assert panel.about.endswith(".")
    legends = [query.legend for query in panel.queries]
    assert len(set(legends)) == len(legends)
    assert len(panel.queries) <= 26, "Grafana names queries by one letter"


@every_panel
def test_a_rate_fits_any_scrape_interval_and_zoom(panel: Panel) -> None:
    for query in panel.queries:
        assert set(re.findall(r"\[([^\]]*)\]", query.expr)) <= {"$__rate_interval"}


@every_screen
def test_panels_of_a_screen_have_titles_of_their_own_within_a_row_and_do_not_overlap(
    screen: Dashboard,
) -> None:
    for row in screen.rows:
        titles = [panel.title for panel in row.panels]
        assert len(set(titles)) == len(titles)
    places = [panel["gridPos"] for panel in file_of(screen)["panels"]]
    taken = [
        {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        for at in places
    ]
    assert all(at["x"] + at["w"] <= WIDTH for at in places)
    assert all(not one & other for one, other in itertools.combinations(taken, 2))


@every_screen
def test_a_screen_has_one_variable_the_data_source_and_every_query_uses_it(screen: Dashboard) -> None:
    document = file_of(screen)
    assert [one["name"] for one in document["templating"]["list"]] == ["datasource"]
    targets = [target for panel in document["panels"] for target in panel.get("targets", ())]
    assert targets
    assert {target["datasource"]["uid"] for target in targets} == {"${datasource}"}


@every_screen
def test_the_links_of_a_screen_lead_to_screens(screen: Dashboard) -> None:
    assert screen.links
    assert set(screen.links) <= {one.uid for one in DASHBOARDS} - {screen.uid}


def test_every_service_says_of_its_own_metrics_where_they_are_seen() -> None:
    """A metric that no panel and no alarm asks for is either missing there, or not worth its series."""
    asked = " ".join(query.expr for _, panel in PANELS for query in panel.queries)
    unseen = {
        one.name
        for one in declared().values()
        if one.name.startswith("weelo_") and not any(series in asked for series in one.series)
    }
    assert unseen == {"weelo_consumer_consumed"}  # its five parts are


def test_the_reference_of_metrics_is_made_of_the_code() -> None:
    assert (PROJECT / METRICS_DOC).read_text() == metrics_reference()


@pytest.mark.parametrize("job", MAKERS)
def test_the_reference_names_every_metric_with_its_meaning(job: str) -> None:
    reference = (PROJECT / METRICS_DOC).read_text()
    for one in declared().values():
        if job in one.services:
            assert f"| `{one.name}` | {one.kind} |" in reference
            assert len(one.about) > len("seconds")


def test_every_metric_that_the_guide_names_is_told() -> None:
    named = set(re.findall(r"`(weelo_\w+)`", GUIDE))
    assert named
    assert named <= set(declared())


def test_a_newcomer_finds_it_by_one_click_from_the_readme() -> None:
    assert "(docs/observability.md)" in README
    for link in re.findall(r"\]\(([^)#:]+)", GUIDE):
        assert (PROJECT / "docs" / link).exists(), link


@every_screen
def test_there_is_a_picture_of_each_screen_with_every_panel_on_it(screen: Dashboard) -> None:
    assert f"(pictures/{screen.uid}.svg)" in GUIDE
    drawn = ElementTree.parse(PICTURES / f"{screen.uid}.svg").getroot()  # noqa: S314 - our own file
    texts = {text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {
        screen.title,
        *(row.title for row in screen.rows),
        *(panel.title for panel in screen.panels),
    } <= texts


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("sum(weelo_nothing)", "nobody tells weelo_nothing"),
        ('weelo_outbox_depth{color="red"}', "weelo_outbox_depth has no label color"),
        ('weelo_http_request_seconds_bucket{route="/a/{id}", le="0.31"}', "has no bucket 0.31"),
        ("sum by (outcome) (rate(weelo_consumer_dead_total[5m]))", "no metric of it has the label outcome"),
        ('rate(weelo_order_api_creates{outcome="created"}[5m])', "nobody tells weelo_order_api_creates"),
    ],
)
def test_a_query_that_asks_for_what_nobody_tells_is_found(expression: str, says: str) -> None:
    assert any(says in one for one in misnamed(expression, declared(), frozenset()))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, Unit.SECONDS, "12.3 ms"),
        (0.0000042, Unit.SECONDS, "4.2 µs"),
        (600.0, Unit.SECONDS, "10 min"),
        (0.9991, Unit.SHARE, "99.91 %"),
        (1536.0, Unit.BYTES, "1.5 KiB"),
        (12.0, Unit.PER_SECOND, "12/s"),
        (10_000.0, Unit.COUNT, "10,000"),
    ],
)
def test_numbers_in_pictures_carry_their_unit(value: float, unit: Unit, text: str) -> None:
    assert shown(value, unit) == text
