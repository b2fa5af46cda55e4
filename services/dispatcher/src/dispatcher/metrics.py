"""What the dispatcher tells of itself, made in one place."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class DispatcherMetrics:
    """Offers, matches, positions and the index."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.offers_made = Counter(
            "weelo_dispatcher_offers_made", "Offers made, by cause", ["cause"], registry=registry
        )
        self.offers_ended = Counter(
            "weelo_dispatcher_offers_ended", "Offers that ended, by reason", ["reason"], registry=registry
        )
        self.waves = Counter("weelo_dispatcher_waves", "Waves made, by number", ["wave"], registry=registry)
        self.exhausted = Counter(
            "weelo_dispatcher_exhausted", "Orders for which nobody was left to ask", registry=registry
        )
        self.match_seconds = Histogram(
            "weelo_dispatcher_match_seconds",
            "Time to propose, lock and judge for one order's event",
            registry=registry,
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
        )
        self.positions = Counter(
            "weelo_dispatcher_positions", "Positions by what became of them", ["outcome"], registry=registry
        )
        self.index_captains = Gauge(
            "weelo_dispatcher_index_captains", "Captains known to the index", registry=registry
        )
        self.index_placed = Gauge(
            "weelo_dispatcher_index_placed", "Captains with a position in the index", registry=registry
        )
        self.index_staleness = Gauge(
            "weelo_dispatcher_index_staleness_seconds",
            "Age of the brokers' last answer to the index's reader",
            registry=registry,
        )
        self.index_lag = Gauge(
            "weelo_dispatcher_index_lag_records", "Records the index has not read yet", registry=registry
        )
