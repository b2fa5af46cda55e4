"""Orders as order-api would tell of them, and their timers as expiry would fire them: the dispatcher's neighbours.

Each event raises its order's version, so a test says what happens and in which order it is heard of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from weelo_common.events import (
    Event,
    OrderCancelled,
    OrderCreated,
    OrderExpired,
    OrderFullyFilled,
    Place,
    RequestedTruck,
    TimerFired,
    TimerScheduled,
    TruckAssigned,
    TruckReleased,
)
from weelo_common.ids import new_id

PICKUP = (28.6139, 77.2090)


@dataclass
class Order:
    """An order as order-api would tell of it; each event raises its version."""

    subtype: str
    trucks: int = 1
    lifetime_s: float = 60.0
    created_ago_s: float = 0.0
    order_id: str = field(default_factory=new_id)
    customer_id: str = field(default_factory=lambda: f"c-{uuid4().hex[:8]}")
    version: int = 0
    won: dict[str, str] = field(default_factory=dict)
    truck_ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.truck_ids = [new_id() for _ in range(self.trucks)]

    def created(self) -> OrderCreated:
        made_at = datetime.now(UTC) - timedelta(seconds=self.created_ago_s)
        return OrderCreated(
            **self._common("active", searching=True),
            pickup=Place(latitude=PICKUP[0], longitude=PICKUP[1], address="Connaught Place"),
            drop=Place(latitude=28.5355, longitude=77.3910, address="Noida"),
            distance_km=25,
            total_amount=500 * self.trucks,
            expires_at=made_at + timedelta(seconds=self.lifetime_s),
            truck_requests=tuple(
                RequestedTruck(
                    id=truck, vehicle_type="TRUCK", vehicle_subtype=self.subtype, price_per_truck=500
                )
                for truck in self.truck_ids
            ),
        ).model_copy(update={"occurred_at": made_at})

    def assigned(self, captain_id: str, offer_id: str) -> list[Event]:
        """``TruckAssigned`` for the next open truck, and ``OrderFullyFilled`` with the last."""
        truck = next(truck for truck in self.truck_ids if truck not in self.won)
        self.won[truck] = captain_id
        full = len(self.won) == self.trucks
        status = "fully_filled" if full else "partially_filled"
        told: list[Event] = [
            TruckAssigned(
                **self._common(status, searching=not full),
                truck_request_id=truck,
                captain_id=captain_id,
                transporter_id="t-1",
                vehicle_type="TRUCK",
                vehicle_subtype=self.subtype,
                vehicle_number="DL1AB1234",
                offer_id=offer_id,
                pickup=Place(latitude=PICKUP[0], longitude=PICKUP[1], address="Connaught Place"),
                drop=Place(latitude=28.5355, longitude=77.3910, address="Noida"),
            )
        ]
        if full:
            told.append(OrderFullyFilled(**self._common(status, searching=False)))
        return told

    def released(self, captain_id: str, *, searching: bool) -> TruckReleased:
        truck = next(truck for truck, holder in self.won.items() if holder == captain_id)
        del self.won[truck]
        return TruckReleased(
            **self._common("active" if searching else "partially_filled", searching=searching),
            truck_request_id=truck,
            captain_id=captain_id,
            reason="released",
            truck_request_status="searching" if searching else "cancelled",
        )

    def cancelled(self) -> OrderCancelled:
        return OrderCancelled(**self._common("cancelled", searching=False), reason="customer")

    def expired(self) -> OrderExpired:
        return OrderExpired(
            **self._common("expired", searching=False), expired_truck_request_ids=tuple(self.truck_ids)
        )

    def _common(self, status: str, *, searching: bool) -> dict[str, Any]:
        self.version += 1
        return {
            "order_id": self.order_id,
            "order_version": self.version,
            "customer_id": self.customer_id,
            "status": status,
            "searching": searching,
            "trucks_filled": len(self.won),
            "total_trucks": self.trucks,
            "occurred_at": datetime.now(UTC),
        }


def fired(timer: TimerScheduled) -> TimerFired:
    """What expiry says when a timer is due."""
    return TimerFired(
        timer_key=timer.timer_key,
        version=timer.version,
        order_id=timer.order_id,
        owner=timer.owner,
        due_at=timer.due_at,
        fired_at=timer.due_at,
        payload=timer.payload,
    )
