"""What order-api answers, as its OpenAPI document describes it. Documentation only: handlers return bytes, not these.

``tests/integration/test_order_api_openapi.py`` holds real answers against these classes, field by field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from order_api.bodies import MAX_LINES, MAX_TRUCKS
from order_api.model import OrderStatus, TruckStatus
from weelo_common.answer_fields import MOMENT, ORDER_ID, Count, Id, Moment, PlaceAnswer, Rupees
from weelo_common.openapi import Answer

TRUCK_ID = "019c2b1e-6f2a-7c3d-8e4f-5a6b7c8d9e10"

Seconds = Annotated[int, Field(ge=0, description="Whole seconds, rounded up.")]
EpochMs = Annotated[int, Field(ge=0, description="The database's time, in ms since 1970.")]


class OrderAnswer(Answer):
    """An order."""

    id: Id
    customer_id: str
    customer_name: Annotated[str, Field(description='From the token\'s `name`, else "".')]
    customer_phone: Annotated[str, Field(description='From the token\'s `phone`, else "".')]
    pickup: PlaceAnswer
    drop: PlaceAnswer
    distance_km: int | float
    total_trucks: Annotated[int, Field(ge=1, le=MAX_TRUCKS)]
    trucks_filled: Annotated[int, Field(ge=0, le=MAX_TRUCKS)]
    total_amount: Rupees
    goods_type: str | None
    status: OrderStatus
    searching: Annotated[
        bool, Field(description="Until every truck is taken, the cancel, or the end by time.")
    ]
    version: Annotated[int, Field(ge=1, description="One more with each event of the order.")]
    expires_at: Moment
    expires_in: Seconds
    created_at: Moment
    updated_at: Moment


class TruckRequestAnswer(Answer):
    """One truck of an order. What is not known yet is left out."""

    id: Id
    order_id: Id
    request_number: Annotated[int, Field(ge=1, le=MAX_TRUCKS)]
    vehicle_type: str
    vehicle_subtype: str
    price_per_truck: Rupees
    status: TruckStatus
    captain_id: str | SkipJsonSchema[None] = None
    transporter_id: str | SkipJsonSchema[None] = None
    vehicle_number: str | SkipJsonSchema[None] = None
    assigned_at: Moment | SkipJsonSchema[None] = None
    created_at: Moment
    updated_at: Moment


class GroupAnswer(Answer):
    """The trucks of one kind."""

    vehicle_type: str
    vehicle_subtype: str
    count: Annotated[int, Field(ge=1, le=MAX_TRUCKS)]
    transporters_notified: Count


class BroadcastSummary(Answer):
    """What is asked for. Matching comes after the answer: the counts of transporters are in `…/status`."""

    total_requests: Annotated[int, Field(ge=1, le=MAX_TRUCKS)]
    grouped_by: Annotated[list[GroupAnswer], Field(min_length=1, max_length=MAX_LINES)]
    total_transporters_notified: Count


class OrderData(Answer):
    """An order with its truck requests."""

    order: OrderAnswer
    truck_requests: Annotated[list[TruckRequestAnswer], Field(min_length=1, max_length=MAX_TRUCKS)]


class CreatedData(OrderData):
    """A new order."""

    order_id: Id
    broadcast_summary: BroadcastSummary
    timeout_seconds: Seconds
    dispatch_state: Literal["queued"]
    server_time_ms: EpochMs


class PageData(Answer):
    """A page of orders, newest first."""

    orders: Annotated[list[OrderAnswer], Field(max_length=100)]
    total: Annotated[int, Field(ge=0, description="Of all pages.")]
    has_more: bool


class ActiveOrder(Answer):
    """The order that is searching."""

    order_id: Id
    status: OrderStatus
    created_at: Moment


class ActiveData(Answer):
    """Whether the customer has an order that is searching."""

    has_active_order: bool
    active_order: ActiveOrder | None


class StatusData(Answer):
    """How far an order is."""

    order_id: Id
    status: OrderStatus
    remaining_seconds: Seconds
    is_active: Annotated[bool, Field(description="Whether the order is searching.")]
    expires_at: Moment
    dispatch_state: Literal["queued", "dispatching", "exhausted", "closed"]
    dispatch_attempts: Annotated[int, Field(ge=0, description="Waves of offers so far.")]
    notified_transporters: Annotated[int, Field(ge=0, description="Distinct ones, over all waves.")]
    server_time_ms: EpochMs


class CancelledData(Answer):
    """A cancelled order."""

    order_id: Id
    status: Literal["cancelled"]
    reason: Annotated[str | None, Field(description="What the customer typed; null where nothing.")]
    cancelled_at: Moment


class TruckRequestData(Answer):
    """A truck request after a step."""

    truck_request: TruckRequestAnswer


class AcceptedData(TruckRequestData):
    """The truck that the captain won, and its order."""

    order: OrderAnswer


class TruckRequestsData(Answer):
    """A captain's own truck requests, the latest first."""

    truck_requests: Annotated[list[TruckRequestAnswer], Field(max_length=100)]


