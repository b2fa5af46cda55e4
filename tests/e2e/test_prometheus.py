"""A dashboard that shows nothing and an alarm that asks for nothing are found here: by a Prometheus, on an evening."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deploy.local.services import ServiceProcess
from deploy.observability.declared import MAKERS, PROMETHEUS_OWN, declared, names_in
from deploy.observability.service_screens import DASHBOARDS
from tests.e2e.city import City, new_subtype, order_body
from tests.e2e.prometheus_rig import Prometheus, reading
from tests.e2e.traffic import Traffic

PROGRAM = shutil.which("prometheus")
PATIENCE_S = 60.0  # most of it passes only where something is wrong
LOOK_PERIOD_S = 1.0  # as often as Prometheus reads

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="needs prometheus (Debian: apt-get install prometheus)"
)


@pytest.fixture
def prometheus(tmp_path: Path, services: Mapping[str, ServiceProcess]) -> Iterator[Prometheus]:
    assert PROGRAM is not None
    with reading(PROGRAM, tmp_path, services) as running:
        yield running


async def test_every_panel_and_every_rule_finds_what_it_asks_for(city: City, prometheus: Prometheus) -> None:
    rules = await asyncio.to_thread(prometheus.rules)
    wanted = {
        query.expr: f"{screen.title} / {panel.title} / {query.legend}"
        for screen in DASHBOARDS
        for panel in screen.panels
        for query in panel.queries
        if not query.silent_when_well
    }
    wanted |= {rule["name"]: f"record {rule['name']}" for rule in rules if rule["type"] == "recording"}
    silent = {query.expr for one in DASHBOARDS for panel in one.panels for query in panel.queries} - set(
        wanted
    )
    silent |= {rule["query"] for rule in rules if rule["type"] == "alerting"}
    traffic = Traffic(city, random.Random(1))
    forsaken = await city.customer().create(
        order_body(new_subtype())
    )  # no captain has such a truck: it expires
    assert forsaken.status == 201
    async with traffic.flowing():
        await traffic.reached("created", 20)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while wanted:
                    await city.customer().phone.call("GET", city.url("notifier", "/notifications"))
                    await asyncio.to_thread(_strike_out, prometheus, wanted)
                    await asyncio.sleep(LOOK_PERIOD_S if wanted else 0)
        except TimeoutError:
            pytest.fail("no data: " + "\n".join(f"{where}: {expr}" for expr, where in wanted.items()))
    assert await asyncio.to_thread(_without_metrics, prometheus, silent) == []
    rules = await asyncio.to_thread(prometheus.rules)
    async with asyncio.timeout(PATIENCE_S):
        while any(rule["health"] == "unknown" for rule in rules):  # it was not asked yet
            await asyncio.sleep(LOOK_PERIOD_S)
            rules = await asyncio.to_thread(prometheus.rules)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    for job in MAKERS:
        assert await asyncio.to_thread(_told, prometheus, job) == _declared(job)
    assert traffic.surprises == []


def _strike_out(prometheus: Prometheus, wanted: dict[str, str]) -> None:
    for expression in [one for one in wanted if prometheus.values(one)]:
        del wanted[expression]


def _without_metrics(prometheus: Prometheus, expressions: set[str]) -> list[str]:
    """Expressions that Prometheus does not understand fail; those of metrics that nobody tells are answered."""
    told = {name for job in MAKERS for name in prometheus.told(job)}
    records = {rule["name"] for rule in prometheus.rules() if rule["type"] == "recording"}
    series = {name for one in declared().values() if told & {one.name, *one.series} for name in one.series}
    for expression in expressions:
        prometheus.values(expression)
    return sorted(one for one in expressions if not names_in(one) <= {*series, *records, *PROMETHEUS_OWN})


def _told(prometheus: Prometheus, job: str) -> dict[str, str]:
    return {
        name.removesuffix("_total") if kind == "counter" else name: kind
        for name, kind in prometheus.told(job).items()
        if not name.endswith("_created")
    }


def _declared(job: str) -> dict[str, str]:
    return {one.name: one.kind for one in declared().values() if job in one.services}
