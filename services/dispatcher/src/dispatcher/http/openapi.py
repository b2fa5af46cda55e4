"""How each path of the dispatcher is described in its OpenAPI document. Documentation only; the routes hang it on."""

from __future__ import annotations

from typing import Any

from dispatcher.http.answers import (
    ASSIGNED_EXAMPLE,
    CAPTAIN_EXAMPLE,
    EXPLANATION_EXAMPLE,
    OFFER_EXAMPLE,
    OFFER_ID,
    OWN_CAPTAIN_EXAMPLE,
    TRANSPORTER_EXAMPLE,
    AcceptedPositionsData,
    AssignedCaptainsData,
    CaptainData,
    DeclinedData,
    ExplanationData,
    OffersData,
    OwnCaptainData,
    TransporterData,
)
from weelo_common.http import ErrorCode
from weelo_common.openapi import documented

PUT_TRANSPORTER: dict[str, Any] = documented(
    TransporterData,
    summary="Add or change a transporter",
    says="A transporter only himself; `verified` is for ops alone, and left out it stays as it is. His captains become "
    "candidates, or stop being any, at once.",
    example={"transporter": TRANSPORTER_EXAMPLE},
)
CONFIRM_CAPTAIN: dict[str, Any] = documented(
    CaptainData,
    summary="Confirm that a captain drives for a transporter, or take it back",
    says="Without it he gets no offers. `NOT_FOUND` where the captain is not known or names another transporter.",
    fails=[ErrorCode.NOT_FOUND],
    example={"captain": CAPTAIN_EXAMPLE},
)
PUT_CAPTAIN: dict[str, Any] = documented(
    CaptainData,
    summary="Register, or change who one is",
    says="With another transporter the membership is to be confirmed anew. With another transporter or vehicle (type, "
    "subtype or number) one declines by it what one was offered before; read `GET /offers` again.",
    example={"captain": CAPTAIN_EXAMPLE | {"confirmed": False}},
)
GET_CAPTAIN: dict[str, Any] = documented(
    OwnCaptainData,
    summary="Who one is, and why one gets no offers, if so",
    fails=[ErrorCode.NOT_FOUND],
    example={"captain": OWN_CAPTAIN_EXAMPLE},
)
PUT_AVAILABILITY: dict[str, Any] = documented(
    CaptainData,
    summary="Say whether one wants offers",
    fails=[ErrorCode.NOT_FOUND],
    example={"captain": CAPTAIN_EXAMPLE},
)
POST_LOCATIONS: dict[str, Any] = documented(
    AcceptedPositionsData,
    status=202,
    summary="Send positions",
    says="Who is silent for 60 s is no candidate; what counts is when we received a position. `recordedAt` only orders "
    "a captain's own positions. Taken also while Kafka is away, as long as they are fresh.",
    fails=[ErrorCode.NOT_FOUND],
    example={"accepted": 1},
)
GET_OFFERS: dict[str, Any] = documented(
    OffersData,
    summary="The captain's live offers, tokens included",
    example={"offers": [OFFER_EXAMPLE]},
)
DECLINE: dict[str, Any] = documented(
    DeclinedData,
    summary="Decline an offer",
    says="Another captain is asked at once. Again: the same answer, with the first reason kept.",
    fails=[ErrorCode.NOT_FOUND, ErrorCode.OFFER_EXPIRED],
    example={"offerId": OFFER_ID, "status": "declined"},
)
EXPLAIN: dict[str, Any] = documented(
    ExplanationData,
    summary="Explain what dispatch did for an order",
    says="Each wave, and each replacement, with radius, cells, and who was considered: offered, or why not.",
    fails=[ErrorCode.NOT_FOUND],
    example=EXPLANATION_EXAMPLE,
)
ASSIGNED_CAPTAINS: dict[str, Any] = documented(
    AssignedCaptainsData,
    summary="Who comes, and where they are",
    says="For the order's customer and ops; names and phone numbers are told nowhere else.",
    fails=[ErrorCode.NOT_FOUND],
    example={"captains": [ASSIGNED_EXAMPLE]},
)
