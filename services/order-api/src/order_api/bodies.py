"""The request bodies of order-api, with every limit of the contract."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator
from pydantic.config import JsonDict

from order_api.domain import Line, NewOrder
from weelo_common.auth import Principal
from weelo_common.events import Place
from weelo_common.geo import Latitude, Longitude
from weelo_common.http import Body
from weelo_common.offer_tokens import MAX_TOKEN_LENGTH

MAX_LINES = 10  # requirement lines of one order
MAX_TRUCKS = 50  # of one order, so that its events and its answer stay small
MAX_DISTANCE_KM = 5_000  # further than across the country
MAX_PRICE = 10_000_000  # rupees a truck
MAX_WEIGHT_KG = 10_000_000  # more than fifty trucks carry

Kind = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Name = Annotated[str, StringConstraints(max_length=200)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500)]
# Of a union pydantic writes limits that JSON Schema does not know; these say the same in its words.
_DISTANCE_SCHEMA: JsonDict = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_DISTANCE_KM}
_WEIGHT_SCHEMA: JsonDict = {"type": "number", "minimum": 0, "maximum": MAX_WEIGHT_KG}

_EXAMPLE: JsonDict = {
    "pickup": {"latitude": 28.5355, "longitude": 77.3910, "address": "Noida"},
    "drop": {"latitude": 28.6139, "longitude": 77.2090, "address": "Delhi"},
    "distanceKm": 25,
    "vehicleRequirements": [
        {"vehicleType": "TRUCK", "vehicleSubtype": "TATA_ACE", "quantity": 1, "pricePerTruck": 500}
    ],
}


def _whole(value: int | float) -> int | float:
    """Whole numbers stay integers: 25.0 and 25 are the same request."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class PlaceBody(Body):
    """Where a truck goes."""

    latitude: Latitude
    longitude: Longitude
    address: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    city: Name | None = None
    state: Name | None = None

    def place(self) -> Place:
        return Place(
            latitude=self.latitude,
            longitude=self.longitude,
            address=self.address,
            city=self.city,
            state=self.state,
        )


class LineBody(Body):
    """So many trucks of one kind."""

    vehicle_type: Kind
    vehicle_subtype: Kind
    quantity: Annotated[int, Field(ge=1, le=MAX_TRUCKS)]
    price_per_truck: Annotated[int, Field(ge=1, le=MAX_PRICE)]


class CreateBody(Body):
    """``POST /orders``."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    pickup: PlaceBody
    drop: PlaceBody
    distance_km: Annotated[
        int | float,
        Field(gt=0, le=MAX_DISTANCE_KM),
        AfterValidator(_whole),
        WithJsonSchema(_DISTANCE_SCHEMA),
    ]
    vehicle_requirements: Annotated[list[LineBody], Field(min_length=1, max_length=MAX_LINES)]
    goods_type: Name | None = None
    cargo_weight_kg: (
        Annotated[
            int | float,
            Field(ge=0, le=MAX_WEIGHT_KG),
            AfterValidator(_whole),
            WithJsonSchema(_WEIGHT_SCHEMA),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _lines_are_distinct_and_not_too_many(self) -> Self:
        kinds = {(line.vehicle_type, line.vehicle_subtype) for line in self.vehicle_requirements}
        if len(kinds) < len(self.vehicle_requirements):
            raise ValueError("vehicleRequirements must not have two lines of one type and subtype")
        if sum(line.quantity for line in self.vehicle_requirements) > MAX_TRUCKS:
            raise ValueError(f"vehicleRequirements must not ask for more than {MAX_TRUCKS} trucks")
        return self

    def understood(self) -> object:
        """What the fingerprint is taken of."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def wish(self, customer: Principal) -> NewOrder:
        """The order the customer asks for."""
        return NewOrder(
            customer_id=customer.user_id,
            customer_name=customer.name,
            customer_phone=customer.phone,
            pickup=self.pickup.place(),
            drop=self.drop.place(),
            distance_km=self.distance_km,
            goods_type=self.goods_type,
            cargo_weight_kg=self.cargo_weight_kg,
            lines=tuple(
                Line(line.vehicle_type, line.vehicle_subtype, line.quantity, line.price_per_truck)
                for line in self.vehicle_requirements
            ),
        )


class CancelBody(Body):
    """``POST /orders/{id}/cancel``."""

    reason: Annotated[str, StringConstraints(max_length=500)] | None = None


class AcceptBody(Body):
    """``POST /orders/{id}/accept``."""

    offer_token: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TOKEN_LENGTH)]


class ReleaseBody(Body):
    """``POST /truck-requests/{id}/release``."""

    reason: Reason
