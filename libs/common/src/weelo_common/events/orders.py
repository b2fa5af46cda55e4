"""``orders.events.v1``: the public contract. Within v1 only additions are allowed.

Statuses and reasons are text, not enumerations: readers must survive values they do not know.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from weelo_common.clock import UtcTime
from weelo_common.events.envelope import Event, Model
from weelo_common.events.topics import ORDERS_EVENTS, Topic
from weelo_common.geo import Latitude, Longitude

Rupees = Annotated[int, Field(ge=0)]
"""Money: whole Indian rupees."""


class Place(Model):
    """Where a truck goes: a point with its address."""

    latitude: Latitude
    longitude: Longitude
    address: str
    city: str | None = None
    state: str | None = None


class OrderEvent(Event):
    """What every order event carries: the state after the transaction, and the event's own version."""

    TOPIC: ClassVar[Topic] = ORDERS_EVENTS

    order_id: str
    order_version: int
    customer_id: str
    status: str
    searching: bool
    trucks_filled: int
    total_trucks: int
    occurred_at: UtcTime

    def key(self) -> str:
        return self.order_id


class RequestedTruck(Model):
    """One truck of an order, and its price in rupees."""

    id: str
    vehicle_type: str
    vehicle_subtype: str
    price_per_truck: Rupees


class OrderCreated(OrderEvent):
    """The order is made and the search begins."""

    TYPE: ClassVar[str] = "weelo.order.created.v1"

    pickup: Place
    drop: Place
    distance_km: int | float
    goods_type: str | None = None
    total_amount: Rupees
    expires_at: UtcTime
    truck_requests: tuple[RequestedTruck, ...]


class TruckAssigned(OrderEvent):
    """A captain won a truck request."""

    TYPE: ClassVar[str] = "weelo.order.truck_assigned.v1"

    truck_request_id: str
    captain_id: str
    transporter_id: str
    vehicle_type: str
    vehicle_subtype: str
    vehicle_number: str
    offer_id: str
    pickup: Place
    drop: Place


class OrderFullyFilled(OrderEvent):
    """Every truck is taken; comes right after the last ``TruckAssigned``."""

    TYPE: ClassVar[str] = "weelo.order.fully_filled.v1"


class TruckReleased(OrderEvent):
    """A captain is free again: ``completed``, ``released``, or ``cancelled`` with the order."""

    TYPE: ClassVar[str] = "weelo.order.truck_released.v1"

    truck_request_id: str
    captain_id: str
    reason: str
    truck_request_status: str


class OrderCancelled(OrderEvent):
    """The order is cancelled: by the ``customer``, or because ``no_truck_left``."""

    TYPE: ClassVar[str] = "weelo.order.cancelled.v1"

    reason: str


class OrderExpired(OrderEvent):
    """The search ended by time."""

    TYPE: ClassVar[str] = "weelo.order.expired.v1"

    expired_truck_request_ids: tuple[str, ...]


class TruckStarted(OrderEvent):
    """A trip starts."""

    TYPE: ClassVar[str] = "weelo.order.truck_started.v1"

    truck_request_id: str
    captain_id: str


class OrderCompleted(OrderEvent):
    """Every truck won has done its trip; comes once."""

    TYPE: ClassVar[str] = "weelo.order.completed.v1"
