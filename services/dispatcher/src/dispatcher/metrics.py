"""What the dispatcher tells of itself, made in one place."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Collection, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dispatcher.candidates import Verdict
from dispatcher.domain import Cause
from weelo_common.events import DispatchExhausted, Event, OfferDeclined, OffersMade, OffersWithdrawn


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
        self.match_candidates = Histogram(
            "weelo_dispatcher_match_candidates",
            "Captains considered for one line of an order",
            registry=registry,
            buckets=(0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
        )
        self.refusals = Counter(
            "weelo_dispatcher_refusals",
            "Captains considered and not offered the order, by reason",
            ["reason"],
            registry=registry,
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

    def considered(self, verdicts: Collection[Verdict]) -> None:
        """Count who was looked at for one line, and why not all of them were offered the order."""
        self.match_candidates.observe(len(verdicts))
        reasons = Counts(verdict.refusal.value for verdict in verdicts if verdict.refusal is not None)
        for reason, count in reasons.items():
            self.refusals.labels(reason).inc(count)

    def told(self, events: Iterable[Event], cause: Cause | None) -> None:
        """Count what a transaction told, with the cause of the offers that it made.

        Call it after the commit: a transaction that is tried again has told nothing yet.
        """
        for event in events:
            match event:
                case OffersMade() if cause is not None:
                    self.offers_made.labels(cause.value).inc(len(event.offers))
                    if cause is Cause.WAVE:
                        self.waves.labels(str(event.wave)).inc()
                case OffersWithdrawn():
                    self.offers_ended.labels(event.reason).inc(len(event.offers))
                case OfferDeclined():
                    self.offers_ended.labels("declined").inc()
                case DispatchExhausted():
                    self.exhausted.inc()
                case _:
                    pass
