"""An alarm on a metric or a log line that nobody writes would never ring."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from deploy.ecs.documents import HERE
from deploy.local.provision import SERVICES
from deploy.local.settings import PROJECT

SOURCES = [*PROJECT.glob("libs/*/src/**/*.py"), *PROJECT.glob("services/*/src/**/*.py")]
CODE = "\n".join(path.read_text() for path in SOURCES)
METRICS = set(re.findall(r'"(weelo_[a-z_]+)"', CODE)) - {"weelo_common"}


def plain(name: str) -> str:
    """Without what Prometheus adds to a counter's name."""
    return name.removesuffix("_total")


def wanted_metrics() -> list[str]:
    collector = yaml.safe_load((HERE / "collector.yaml").read_text())
    patterns: list[str] = collector["processors"]["filter/wanted"]["metrics"]["include"]["metric_names"]
    return patterns


def names_in(pattern: str) -> list[str]:
    """`^weelo_outbox_(depth|age_seconds)$` → both names."""
    found = re.fullmatch(r"\^(\w+?)(?:\(([\w|]+)\))?\$", pattern)
    assert found is not None, f"{pattern} is no list of names"
    return [found[1] + end for end in (found[2] or "").split("|")]


@pytest.mark.parametrize("pattern", wanted_metrics())
def test_every_metric_that_leaves_for_cloudwatch_is_one_of_ours(pattern: str) -> None:
    assert {plain(name) for name in names_in(pattern)} <= METRICS


@pytest.mark.parametrize("service", SERVICES)
def test_every_alarm_on_a_metric_of_ours_gets_it(service: str) -> None:
    leaving = [re.compile(pattern) for pattern in wanted_metrics()]
    for alarm in json.loads((HERE / "services" / service / "alarms.json").read_text()):
        name = alarm["MetricName"]
        if name.startswith("weelo_"):
            assert any(pattern.match(name) for pattern in leaving), name


@pytest.mark.parametrize(
    "path", sorted(HERE.glob("services/*/log-filters.json")), ids=lambda path: path.parent.name
)
def test_every_message_that_a_log_filter_looks_for_is_written(path: Path) -> None:
    for log_filter in json.loads(path.read_text()):
        for message in re.findall(r'\$\.message = "([^"]+)"', log_filter["filterPattern"]):
            assert f'"{message}"' in CODE, message


def test_the_runbook_tells_of_every_alarm_of_ecs_and_of_no_other() -> None:
    _, _, section = (PROJECT / "docs" / "runbook.md").read_text().partition("\n## On ECS\n")
    told = set(re.findall(r"^\| `(-[a-z0-9-]+)` \|", section.partition("\n## ")[0], re.MULTILINE))
    there = {
        alarm["AlarmName"].removeprefix("${name}-").removeprefix(service)
        for service in SERVICES
        for alarm in json.loads((HERE / "services" / service / "alarms.json").read_text())
    }
    assert told == there
