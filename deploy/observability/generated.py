"""The files that are made, not written: Grafana's dashboards, the operator's PrometheusRule, the reference of metrics.

``python -m deploy.observability`` writes them; ``make validate-deploy`` and the tests refuse others. Pure: texts out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.observability.declared import Metric, declared
from deploy.observability.panels import grafana_json
from deploy.observability.service_screens import DASHBOARDS

HERE = Path("deploy/observability")
SCREENS = HERE / "grafana"
RULE = HERE / "operator" / "prometheus-rule.yaml"
METRICS_DOC = Path("docs/metrics.md")
RULES = "*.rules.yml"
MADE = "# Made of deploy/observability/*.rules.yml by `python -m deploy.observability`; not to be changed here.\n"


class _Lines(yaml.SafeDumper):
    """Writes a text of several lines as it stands, for people to read."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Lines.add_representer(str, _text)

HEADINGS: Mapping[tuple[str, ...], str] = {
    ("order-api", "dispatcher", "notifier", "expiry"): "Every service",
    ("order-api", "dispatcher"): "Services with an outbox: order-api and dispatcher",
    ("order-api",): "order-api",
    ("dispatcher",): "dispatcher",
    ("notifier",): "notifier",
    ("expiry",): "expiry",
}


def deployed_files(root: Path) -> dict[Path, str]:
    """What ``deploy/`` must hold, by path below ``root``, whose rule files are read."""
    titles = {one.uid: one.title for one in DASHBOARDS}
    files = {
        SCREENS / f"{one.uid}.json": json.dumps(grafana_json(one, titles), indent=1, ensure_ascii=False)
        + "\n"
        for one in DASHBOARDS
    }
    return {
        **files,
        RULE: MADE + yaml.dump(_prometheus_rule(root), Dumper=_Lines, sort_keys=False, width=1000),
    }


def rule_groups(root: Path) -> list[dict[str, Any]]:
    """The groups of all rule files, in order."""
    paths = sorted((root / HERE).glob(RULES))
    return [group for path in paths for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]


def _prometheus_rule(root: Path) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "weelo"},
        "spec": {"groups": rule_groups(root)},
    }


def metrics_reference() -> str:
    """docs/metrics.md."""
    return "\n".join(_reference(declared())) + "\n"


def _reference(metrics: Mapping[str, Metric]) -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield (
        "Every metric that the services tell on `/metrics`, made of the code by `python -m deploy.observability`. "
        "How to look at them: [observability.md](observability.md)."
    )
    yield ""
    yield (
        "A counter `x` is the series `x_total`. A histogram `x` is `x_bucket` (with `le`), `x_count` and `x_sum`; "
        "times are in seconds. Each replica tells its own; a label's value is there once it was counted."
    )
    for services, heading in HEADINGS.items():
        yield from ("", f"## {heading}", "", "| name | type | labels | meaning |", "|---|---|---|---|")
        for one in metrics.values():
            if one.services == services:
                labels = ", ".join(f"`{label}`" for label in one.labels) or "–"
                bounds = f" Bounds: {', '.join(one.buckets[:-1])}." if one.buckets else ""
                yield f"| `{one.name}` | {one.kind} | {labels} | {one.about.rstrip('.')}.{bounds} |"