_PICKUP = {"latitude": 28.5355, "longitude": 77.3910, "address": "Noida"}
_DROP = {"latitude": 28.6139, "longitude": 77.2090, "address": "Delhi"}
ORDER_EXAMPLE: dict[str, Any] = {
    "id": ORDER_ID,
    "customerId": "c-1",
    "customerName": "",
    "customerPhone": "",
    "pickup": _PICKUP,
    "drop": _DROP,
    "distanceKm": 25,
    "totalTrucks": 1,
    "trucksFilled": 0,
    "totalAmount": 500,
    "goodsType": "bricks",
    "status": "active",
    "searching": True,
    "version": 1,
    "expiresAt": "2026-02-03T10:09:28.123Z",
    "expiresIn": 60,
    "createdAt": MOMENT,
    "updatedAt": MOMENT,
}
TRUCK_EXAMPLE: dict[str, Any] = {
    "id": TRUCK_ID,
    "orderId": ORDER_ID,
    "requestNumber": 1,
    "vehicleType": "TRUCK",
    "vehicleSubtype": "TATA_ACE",
    "pricePerTruck": 500,
    "status": "searching",
    "createdAt": MOMENT,
    "updatedAt": MOMENT,
}
WON_TRUCK_EXAMPLE = TRUCK_EXAMPLE | {
    "status": "assigned",
    "captainId": "k-1",
    "transporterId": "t-1",
    "vehicleNumber": "DL1AB1234",
    "assignedAt": MOMENT,
}
CREATED_EXAMPLE: dict[str, Any] = {
    "orderId": ORDER_ID,
    "order": ORDER_EXAMPLE,
    "truckRequests": [TRUCK_EXAMPLE],
    "broadcastSummary": {
        "totalRequests": 1,
        "groupedBy": [
            {"vehicleType": "TRUCK", "vehicleSubtype": "TATA_ACE", "count": 1, "transportersNotified": 0}
        ],
        "totalTransportersNotified": 0,
    },
    "timeoutSeconds": 60,
    "dispatchState": "queued",
    "serverTimeMs": 1770113308123,
}
STATUS_EXAMPLE: dict[str, Any] = {
    "orderId": ORDER_ID,
    "status": "active",
    "remainingSeconds": 42,
    "isActive": True,
    "expiresAt": "2026-02-03T10:09:28.123Z",
    "dispatchState": "dispatching",
    "dispatchAttempts": 2,
    "notifiedTransporters": 7,
    "serverTimeMs": 1770113326123,
}
ACCEPTED_EXAMPLE: dict[str, Any] = {
    "truckRequest": WON_TRUCK_EXAMPLE,
    "order": ORDER_EXAMPLE
    | {"status": "fully_filled", "searching": False, "trucksFilled": 1, "version": 3, "expiresIn": 0},
}
