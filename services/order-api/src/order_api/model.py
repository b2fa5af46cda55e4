"""What an order is: its truck requests, its states, and the table that gives its status.

Pure data and one pure function. It must never do I/O, read a clock or make an id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from weelo_common.events import Place


class TruckStatus(StrEnum):
    """State of one truck request."""

    SEARCHING = "searching"
    ASSIGNED = "assigned"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class OrderStatus(StrEnum):
    """State of an order, as ``status_of`` derives it."""

    ACTIVE = "active"
    PARTIALLY_FILLED = "partially_filled"
    FULLY_FILLED = "fully_filled"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class SearchEnd(StrEnum):
    """Why a search is over. It is over once, for one reason."""

    TIME = "time"
    FILLED = "filled"
    CANCELLED = "cancelled"


class CancelKind(StrEnum):
    """Why an order is cancelled, as the events say it."""

    CUSTOMER = "customer"
    NO_TRUCK_LEFT = "no_truck_left"


# Tuples: members are found in them by identity, and the hash of an enumeration's member is slow.
WON = (TruckStatus.ASSIGNED, TruckStatus.IN_PROGRESS, TruckStatus.COMPLETED)
STARTED = (TruckStatus.IN_PROGRESS, TruckStatus.COMPLETED)
TERMINAL = frozenset({OrderStatus.EXPIRED, OrderStatus.CANCELLED, OrderStatus.COMPLETED})


@dataclass(frozen=True, slots=True)
class TruckRequest:
    """One truck of an order; price in rupees.

    ``captain_id`` is set while a captain holds or has done the trip, and stays when the whole order is
    cancelled. A release clears it and leaves him in ``released_captain_id``, so that his repeated release
    is recognised until somebody takes the truck again.
    """

    id: str
    request_number: int
    vehicle_type: str
    vehicle_subtype: str
    price_per_truck: int
    status: TruckStatus
    created_at: datetime
    updated_at: datetime
    captain_id: str | None = None
    transporter_id: str | None = None
    vehicle_number: str | None = None
    offer_id: str | None = None
    assigned_at: datetime | None = None
    released_captain_id: str | None = None
    release_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Cancellation:
    """When and why an order was cancelled; ``text`` is what the customer typed and stays in this service."""

    kind: CancelKind
    at: datetime
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """An order with its truck requests in the order of their numbers; amounts in rupees, distance in km."""

    id: str
    customer_id: str
    customer_name: str
    customer_phone: str
    pickup: Place
    drop: Place
    distance_km: int | float
    goods_type: str | None
    cargo_weight_kg: int | float | None
    total_amount: int
    status: OrderStatus
    search_end: SearchEnd | None
    version: int
    timer_version: int
    expires_at: datetime
    created_at: datetime
    updated_at: datetime
    trucks: tuple[TruckRequest, ...]
    cancellation: Cancellation | None = None

    @property
    def searching(self) -> bool:
        """True from creation until the search ends; never again."""
        return self.search_end is None

    @property
    def total_trucks(self) -> int:
        return len(self.trucks)

    @property
    def trucks_filled(self) -> int:
        """How many truck requests are won: assigned, in progress or completed."""
        return sum(truck.status in WON for truck in self.trucks)

    def overdue(self, now: datetime) -> bool:
        """Whether the search still runs although its time is over. ``now`` is the database's."""
        return self.searching and now >= self.expires_at

    def truck(self, truck_id: str) -> TruckRequest | None:
        return next((truck for truck in self.trucks if truck.id == truck_id), None)

    def seconds_left(self, now: datetime) -> int:
        """Whole seconds until the search ends, rounded up; 0 once it is over."""
        if not self.searching:
            return 0
        left_ms = (self.expires_at - now).total_seconds() * 1000
        return max(0, -int(-left_ms // 1000))


def status_of(statuses: Iterable[TruckStatus], *, searching: bool, cancelled: bool) -> OrderStatus:
    """The status table of an order.

    ``cancelled`` is true for both kinds of cancellation: by the customer, and because every truck that was
    won when the search ended has been released since. Without it, none won after the search means that none
    was won when it ended.
    """
    trucks = list(statuses)
    won = [status for status in trucks if status in WON]
    if cancelled:
        return OrderStatus.CANCELLED
    if searching:
        return OrderStatus.PARTIALLY_FILLED if won else OrderStatus.ACTIVE
    if not won:
        return OrderStatus.EXPIRED
    if all(status is TruckStatus.COMPLETED for status in won):
        return OrderStatus.COMPLETED
    if any(status in STARTED for status in won):
        return OrderStatus.IN_PROGRESS
    return OrderStatus.FULLY_FILLED if len(won) == len(trucks) else OrderStatus.PARTIALLY_FILLED
