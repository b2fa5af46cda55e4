"""What order-api counts. Made once, in main, with the registry given there."""

from __future__ import annotations

from datetime import timedelta

from prometheus_client import CollectorRegistry, Counter, Histogram

# Seconds. With its timer a search ends within milliseconds; the sweep finds what is left within 120 s.
ENDED_LATE_BUCKETS_S = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 60, 120, 600, 3600)


class OrderMetrics:
    """What orders come to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.creates = Counter(
            "weelo_order_api_creates",
            "Create requests, by what they came to",
            ["outcome"],
            registry=registry,
        )
        self.accepts = Counter(
            "weelo_order_api_accepts", "Accepts, by what they came to", ["outcome"], registry=registry
        )
        self.searches_ended = Counter(
            "weelo_order_api_searches_ended", "Searches that ended by time", ["noticed_by"], registry=registry
        )
        self._ended_late = Histogram(
            "weelo_order_api_ended_late_seconds",
            "From an order's expiresAt to the end of its search by time, by the database's clock",
            buckets=ENDED_LATE_BUCKETS_S,
            registry=registry,
        )

    def search_ended(self, noticed_by: str, late: timedelta) -> None:
        """A search ended by time, so long after its time, and this is who noticed."""
        self.searches_ended.labels(noticed_by).inc()
        self._ended_late.observe(late.total_seconds())
