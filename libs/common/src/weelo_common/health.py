"""What a service knows of its own health: named probes that answer from memory, never by asking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Probe = Callable[[], str | None]
"""None where all is well, else one line that says what is not."""


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    probe: Probe
    gates_ready: bool


class Health(Collector):
    """Collects probes. Those that gate readiness take the service out of the load balancer.

    Registered with Prometheus it tells the same there: alarms hang on it.
    """

    def __init__(self) -> None:
        self._checks: list[_Check] = []
        self._stopping = False
        self._was_ready = False

    def check(self, name: str, probe: Probe, *, gates_ready: bool = True) -> None:
        """Add a probe."""
        self._checks.append(_Check(name, probe, gates_ready))

    def stopping(self) -> None:
        """From now on the service is not ready: it goes down."""
        self._stopping = True

    def report(self) -> dict[str, str]:
        """Every probe's word: ``ok`` or what is wrong."""
        return {check.name: check.probe() or "ok" for check in self._checks}

    def not_ready(self) -> list[str]:
        """Why the service is not ready; empty where it is."""
        reasons = ["stopping"] if self._stopping else []
        for check in self._checks:
            trouble = check.probe() if check.gates_ready else None
            if trouble:
                reasons.append(trouble)
        return reasons

    def was_ready(self) -> bool:
        """Whether the service has ever been ready.

        For a load balancer whose orchestrator ends what it finds unhealthy (ECS does): a start that comes to nothing is
        seen, and a server that is away later ends nobody.
        """
        self._was_ready = self._was_ready or not self.not_ready()
        return self._was_ready

    def collect(self) -> Iterator[Metric]:
        """The probes' words as numbers."""
        yield GaugeMetricFamily(
            "weelo_ready", "1 while this replica is ready for traffic", value=0.0 if self.not_ready() else 1.0
        )
        checks = GaugeMetricFamily(
            "weelo_health_ok", "1 while this probe finds nothing wrong", labels=["check"]
        )
        for check in self._checks:
            checks.add_metric([check.name], 0.0 if check.probe() else 1.0)
        yield checks
