"""Request bodies, checked; and the opaque ids in paths."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.config import JsonDict

from weelo_common.clock import parse_time
from weelo_common.geo import Latitude, Longitude
from weelo_common.http import Body
from weelo_common.ids import OpaqueId

MAX_LOCATIONS = 100  # of one request


def _storable(text: str) -> str:
    if not 1 <= len(text) <= 64 or "\x00" in text:
        raise ValueError("must have 1 to 64 characters of text")
    return text


def _time(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("must be a time such as 2026-02-03T10:08:28.123Z")
    try:
        return parse_time(value)
    except OverflowError:
        raise ValueError("must be a time that a calendar has") from None


def _example(example: JsonDict) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


OpaquePathId = Annotated[
    str,
    Path(description="1 to 64 characters", json_schema_extra={"minLength": 1, "maxLength": 64}),
    AfterValidator(_storable),
]
"""An id in a path that somebody else made."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Phone = Annotated[str, StringConstraints(min_length=1, max_length=32)]
Kind = Annotated[str, StringConstraints(min_length=1, max_length=64)]
"""A vehicle's type or subtype: compared exactly."""
Time = Annotated[datetime, BeforeValidator(_time)]


class DeclineReason(StrEnum):
    """Why a captain says no."""

    NOT_AVAILABLE = "NOT_AVAILABLE"
    VEHICLE_NOT_SUITABLE = "VEHICLE_NOT_SUITABLE"
    DISTANCE_TOO_FAR = "DISTANCE_TOO_FAR"
    OTHER = "OTHER"


class TransporterBody(Body):
    """PUT /transporters/{id}. ``verified`` is for ops alone; left out, it stays as it is."""

    model_config = _example({"name": "Verma Roadways", "active": True})

    name: Name
    phone: Phone | None = None
    active: bool
    verified: bool | None = None


class ConfirmBody(Body):
    """PUT /transporters/{id}/captains/{captainId}."""

    model_config = _example({"confirmed": True})

    confirmed: bool


class CaptainBody(Body):
    """PUT /captains/me."""

    model_config = _example(
        {
            "transporterId": "t-1",
            "name": "A. Captain",
            "vehicleType": "TRUCK",
            "vehicleSubtype": "TATA_ACE",
            "vehicleNumber": "DL1AB1234",
        }
    )

    transporter_id: OpaqueId
    name: Name
    phone: Phone | None = None
    vehicle_type: Kind
    vehicle_subtype: Kind
    vehicle_number: Annotated[str, StringConstraints(min_length=1, max_length=32)]


class AvailabilityBody(Body):
    """PUT /captains/me/availability."""

    model_config = _example({"available": True})

    available: bool


class LocationBody(Body):
    """One position. ``recordedAt`` only orders a captain's own positions."""

    latitude: Latitude
    longitude: Longitude
    recorded_at: Time
    accuracy_m: Annotated[float, Field(ge=0)] | None = None
    heading_deg: Annotated[float, Field(ge=0, le=360)] | None = None
    speed_mps: Annotated[float, Field(ge=0)] | None = None


class LocationsBody(Body):
    """POST /captains/me/locations."""

    model_config = _example(
        {"locations": [{"latitude": 28.61, "longitude": 77.2, "recordedAt": "2026-02-03T10:08:28.123Z"}]}
    )

    locations: Annotated[list[LocationBody], Field(min_length=1, max_length=MAX_LOCATIONS)]


class DeclineBody(Body):
    """POST /offers/{id}/decline."""

    model_config = _example({"reason": "DISTANCE_TOO_FAR"})

    reason: Annotated[DeclineReason, Field(strict=False)]  # from its text
