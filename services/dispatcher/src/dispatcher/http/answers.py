"""What the dispatcher answers, as its OpenAPI document describes it. Documentation only: handlers return bytes.

``tests/integration/test_dispatcher_openapi.py`` holds real answers against these classes, field by field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from dispatcher.candidates import Refusal
from dispatcher.domain import MAX_LIVE_OFFERS, OFFER_WAVES, WAVE_RADII_M, Cause, OfferStatus
from dispatcher.handlers.explanation import CAPTAINS_TOLD, CELLS_TOLD, OFFERED
from weelo_common.answer_fields import MOMENT, ORDER_ID, Count, Id, Moment, PlaceAnswer, Rupees
from weelo_common.openapi import Answer

OFFER_ID = "019c2b1e-7001-7a1b-9c2d-3e4f5a6b7c8d"

Metres = Annotated[int, Field(ge=0, description="Whole metres, along the great circle.")]
Wave = Annotated[int, Field(ge=1, le=OFFER_WAVES)]
Radius = Annotated[
    int, WithJsonSchema({"type": "integer", "enum": sorted(set(WAVE_RADII_M)), "description": "Metres."})
]


class TransporterAnswer(Answer):
    """A transporter."""

    id: str
    name: str
    phone: str | None
    active: bool
    verified: Annotated[bool, Field(description="By ops.")]
    created_at: Moment
    updated_at: Moment


class TransporterData(Answer):
    """The transporter as he is now."""

    transporter: TransporterAnswer


class CaptainAnswer(Answer):
    """A captain."""

    id: str
    transporter_id: str
    name: str
    phone: str | None
    vehicle_type: str
    vehicle_subtype: str
    vehicle_number: str
    confirmed: Annotated[bool, Field(description="By his transporter; taken back when he names another.")]
    available: bool
    busy: Annotated[bool, Field(description="He has a running trip.")]
    created_at: Moment
    updated_at: Moment


class CaptainData(Answer):
    """The captain as he is now."""

    captain: CaptainAnswer


class OwnCaptainAnswer(CaptainAnswer):
    """A captain, and what keeps offers from him."""

    receives_offers: Annotated[bool, Field(description="Whether the list that follows is empty.")]
    no_offers_because: Annotated[
        list[Refusal], Field(description="Every reason, the one to mend first at the head.")
    ]


class OwnCaptainData(Answer):
    """The caller himself."""

    captain: OwnCaptainAnswer


class AcceptedPositionsData(Answer):
    """So many positions were taken."""

    accepted: Annotated[int, Field(ge=1, le=100)]


class OfferAnswer(Answer):
    """A live offer."""

    offer_id: Id
    offer_token: Annotated[str, Field(description="To be sent to `POST /orders/{id}/accept`.")]
    order_id: Id
    vehicle_type: str
    vehicle_subtype: str
    pickup: PlaceAnswer
    drop: PlaceAnswer
    distance_km: int | float
    pickup_distance_m: Annotated[Metres, Field(description="From him to the pickup, when it was offered.")]
    price_per_truck: Rupees
    open_trucks: Annotated[int, Field(ge=1, description="Of his kind, when it was offered.")]
    expires_at: Moment


class OffersData(Answer):
    """The captain's live offers, oldest first."""

    offers: list[OfferAnswer]


class DeclinedData(Answer):
    """A declined offer."""

    offer_id: Id
    status: Literal["declined"]


class OfferOutcomeAnswer(Answer):
    """How an offer stands now."""

    offer_id: Id
    status: OfferStatus
    reason: Annotated[
        str | None,
        Field(
            description="Why it ended (`filled`, `cancelled`, `expired`, `busy`), or why its captain declined."
        ),
    ]
    ended_at: Moment | None


class ConsideredAnswer(Answer):
    """A captain who was considered: offered the order, with what became of it, or not, and why."""

    captain_id: str
    distance_m: Metres
    offered: bool
    reason: Annotated[
        Refusal | SkipJsonSchema[None], Field(description="Why not; where he was not offered it.")
    ] = None
    offer: Annotated[
        OfferOutcomeAnswer | SkipJsonSchema[None], Field(description="Where he was offered it.")
    ] = None


_REASONS = {
    "type": "object",
    "description": "How many of the candidates came to what; all of them, also those not listed.",
    "propertyNames": {"enum": [OFFERED, *(refusal.value for refusal in Refusal)]},
    "additionalProperties": {"type": "integer", "minimum": 1},
}


class LineAnswer(Answer):
    """One requirement line in one round."""

    vehicle_type: str
    vehicle_subtype: str
    open_trucks: Count
    target: Annotated[int, Field(ge=0, le=MAX_LIVE_OFFERS, description="Live offers that the line wants.")]
    live_before: Count
    wanted: Annotated[int, Field(ge=0, le=MAX_LIVE_OFFERS, description="How many were missing.")]
    offered: Annotated[int, Field(ge=0, le=MAX_LIVE_OFFERS)]
    candidates: Annotated[int, Field(ge=0, description="Captains considered.")]
    reasons: Annotated[dict[str, int], WithJsonSchema(_REASONS)]
    cells_looked_at: Count
    cells: Annotated[list[str], Field(max_length=CELLS_TOLD, description="Geohashes of the first of them.")]
    captains: Annotated[
        list[ConsideredAnswer],
        Field(
            max_length=CAPTAINS_TOLD,
            description="By distance: all who were offered the order, and the nearest of the others.",
        ),
    ]


