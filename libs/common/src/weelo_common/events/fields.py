"""The described types that events are made of. What stands here goes into the published schemas, word for word.

``PERSONAL`` marks a field that tells something of a person: readers treat it as their law of data protection says.
A description or an example may change at any time; a type, a bound or a pattern never, within v1.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

from weelo_common.clock import UtcTime
from weelo_common.geo import Latitude, Longitude

PERSONAL = "x-personal-data"  # the extension's name in the schemas
SECRET = "x-secret"  # noqa: S105 - an extension's name: a field that gives its bearer a right

_PSEUDONYM: dict[str, JsonValue] = {PERSONAL: "pseudonym: the same person always has the same id"}
_WHEREABOUTS: dict[str, JsonValue] = {PERSONAL: "whereabouts: where somebody sends or fetches goods"}


Rupees = Annotated[int, Field(ge=0)]
"""Money: whole Indian rupees."""

OrderId = Annotated[str, Field(description="The order. A UUIDv7.")]
TruckRequestId = Annotated[str, Field(description="One truck of the order. A UUIDv7.")]
OfferId = Annotated[str, Field(description="One offer of one order to one captain. A UUIDv7.")]
CustomerId = Annotated[
    str,
    Field(description="The customer: opaque text of 1 to 64 characters.", json_schema_extra=_PSEUDONYM),
]
CaptainId = Annotated[
    str,
    Field(description="The truck driver: opaque text of 1 to 64 characters.", json_schema_extra=_PSEUDONYM),
]
TransporterId = Annotated[
    str,
    Field(
        description="The company that the captain drives for: opaque text of 1 to 64 characters.",
        json_schema_extra=_PSEUDONYM,
    ),
]
VehicleType = Annotated[
    str, Field(description="Compared exactly; text of 1 to 64 characters.", examples=["TRUCK"])
]
VehicleSubtype = Annotated[
    str, Field(description="Compared exactly; text of 1 to 64 characters.", examples=["TATA_ACE"])
]
VehicleNumber = Annotated[
    str,
    Field(description="The number plate.", json_schema_extra={PERSONAL: "number plate: leads to its keeper"}),
]
OrderVersion = Annotated[
    int,
    Field(
        description="Runs 1, 2, 3 … for each order, without a gap or a repeat: one event, one version. "
        "A lower one than you know is an old event."
    ),
]
OrderStatus = Annotated[
    str,
    Field(
        description="The order's status after the transaction. Readers survive values they do not know.",
        examples=[
            "active",
            "partially_filled",
            "fully_filled",
            "in_progress",
            "completed",
            "cancelled",
            "expired",
        ],
    ),
]
TruckRequestStatus = Annotated[
    str,
    Field(
        description="The truck request's status. Readers survive values they do not know.",
        examples=["searching", "assigned", "in_progress", "completed", "expired", "cancelled"],
    ),
]
ReleaseReason = Annotated[
    str,
    Field(
        description="Why the captain is free again. Readers survive values they do not know.",
        examples=["completed", "released", "cancelled"],
    ),
]
CancelReason = Annotated[
    str,
    Field(
        description="Why the order is cancelled. Readers survive values they do not know.",
        examples=["customer", "no_truck_left"],
    ),
]
WithdrawReason = Annotated[
    str,
    Field(
        description="Why the offers ended. Readers survive values they do not know.",
        examples=["filled", "cancelled", "expired", "busy"],
    ),
]
DeclineReason = Annotated[
    str,
    Field(
        description="Why the captain said no. Readers survive values they do not know.",
        examples=["NOT_AVAILABLE", "VEHICLE_NOT_SUITABLE", "DISTANCE_TOO_FAR", "OTHER"],
    ),
]
OfferToken = Annotated[
    str,
    Field(
        description="A signed JWT with which this captain, and nobody else, accepts the order. Never log it.",
        json_schema_extra={
            SECRET: "gives the captain the right to accept",
            PERSONAL: "holds the captain's id and number plate",
        },
    ),
]
DistanceKm = Annotated[int | float, Field(description="From pickup to drop, in kilometres.")]
PlaceLatitude = Annotated[
    Latitude, Field(description="Degrees north, WGS 84.", json_schema_extra=_WHEREABOUTS)
]
PlaceLongitude = Annotated[
    Longitude, Field(description="Degrees east, WGS 84.", json_schema_extra=_WHEREABOUTS)
]
Address = Annotated[
    str, Field(description="The address as the customer gave it.", json_schema_extra=_WHEREABOUTS)
]
OccurredAt = Annotated[
    UtcTime, Field(description="When the state changed, by the clock of the owning service's database.")
]
OrderExpiresAt = Annotated[UtcTime, Field(description="When the search ends by time.")]
