"""What order-api counts. Made once, in main, with the registry given there."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class OrderMetrics:
    """Counters of what orders come to."""

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
