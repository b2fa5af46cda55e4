"""What ``GET /notifications`` answers, as its OpenAPI document describes it: the frames of ``/ws`` among it.

Documentation only: the handler returns bytes, not these. ``tests/integration/test_notifier_openapi.py`` holds real
answers against these classes, field by field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from weelo_common.answer_fields import ORDER_ID, Moment
from weelo_common.events import (
    OrderCancelled,
    OrderExpired,
    OrderFullyFilled,
    Place,
    TruckAssigned,
    TruckReleased,
)
from weelo_common.openapi import Answer

MOMENT = "2026-02-03T10:09:28.123Z"
OFFER_ID = "019c2b1e-7a10-7d11-9c22-0b1c2d3e4f50"
EVENT_ID = "019c2b1e-7a10-7d11-9c22-0b1c2d3e4f51"

Offset = Annotated[int, Field(ge=1, description="1, 2, 3 … in this user's stream.")]


class NewBroadcast(Answer):
    """An offer."""

    offer_id: str
    offer_token: Annotated[str, Field(description="What `POST /orders/{id}/accept` asks for.")]
    order_id: str
    vehicle_type: str
    vehicle_subtype: str
    pickup: Place
    drop: Place
    distance_km: int | float
    pickup_distance_m: Annotated[int, Field(ge=0, description="From the captain to the pickup.")]
    price_per_truck: Annotated[int, Field(description="Whole rupees.")]
    open_trucks: int
    expires_at: Moment


class BroadcastDismissed(Answer):
    """An offer that ended; it may never have been shown."""

    order_id: str
    offer_id: str
    reason: Annotated[str, Field(examples=["filled", "cancelled", "expired", "busy"])]


class StatusUpdate(Answer):
    """The state of an order after a change; a higher `orderVersion` wins."""

    order_id: str
    status: str
    order_version: int
    trucks_filled: int
    total_trucks: int
    searching: bool
    occurred_at: Moment


class EventFrame(Answer):
    """What every event frame carries."""

    type: Literal["event"]
    offset: Offset
    id: Annotated[str, Field(description="`<ce_id>:<event>`: unique, also where one event gives two frames.")]
    expires_at: (
        Annotated[Moment, Field(description="Of an offer: when it ends by itself.")] | SkipJsonSchema[None]
    ) = None


class NewBroadcastFrame(EventFrame):
    """To a captain: an offer."""

    event: Literal["new_broadcast"]
    data: NewBroadcast


class BroadcastDismissedFrame(EventFrame):
    """To a captain: an offer ended."""

    event: Literal["broadcast_dismissed"]
    data: BroadcastDismissed


class TripAssignedFrame(EventFrame):
    """To a captain, and as `truck_assigned` to the customer: a captain won a truck of the order."""

    event: Literal["trip_assigned", "truck_assigned"]
    data: TruckAssigned


class TripCancelledFrame(EventFrame):
    """To a captain, and as `truck_released` to the customer: he has the trip no more."""

    event: Literal["trip_cancelled", "truck_released"]
    data: TruckReleased


class StatusUpdateFrame(EventFrame):
    """To a customer: his order changed."""

    event: Literal["order_status_update"]
    data: StatusUpdate


class FullyFilledFrame(EventFrame):
    """To a customer: the last truck was taken."""

    event: Literal["order_fully_filled"]
    data: OrderFullyFilled


class CancelledFrame(EventFrame):
    """To a customer: the order is cancelled."""

    event: Literal["order_cancelled"]
    data: OrderCancelled


class ExpiredFrame(EventFrame):
    """To a customer: the search ended by time."""

    event: Literal["order_expired"]
    data: OrderExpired


class SkipFrame(Answer):
    """Offsets of offers that have ended, both ends included: nothing more comes of them."""

    type: Literal["skip"]
    first: Annotated[Offset, Field(alias="from")]
    last: Annotated[Offset, Field(alias="to")]


class NotificationsData(Answer):
    """A page of the caller's stream."""

    epoch: Annotated[str, Field(description="Another one than before: the offsets start anew.")]
    events: list[
        NewBroadcastFrame
        | BroadcastDismissedFrame
        | TripAssignedFrame
        | TripCancelledFrame
        | StatusUpdateFrame
        | FullyFilledFrame
        | CancelledFrame
        | ExpiredFrame
        | SkipFrame
    ]
    has_more: Annotated[bool, Field(description="Ask again, after the last offset of this page.")]
    recovered: Annotated[
        bool,
        Field(
            description="Whether all after `after` is here or on the next pages. `false`: some of it is gone for "
            "good (kept are 24 hours, and 1,000 frames a user), or `after` is ahead of the stream, so read the "
            "present state by the other paths."
        ),
    ]


EXAMPLE: dict[str, Any] = {
    "epoch": "3f0c6a52-7f8e-4c55-9d53-5e1a0f3f9a11",
    "events": [
        {"type": "skip", "from": 18, "to": 19},
        {
            "type": "event",
            "offset": 20,
            "id": f"{EVENT_ID}:broadcast_dismissed",
            "event": "broadcast_dismissed",
            "data": {"orderId": ORDER_ID, "offerId": OFFER_ID, "reason": "filled"},
        },
    ],
    "hasMore": False,
    "recovered": True,
}
