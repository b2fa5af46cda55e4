"""``orders.events.v1``: the public contract. Within v1 only additions are allowed.

Statuses and reasons are text, not enumerations: readers must survive values they do not know.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from weelo_common.events import fields
from weelo_common.events.envelope import Event, Model
from weelo_common.events.fields import Rupees
from weelo_common.events.topics import ORDERS_EVENTS, Topic

__all__ = [
    "OrderCancelled",
    "OrderCompleted",
    "OrderCreated",
    "OrderEvent",
    "OrderExpired",
    "OrderFullyFilled",
    "Place",
    "RequestedTruck",
    "Rupees",
    "TruckAssigned",
    "TruckReleased",
    "TruckStarted",
]


class Place(Model):
    """Where a truck goes: a point with its address."""

    latitude: fields.PlaceLatitude
    longitude: fields.PlaceLongitude
    address: fields.Address
    city: str | None = None
    state: str | None = None


class OrderEvent(Event):
    """What every order event carries: the state after the transaction, and the event's own version."""

    TOPIC: ClassVar[Topic] = ORDERS_EVENTS

    order_id: fields.OrderId
    order_version: fields.OrderVersion
    customer_id: fields.CustomerId
    status: fields.OrderStatus
    searching: Annotated[bool, Field(description="True while trucks are looked for; never true again.")]
    trucks_filled: Annotated[int, Field(description="Trucks won by captains: assigned, started or done.")]
    total_trucks: Annotated[int, Field(description="Trucks that the customer ordered.")]
    occurred_at: fields.OccurredAt

    def key(self) -> str:
        return self.order_id


class RequestedTruck(Model):
    """One truck of an order, and its price in rupees."""

    id: fields.TruckRequestId
    vehicle_type: fields.VehicleType
    vehicle_subtype: fields.VehicleSubtype
    price_per_truck: Annotated[Rupees, Field(description="Whole rupees.")]


class OrderCreated(OrderEvent):
    """The order is made and the search begins."""

    TYPE: ClassVar[str] = "weelo.order.created.v1"

    pickup: Place
    drop: Place
    distance_km: fields.DistanceKm
    goods_type: Annotated[str | None, Field(description="What is carried, in the customer's words.")] = None
    total_amount: Annotated[Rupees, Field(description="The sum of the prices, in whole rupees.")]
    expires_at: fields.OrderExpiresAt
    truck_requests: Annotated[tuple[RequestedTruck, ...], Field(description="One for each truck.")]


class TruckAssigned(OrderEvent):
    """A captain won a truck request."""

    TYPE: ClassVar[str] = "weelo.order.truck_assigned.v1"

    truck_request_id: fields.TruckRequestId
    captain_id: fields.CaptainId
    transporter_id: fields.TransporterId
    vehicle_type: fields.VehicleType
    vehicle_subtype: fields.VehicleSubtype
    vehicle_number: fields.VehicleNumber
    offer_id: fields.OfferId
    pickup: Place
    drop: Place


class OrderFullyFilled(OrderEvent):
    """Every truck is taken; comes right after the last ``TruckAssigned``."""

    TYPE: ClassVar[str] = "weelo.order.fully_filled.v1"


class TruckReleased(OrderEvent):
    """A captain is free again: ``completed``, ``released``, or ``cancelled`` with the order."""

    TYPE: ClassVar[str] = "weelo.order.truck_released.v1"

    truck_request_id: fields.TruckRequestId
    captain_id: fields.CaptainId
    reason: fields.ReleaseReason
    truck_request_status: fields.TruckRequestStatus


class OrderCancelled(OrderEvent):
    """The order is cancelled: by the ``customer``, or because ``no_truck_left``."""

    TYPE: ClassVar[str] = "weelo.order.cancelled.v1"

    reason: fields.CancelReason


class OrderExpired(OrderEvent):
    """The search ended by time."""

    TYPE: ClassVar[str] = "weelo.order.expired.v1"

    expired_truck_request_ids: Annotated[
        tuple[str, ...], Field(description="The truck requests that nobody won.")
    ]


class TruckStarted(OrderEvent):
    """A trip starts."""

    TYPE: ClassVar[str] = "weelo.order.truck_started.v1"

    truck_request_id: fields.TruckRequestId
    captain_id: fields.CaptainId


class OrderCompleted(OrderEvent):
    """Every truck won has done its trip; comes once."""

    TYPE: ClassVar[str] = "weelo.order.completed.v1"
