"""Every metric that the services tell, taken from the classes that make them: name, type, labels, meaning, by whom.

Dashboards, alarms and the reference in docs/metrics.md are held against this, and this against /metrics of the running
services. It must name no metric itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase

from dispatcher.metrics import DispatcherMetrics
from expiry.metrics import ExpiryMetrics
from notifier.metrics import Metrics as NotifierMetrics
from order_api.metrics import OrderMetrics
from weelo_common.consumer import ConsumerMetrics
from weelo_common.health import Health
from weelo_common.http_middleware import HttpMetrics
from weelo_common.relay_metrics import RelayMetrics

TARGET_LABELS = frozenset({"job", "instance"})  # that Prometheus adds to every series
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
# What else PromQL consists of, as far as rules and dashboards use it.
WORDS = frozenset(
    {
        *(
            "by",
            "and",
            "or",
            "unless",
            "sum",
            "avg",
            "max",
            "min",
            "count",
            "rate",
            "increase",
            "abs",
            "absent",
            "vector",
        )
    }
    | {*("avg_over_time", "min_over_time", "histogram_quantile")}
)
_PICKED = re.compile(
    r'([\w:]+)\{((?:[^}"]|"[^"]*")*)\}'
)  # a name and its braces; values may hold braces, too
PROMETHEUS_OWN: Mapping[str, frozenset[str]] = {
    "up": TARGET_LABELS,
    "ALERTS": TARGET_LABELS | {"alertname", "alertstate", "severity", "consumer", "route", "reason"},
}


@dataclass(frozen=True, order=True)
class Metric:
    """One family of series. ``buckets`` are the upper bounds of a histogram, as they stand in ``le``."""

    name: str
    kind: str
    labels: tuple[str, ...]
    about: str
    services: tuple[str, ...]
    buckets: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names that queries use."""
        return tuple(self.name + suffix for suffix in SUFFIXES[self.kind])


def _health(registry: CollectorRegistry) -> None:
    health = Health()
    health.check("any", lambda: None)
    registry.register(health)


def _notifier(registry: CollectorRegistry) -> None:
    now = datetime.now(UTC)
    NotifierMetrics(registry).pushes.live("any", now, now)


def _process(registry: CollectorRegistry) -> None:
    ProcessCollector(registry=registry)


EVERY: Sequence[Callable[[CollectorRegistry], object]] = (_health, HttpMetrics, ConsumerMetrics, _process)
MAKERS: Mapping[str, Sequence[Callable[[CollectorRegistry], object]]] = {
    "order-api": (*EVERY, RelayMetrics, OrderMetrics),
    "dispatcher": (*EVERY, RelayMetrics, DispatcherMetrics),
    "notifier": (*EVERY, _notifier),
    "expiry": (*EVERY, ExpiryMetrics),
}


def declared() -> dict[str, Metric]:
    """All metrics by name."""
    found: dict[str, Metric] = {}
    for service, makers in MAKERS.items():
        registry = CollectorRegistry()
        for make in makers:
            make(registry)
        for one in _families(registry, service):
            known = found.get(one.name, one)
            services = known.services if known is one else (*known.services, service)
            found[one.name] = Metric(one.name, one.kind, one.labels, one.about, services, one.buckets)
    return found


def _families(registry: CollectorRegistry, service: str) -> Iterator[Metric]:
    labels = _labels(registry)
    for family in registry.collect():
        seen = [sample for sample in family.samples if not sample.name.endswith("_created")]
        names = labels.get(family.name) or tuple(
            dict.fromkeys(label for sample in seen for label in sample.labels if label != "le")
        )
        buckets = tuple(dict.fromkeys(sample.labels["le"] for sample in seen if "le" in sample.labels))
        yield Metric(
            family.name,
            family.type,
            names,
            family.documentation,
            (service,),
            buckets or _bounds(registry, family.name),
        )


# The library tells labels and bounds of a metric only once it has a series, so its private fields are asked; here alone


def _wrappers(registry: CollectorRegistry) -> Iterator[MetricWrapperBase]:
    for collector in registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            yield collector


def _labels(registry: CollectorRegistry) -> dict[str, tuple[str, ...]]:
    return {one._name: tuple(one._labelnames) for one in _wrappers(registry)}


def _bounds(registry: CollectorRegistry, name: str) -> tuple[str, ...]:
    for one in _wrappers(registry):
        if one._name == name and hasattr(one, "_upper_bounds"):
            return tuple("+Inf" if bound == float("inf") else str(bound) for bound in one._upper_bounds)
    return ()


def names_in(expression: str) -> set[str]:
    """The metrics of a PromQL expression: its words, without labels, groupings, windows, and PromQL's own."""
    without_values = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)", " ", without_values)
    return set(re.findall(r"(?<![\w.])[a-zA-Z_][\w:]*", bare)) - WORDS


def misnamed(expression: str, metrics: Mapping[str, Metric], records: frozenset[str]) -> Iterator[str]:
    """What an expression asks for and nobody tells: metrics, labels, buckets."""
    series = {name: metric for metric in metrics.values() for name in metric.series}
    known = {*series, *records, *PROMETHEUS_OWN}
    for name in sorted(names_in(expression) - known):
        yield f"nobody tells {name}"
    for name, picks in _PICKED.findall(expression):
        metric = series.get(name)
        labels = TARGET_LABELS | (
            set(metric.labels) | {"le"} if metric else PROMETHEUS_OWN.get(name, frozenset())
        )
        for label, value in re.findall(r'(\w+)(?:=~|!=|!~|=)"([^"]*)"', picks):
            if label not in labels:
                yield f"{name} has no label {label}"
            elif label == "le" and metric is not None and value not in metric.buckets:
                yield f"{name} has no bucket {value}"
    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
        told = set().union(*(series[name].labels for name in names_in(expression) if name in series))
        own = set().union(*(PROMETHEUS_OWN[name] for name in names_in(expression) if name in PROMETHEUS_OWN))
        for label in (one.strip() for one in grouped.split(",")):
            if label not in told | own | TARGET_LABELS | {"le"}:
                yield f"no metric of it has the label {label}"
