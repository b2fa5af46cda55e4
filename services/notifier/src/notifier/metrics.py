"""What the notifier tells of itself, all in one place.

Pushes are counted in plain numbers and told when they are asked for: the library's counters and histograms with
their locks would cost as much as the push itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterator
from datetime import datetime
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

PUSH_BOUNDS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Pushes(Collector):
    """Event frames that went to sockets, by name, and how long after their event. For one thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sent: Tally[str] = Tally()
        """Event frames sent, by the event's name."""
        self._late_counts = [0] * (len(PUSH_BOUNDS_S) + 1)
        self._late_sum_s = 0.0
        registry.register(self)

    def live(self, event: str, now: datetime, event_time: datetime, sockets: int = 1) -> None:
        """A frame of an event of that time is being sent, to so many sockets."""
        late_s = max(0.0, (now - event_time).total_seconds())
        self.sent[event] += sockets
        self._late_counts[bisect_left(PUSH_BOUNDS_S, late_s)] += sockets
        self._late_sum_s += late_s * sockets

    def replayed(self, event: str) -> None:
        """A frame was sent that the client had missed; its age says nothing of our speed."""
        self.sent[event] += 1

    def collect(self) -> Iterator[Metric]:
        """The numbers in the library's terms."""
        pushed = CounterMetricFamily("weelo_notifier_pushed", "Event frames sent", labels=["event"])
        for event, count in self.sent.items():
            pushed.add_metric([event], count)
        yield pushed
        bounds = [*(str(bound) for bound in PUSH_BOUNDS_S), "+Inf"]
        yield HistogramMetricFamily(
            "weelo_notifier_push_seconds",
            "From an event's ce_time to the socket, live frames only",
            buckets=list(zip(bounds, accumulate(self._late_counts), strict=True)),
            sum_value=self._late_sum_s,
        )


class Metrics:
    """Counters and gauges named ``weelo_notifier_…``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sockets = Gauge("weelo_notifier_sockets", "Authenticated sockets", registry=registry)
        self.opened = Counter(
            "weelo_notifier_opened",
            "Sockets that were authenticated; many at once are a crowd that comes back",
            registry=registry,
        )
        self.sockets_limit = Gauge(
            "weelo_notifier_sockets_limit", "Sockets that this replica takes at most", registry=registry
        )
        self.unauthenticated = Gauge(
            "weelo_notifier_unauthenticated_sockets", "Sockets that have not shown a token", registry=registry
        )
        self.users = Gauge("weelo_notifier_users", "Users with at least one socket", registry=registry)
        self.queued_bytes = Gauge(
            "weelo_notifier_queued_bytes",
            "Bytes that wait in the process for slow sockets",
            registry=registry,
        )
        self.full_queues = Gauge(
            "weelo_notifier_full_queues", "Sockets whose queue has reached its bound", registry=registry
        )
        self.longest_queue_bytes = Gauge(
            "weelo_notifier_longest_queue_bytes", "Bytes that wait for the slowest socket", registry=registry
        )
        self.routing_queue = Gauge(
            "weelo_notifier_routing_queue", "Frames that wait to go over Redis", registry=registry
        )
        self.refused = Counter(
            "weelo_notifier_refused", "Handshakes refused with 503", ["reason"], registry=registry
        )
        self.closed = Counter(
            "weelo_notifier_closed", "Sockets closed by the server", ["code"], registry=registry
        )
        self.slow_closed = Counter(
            "weelo_notifier_slow_closed",
            "Of those, clients that made no room in their queue in time",
            registry=registry,
        )
        self.skipped = Counter(
            "weelo_notifier_skipped", "Offsets passed over because their offer had ended", registry=registry
        )
        self.resumed = Counter(
            "weelo_notifier_resumed",
            "Resumes by whether all that was missed follows",
            ["recovered"],
            registry=registry,
        )
        self.found_late = Counter(
            "weelo_notifier_found_late",
            "Streams found ahead of their sockets by the heads check",
            registry=registry,
        )
        self.appended = Counter("weelo_notifier_appended", "Frames added to streams", registry=registry)
        self.routed = Counter(
            "weelo_notifier_routed", "Frames that went over Redis", ["direction"], registry=registry
        )
        self.unrouted = Counter(
            "weelo_notifier_unrouted",
            "Frames not published because Redis was away or behind",
            registry=registry,
        )
        self.pushes = Pushes(registry)
