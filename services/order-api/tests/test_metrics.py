"""How late searches end is a promise, and an alarm hangs on it."""

from __future__ import annotations

from datetime import timedelta

from prometheus_client import CollectorRegistry

from order_api.metrics import OrderMetrics

NAME = "weelo_order_api_ended_late_seconds"


def test_a_search_that_ends_by_time_is_counted_with_who_noticed_and_how_late_it_was() -> None:
    registry = CollectorRegistry()
    metrics = OrderMetrics(registry)
    metrics.search_ended("timer", timedelta(milliseconds=8))
    metrics.search_ended("sweep", timedelta(seconds=2.1))
    assert registry.get_sample_value("weelo_order_api_searches_ended_total", {"noticed_by": "sweep"}) == 1
    assert registry.get_sample_value(f"{NAME}_bucket", {"le": "2.0"}) == 1
    assert registry.get_sample_value(f"{NAME}_count") == 2
