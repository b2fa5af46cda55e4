"""Which frames an event gives to whom, and what it ends. Pure: no I/O, no clock.

One Kafka event gives a user at most one frame of each name, so ``<ce_id>:<name>`` is unique in a stream. Names and
phone numbers never come here: the events hold none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from weelo_common.clock import format_time
from weelo_common.events import (
    Event,
    Offer,
    OfferDeclined,
    OffersMade,
    OffersWithdrawn,
    OrderCancelled,
    OrderEvent,
    OrderExpired,
    OrderFullyFilled,
    TruckAssigned,
    TruckReleased,
)

TRIP_ENDED_EARLY = frozenset({"released", "cancelled"})  # a completed trip is no news to its captain


class FrameName(StrEnum):
    """The ``event`` of a frame: the first four go to captains, the others to customers."""

    NEW_BROADCAST = "new_broadcast"
    BROADCAST_DISMISSED = "broadcast_dismissed"
    TRIP_ASSIGNED = "trip_assigned"
    TRIP_CANCELLED = "trip_cancelled"
    ORDER_STATUS_UPDATE = "order_status_update"
    TRUCK_ASSIGNED = "truck_assigned"
    TRUCK_RELEASED = "truck_released"
    ORDER_FULLY_FILLED = "order_fully_filled"
    ORDER_CANCELLED = "order_cancelled"
    ORDER_EXPIRED = "order_expired"


@dataclass(frozen=True, slots=True)
class Notice:
    """One frame for one user, before it has an offset.

    With ``offer_id`` the frame is worth sending only while that offer is live, at most until ``expires_at``.
    """

    user_id: str
    name: FrameName
    data: Mapping[str, Any]
    offer_id: str | None = None
    expires_at: datetime | None = None

    def body(self, event_id: str) -> str:
        """The frame as JSON, without ``type`` and ``offset``: these are put in front when it is sent."""
        frame: dict[str, Any] = {"id": f"{event_id}:{self.name}", "event": self.name, "data": self.data}
        if self.expires_at is not None:
            frame["expiresAt"] = format_time(self.expires_at)
        return json.dumps(frame, separators=(",", ":"), ensure_ascii=False)


def notices(event: Event) -> list[Notice]:
    """The frames of an event, in the order in which a user gets them."""
    match event:
        case OffersMade():
            found = [_new_broadcast(event, offer) for offer in event.offers]
        case OffersWithdrawn():
            found = [
                Notice(
                    offer.captain_id,
                    FrameName.BROADCAST_DISMISSED,
                    {"orderId": event.order_id, "offerId": offer.offer_id, "reason": event.reason},
                )
                for offer in event.offers
            ]
        case OrderEvent():
            found = [*_told_to_captain(event), *_told_to_customer(event), _status_update(event)]
        case _:
            found = []
    return list(_first_of_each_name(found))


def ended_offers(event: Event) -> tuple[str, ...]:
    """The offers that are no longer live once this event is known."""
    match event:
        case OffersWithdrawn():
            return tuple(offer.offer_id for offer in event.offers)
        case OfferDeclined() | TruckAssigned():
            return (event.offer_id,)
        case _:
            return ()


def without_status(frames: Iterable[Notice]) -> list[Notice]:
    """What is left to tell of an event that an event with a higher version has overtaken."""
    return [frame for frame in frames if frame.name is not FrameName.ORDER_STATUS_UPDATE]


def _new_broadcast(event: OffersMade, offer: Offer) -> Notice:
    return Notice(
        offer.captain_id,
        FrameName.NEW_BROADCAST,
        {
            "offerId": offer.offer_id,
            "offerToken": offer.offer_token,
            "orderId": event.order_id,
            "vehicleType": offer.vehicle_type,
            "vehicleSubtype": offer.vehicle_subtype,
            "pickup": _json(event.pickup),
            "drop": _json(event.drop),
            "distanceKm": event.distance_km,
            "pickupDistanceM": offer.pickup_distance_m,
            "pricePerTruck": offer.price_per_truck,
            "openTrucks": offer.open_trucks,
            "expiresAt": format_time(offer.expires_at),
        },
        offer_id=offer.offer_id,
        expires_at=offer.expires_at,
    )


def _told_to_captain(event: OrderEvent) -> list[Notice]:
    match event:
        case TruckAssigned():
            return [Notice(event.captain_id, FrameName.TRIP_ASSIGNED, _json(event))]
        case TruckReleased() if event.reason in TRIP_ENDED_EARLY:
            return [Notice(event.captain_id, FrameName.TRIP_CANCELLED, _json(event))]
        case _:
            return []


def _told_to_customer(event: OrderEvent) -> list[Notice]:
    match event:
        case TruckAssigned():
            name = FrameName.TRUCK_ASSIGNED
        case TruckReleased() if event.reason == "released":
            name = FrameName.TRUCK_RELEASED
        case OrderFullyFilled():
            name = FrameName.ORDER_FULLY_FILLED
        case OrderCancelled():
            name = FrameName.ORDER_CANCELLED
        case OrderExpired():
            name = FrameName.ORDER_EXPIRED
        case _:
            return []
    return [Notice(event.customer_id, name, _json(event))]


def _status_update(event: OrderEvent) -> Notice:
    return Notice(
        event.customer_id,
        FrameName.ORDER_STATUS_UPDATE,
        {
            "orderId": event.order_id,
            "status": event.status,
            "orderVersion": event.order_version,
            "trucksFilled": event.trucks_filled,
            "totalTrucks": event.total_trucks,
            "searching": event.searching,
            "occurredAt": format_time(event.occurred_at),
        },
    )


def _first_of_each_name(frames: Iterable[Notice]) -> Iterable[Notice]:
    """Two frames of one name for one user would share an id.

    The contract makes none such: a captain gets one offer of an order.
    """
    seen: set[tuple[str, FrameName]] = set()
    for frame in frames:
        if (frame.user_id, frame.name) not in seen:
            seen.add((frame.user_id, frame.name))
            yield frame


def _json(part: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = part.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped
