"""What a service knows of its own health is told to Prometheus as well."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from weelo_common.health import Health


def told(health: Health) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(health)
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_a_probe_that_gates_readiness_takes_the_metric_down_with_it() -> None:
    health = Health()
    health.check("postgres", lambda: "away")
    health.check("redis", lambda: None, gates_ready=False)
    assert told(health) == {"weelo_ready": 0, "weelo_health_ok/postgres": 0, "weelo_health_ok/redis": 1}


def test_a_probe_that_gates_nothing_is_told_and_leaves_the_service_ready() -> None:
    health = Health()
    health.check("redis", lambda: "spared after failures", gates_ready=False)
    assert told(health) == {"weelo_ready": 1, "weelo_health_ok/redis": 0}


def test_a_service_that_stops_is_not_ready() -> None:
    health = Health()
    health.stopping()
    assert told(health)["weelo_ready"] == 0