class RoundAnswer(Answer):
    """A wave, or replacements that came at once."""

    wave: Wave
    cause: Annotated[
        Cause,
        Field(
            description="`wave`, or why replacements were needed: an offer was `declined`, a captain is "
            "`busy` elsewhere, or one was `released`."
        ),
    ]
    radius_m: Radius
    at: Moment
    lines: Annotated[list[LineAnswer], Field(max_length=10)]
    left_out: Annotated[int, Field(ge=0, description="Further replacements of this wave, not told.")]


class NextWaveAnswer(Answer):
    """The wave to come."""

    wave: Wave
    radius_m: Radius
    due_at: Moment


class ExplanationData(Answer):
    """What dispatch did for an order, and why."""

    order_id: Id
    status: Annotated[str, Field(description="As the newest order event told.")]
    searching: bool
    order_version: Count
    expires_at: Annotated[Moment | None, Field(description="null while `OrderCreated` has not come.")]
    waves_made: Annotated[int, Field(ge=0, le=OFFER_WAVES)]
    exhausted: Annotated[bool, Field(description="The last wave is made, and nobody holds an offer.")]
    next_wave: NextWaveAnswer | None
    waves: Annotated[
        list[RoundAnswer],
        Field(description="Oldest first. Empty 48 hours on: what was considered is forgotten."),
    ]


class LastPositionAnswer(Answer):
    """Where a captain was last."""

    latitude: float
    longitude: float
    received_at: Moment


class AssignedCaptainAnswer(Answer):
    """A captain who comes."""

    truck_request_id: Id
    captain_id: str
    name: str
    phone: str | None
    vehicle_type: str
    vehicle_subtype: str
    vehicle_number: str
    last_position: Annotated[
        LastPositionAnswer | None, Field(description="null where nothing was heard of him lately.")
    ]


class AssignedCaptainsData(Answer):
    """The captains who hold a truck of the order."""

    captains: Annotated[list[AssignedCaptainAnswer], Field(max_length=50)]


_PICKUP = {"latitude": 28.5355, "longitude": 77.3910, "address": "Noida"}
_DROP = {"latitude": 28.6139, "longitude": 77.2090, "address": "Delhi"}
_VEHICLE = {"vehicleType": "TRUCK", "vehicleSubtype": "TATA_ACE"}
TRANSPORTER_EXAMPLE: dict[str, Any] = {
    "id": "t-1",
    "name": "Verma Roadways",
    "phone": "+910000000000",
    "active": True,
    "verified": True,
    "createdAt": MOMENT,
    "updatedAt": MOMENT,
}
CAPTAIN_EXAMPLE: dict[str, Any] = {
    "id": "k-1",
    "transporterId": "t-1",
    "name": "A. Captain",
    "phone": "+910000000000",
    **_VEHICLE,
    "vehicleNumber": "DL1AB1234",
    "confirmed": True,
    "available": True,
    "busy": False,
    "createdAt": MOMENT,
    "updatedAt": MOMENT,
}
OWN_CAPTAIN_EXAMPLE = CAPTAIN_EXAMPLE | {
    "available": False,
    "receivesOffers": False,
    "noOffersBecause": ["unavailable", "stale"],
}
OFFER_EXAMPLE: dict[str, Any] = {
    "offerId": OFFER_ID,
    "offerToken": "eyJhbGciOiJFZERTQSJ9.eyJqdGkiOiIuLi4ifQ.c2lnbmF0dXJl",
    "orderId": ORDER_ID,
    **_VEHICLE,
    "pickup": _PICKUP,
    "drop": _DROP,
    "distanceKm": 25,
    "pickupDistanceM": 412,
    "pricePerTruck": 500,
    "openTrucks": 1,
    "expiresAt": "2026-02-03T10:09:28.123Z",
}
EXPLANATION_EXAMPLE: dict[str, Any] = {
    "orderId": ORDER_ID,
    "status": "active",
    "searching": True,
    "orderVersion": 1,
    "expiresAt": "2026-02-03T10:09:28.123Z",
    "wavesMade": 1,
    "exhausted": False,
    "nextWave": {"wave": 2, "radiusM": 5000, "dueAt": "2026-02-03T10:08:38.123Z"},
    "waves": [
        {
            "wave": 1,
            "cause": "wave",
            "radiusM": 2000,
            "at": MOMENT,
            "leftOut": 0,
            "lines": [
                {
                    **_VEHICLE,
                    "openTrucks": 1,
                    "target": 5,
                    "liveBefore": 0,
                    "wanted": 5,
                    "offered": 1,
                    "candidates": 2,
                    "reasons": {"offered": 1, "busy": 1},
                    "cellsLookedAt": 12,
                    "cells": ["ttnfv2u", "ttnfv2v"],
                    "captains": [
                        {"captainId": "k-2", "distanceM": 180, "offered": False, "reason": "busy"},
                        {
                            "captainId": "k-1",
                            "distanceM": 412,
                            "offered": True,
                            "offer": {
                                "offerId": OFFER_ID,
                                "status": "declined",
                                "reason": "DISTANCE_TOO_FAR",
                                "endedAt": "2026-02-03T10:08:31.456Z",
                            },
                        },
                    ],
                }
            ],
        }
    ],
}
ASSIGNED_EXAMPLE: dict[str, Any] = {
    "truckRequestId": "019c2b1e-6f2a-7c3d-8e4f-5a6b7c8d9e10",
    "captainId": "k-1",
    "name": "A. Captain",
    "phone": "+910000000000",
    **_VEHICLE,
    "vehicleNumber": "DL1AB1234",
    "lastPosition": {"latitude": 28.5391, "longitude": 77.3922, "receivedAt": MOMENT},
}
