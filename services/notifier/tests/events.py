"""Events as the other services send them, with few words, for the notifier's tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from weelo_common.events import (
    Offer,
    OffersMade,
    OffersWithdrawn,
    OrderEvent,
    Place,
    TruckAssigned,
    TruckReleased,
    WithdrawnOffer,
)

PICKUP = Place(latitude=28.5355, longitude=77.391, address="Noida")
DROP = Place(latitude=28.6139, longitude=77.209, address="Delhi")
AT = datetime(2026, 2, 3, 10, 8, 28, 123_000, UTC)


def order_event(kind: type[OrderEvent], order_id: str = "o-1", version: int = 1, **more: Any) -> Any:
    """An order event; what is not given is that of an active order of ``c-1`` with two trucks."""
    fields: dict[str, Any] = {
        "order_id": order_id,
        "order_version": version,
        "customer_id": "c-1",
        "status": "active",
        "searching": True,
        "trucks_filled": 0,
        "total_trucks": 2,
        "occurred_at": AT,
    }
    return kind(**(fields | more))


def assigned(order_id: str = "o-1", version: int = 2, captain: str = "d-1", **more: Any) -> TruckAssigned:
    """A captain won a truck of the order."""
    fields: dict[str, Any] = {
        "truck_request_id": f"t-{captain}",
        "captain_id": captain,
        "transporter_id": "tr-1",
        "vehicle_type": "TRUCK",
        "vehicle_subtype": "TATA_ACE",
        "vehicle_number": "DL01AB1234",
        "offer_id": offer_id(order_id, captain),
        "pickup": PICKUP,
        "drop": DROP,
        "status": "partially_filled",
        "trucks_filled": 1,
    }
    event: TruckAssigned = order_event(TruckAssigned, order_id, version, **(fields | more))
    return event


def released(
    reason: str, order_id: str = "o-1", version: int = 3, captain: str = "d-1", **more: Any
) -> TruckReleased:
    """A captain is free again."""
    event: TruckReleased = order_event(
        TruckReleased,
        order_id,
        version,
        truck_request_id=f"t-{captain}",
        captain_id=captain,
        reason=reason,
        truck_request_status="searching",
        **more,
    )
    return event


def offer_id(order_id: str, captain: str) -> str:
    """The id of the one offer that a captain gets of an order."""
    return f"offer-{order_id}-{captain}"


def offers_made(*captains: str, order_id: str = "o-1", expires_at: datetime | None = None) -> OffersMade:
    """A wave of offers, alive for a minute unless said otherwise."""
    until = expires_at or datetime.now(UTC) + timedelta(minutes=1)
    return OffersMade(
        order_id=order_id,
        wave=1,
        radius_m=2000,
        pickup=PICKUP,
        drop=DROP,
        distance_km=25,
        offers=tuple(
            Offer(
                offer_id=offer_id(order_id, captain),
                captain_id=captain,
                transporter_id="tr-1",
                vehicle_type="TRUCK",
                vehicle_subtype="TATA_ACE",
                pickup_distance_m=812,
                price_per_truck=500,
                open_trucks=2,
                offer_token="header.claims.signature",
                expires_at=until,
            )
            for captain in captains
        ),
    )


def withdrawn(reason: str, *captains: str, order_id: str = "o-1") -> OffersWithdrawn:
    """The captains' offers of an order ended."""
    return OffersWithdrawn(
        order_id=order_id,
        reason=reason,
        offers=tuple(
            WithdrawnOffer(offer_id=offer_id(order_id, captain), captain_id=captain) for captain in captains
        ),
    )
