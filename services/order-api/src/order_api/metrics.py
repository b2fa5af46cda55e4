"""What order-api counts. Made once, in main, with the registry given there."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry, Counter, Histogram

from order_api.model import Order
from weelo_common.events import (
    Event,
    OrderCancelled,
    OrderCompleted,
    OrderExpired,
    OrderFullyFilled,
    TruckAssigned,
    TruckReleased,
    TruckStarted,
)

# Seconds. With its timer a search ends within milliseconds; the sweep finds what is left within 120 s.
ENDED_LATE_BUCKETS_S = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 60, 120, 600, 3600)
# Seconds. A search takes a minute, a trip takes hours.
STEP_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 45, 60, 90, 300, 900, 1800, 3600, 7200, 14_400, 43_200)
STEPS: dict[type[Event], str] = {
    TruckAssigned: "assigned",
    OrderFullyFilled: "filled",
    TruckStarted: "started",
    OrderCompleted: "completed",
    OrderCancelled: "cancelled",
    OrderExpired: "expired",
}


class OrderMetrics:
    """What orders come to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.creates = Counter(
            "weelo_order_api_creates",
            "Create requests, by what they came to: created, replayed, active (another order of his searches), "
            "concurrent, rate_limited, key_reused",
            ["outcome"],
            registry=registry,
        )
        self.gate = Counter(
            "weelo_order_api_gate",
            "Creates at the gate in Redis: replay, busy (the lock was taken), rate_limited, entered (with the lock), "
            "unlocked (Redis gave none)",
            ["outcome"],
            registry=registry,
        )
        self.accepts = Counter(
            "weelo_order_api_accepts",
            "Accepts, by what they came to: won, or why not",
            ["outcome"],
            registry=registry,
        )
        self.searches_ended = Counter(
            "weelo_order_api_searches_ended",
            "Searches that ended by time, by who noticed first: timer, accept, command, create, read, trip, sweep",
            ["noticed_by"],
            registry=registry,
        )
        self._ended_late = Histogram(
            "weelo_order_api_ended_late_seconds",
            "From an order's expiresAt to the end of its search by time, by the database's clock",
            buckets=ENDED_LATE_BUCKETS_S,
            registry=registry,
        )

        self._steps = Histogram(
            "weelo_order_api_step_seconds",
            "From an order's creation to each step of it, by the database's clock: assigned, filled, started, "
            "released, completed, cancelled, expired; trucks count one by one",
            ["step"],
            buckets=STEP_BUCKETS_S,
            registry=registry,
        )

    def told(self, events: Iterable[Event], before: Order, now: datetime, *, noticed_by: str) -> None:
        """Count what a decision on an order tells; ``before`` is the order as it was."""
        for event in events:
            step = STEPS.get(type(event))
            if isinstance(event, TruckReleased) and event.reason == "released":
                step = "released"  # the other reasons come with an end of the trip or the order
            if step is not None:
                self._steps.labels(step).observe((now - before.created_at).total_seconds())
            if isinstance(event, OrderExpired):
                self.search_ended(noticed_by, now - before.expires_at)

    def search_ended(self, noticed_by: str, late: timedelta) -> None:
        """A search ended by time, so long after its time, and this is who noticed."""
        self.searches_ended.labels(noticed_by).inc()
        self._ended_late.observe(late.total_seconds())
