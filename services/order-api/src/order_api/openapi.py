"""How each path of order-api is described in its OpenAPI document. Documentation only; ``http.py`` hangs it on."""

from __future__ import annotations

from typing import Any

from order_api.answers import (
    ACCEPTED_EXAMPLE,
    CREATED_EXAMPLE,
    ORDER_EXAMPLE,
    STATUS_EXAMPLE,
    TRUCK_EXAMPLE,
    WON_TRUCK_EXAMPLE,
    AcceptedData,
    ActiveData,
    CancelledData,
    CreatedData,
    OrderData,
    PageData,
    StatusData,
    TruckRequestData,
    TruckRequestsData,
)
from order_api.idempotency import HEADERS, MAX_KEY_LENGTH
from weelo_common.answer_fields import MOMENT, ORDER_ID
from weelo_common.http import ErrorCode
from weelo_common.openapi import documented

# Quoted (with `\"` and `\\` inside) or bare; 1 to 255 visible ASCII characters either way.
KEY_PATTERN = rf'^(?:"(?:[!#-\[\]-~]|\\["\\]){{1,{MAX_KEY_LENGTH}}}"|[!#-~][!-~]{{0,{MAX_KEY_LENGTH - 1}}})$'
_KEY_PARAMETERS = [
    {
        "name": header,
        "in": "header",
        "required": False,
        "description": "Makes a retry safe: the same key with the same body gives the first answer again, byte for "
        "byte, for 24 hours (`IDEMPOTENCY_KEEP_H`); after that the key is new. Another body under it is a 422. "
        "1 to 255 visible ASCII characters, quoted as draft-ietf-httpapi-idempotency-key-header has it, or bare. "
        "Its scope is the customer and this path. Both headers may be sent, with the same key.",
        "schema": {"type": "string", "pattern": KEY_PATTERN},
        "example": "7f0c3d5e-order-1",
    }
    for header in HEADERS
]
_TAKEN_HEADERS = {
    "Location": {
        "description": "The order.",
        "required": True,
        "schema": {"type": "string", "examples": [f"/api/v1/orders/{ORDER_ID}"]},
    },
    "Idempotent-Replayed": {
        "description": "`true` where this is an earlier answer again; else not there.",
        "required": False,
        "schema": {"const": "true"},
    },
}

CREATE: dict[str, Any] = documented(
    CreatedData,
    status=201,
    summary="Book trucks",
    says="Checks come in this order: token, body, replay, lock and rate limit, active order, create. A retry under the "
    "same key gets what the first try got; while that is still in flight, `CONCURRENT_REQUEST`. Only what was begun is "
    "kept: a 400, 401, 409, 429 or 503 is not. Keys are kept for 24 hours. Lines have distinct types and subtypes, and "
    "ask for at most 50 trucks together.",
    fails=[
        ErrorCode.CONCURRENT_REQUEST,
        ErrorCode.ACTIVE_ORDER_EXISTS,
        ErrorCode.IDEMPOTENCY_KEY_REUSED,
        ErrorCode.RATE_LIMITED,
    ],
    headers=_TAKEN_HEADERS,
    parameters=_KEY_PARAMETERS,
    example=CREATED_EXAMPLE,
)
PAGE: dict[str, Any] = documented(
    PageData,
    summary="The customer's orders, newest first",
    example={"orders": [ORDER_EXAMPLE], "total": 1, "hasMore": False},
)
CHECK_ACTIVE: dict[str, Any] = documented(
    ActiveData,
    summary="Whether the customer has an order that is searching",
    example={
        "hasActiveOrder": True,
        "activeOrder": {"orderId": ORDER_ID, "status": "active", "createdAt": MOMENT},
    },
)
READ: dict[str, Any] = documented(
    OrderData,
    summary="One order with its truck requests",
    says="For its customer, a captain who holds or has done one of its trips, and ops.",
    fails=[ErrorCode.NOT_FOUND],
    example={"order": ORDER_EXAMPLE, "truckRequests": [TRUCK_EXAMPLE]},
)
STATUS: dict[str, Any] = documented(
    StatusData,
    summary="How far an order is, and the seconds left",
    fails=[ErrorCode.NOT_FOUND],
    example=STATUS_EXAMPLE,
)
CANCEL: dict[str, Any] = documented(
    CancelledData,
    summary="Cancel an order",
    says="Until a trip has started or the order has expired. Again: the same answer, with the first reason.",
    fails=[ErrorCode.NOT_FOUND, ErrorCode.ORDER_NOT_CANCELLABLE],
    example={
        "orderId": ORDER_ID,
        "status": "cancelled",
        "reason": "The goods are not ready",
        "cancelledAt": MOMENT,
    },
)
ACCEPT: dict[str, Any] = documented(
    AcceptedData,
    summary="Accept an offer",
    says="First come, first served. Again by the captain who won: the same 200, also after the search. Of several "
    "reasons why an accept lost the first is told, in the order of the list below.",
    fails=[
        ErrorCode.OFFER_INVALID,
        ErrorCode.NOT_FOUND,
        ErrorCode.ORDER_CANCELLED,
        ErrorCode.ORDER_EXPIRED,
        ErrorCode.TRUCK_REQUEST_TAKEN,
        ErrorCode.CAPTAIN_BUSY,
    ],
    example=ACCEPTED_EXAMPLE,
)
OWN_TRUCK_REQUESTS: dict[str, Any] = documented(
    TruckRequestsData,
    summary="The captain's own truck requests, the latest first, at most 100",
    example={"truckRequests": [WON_TRUCK_EXAMPLE]},
)


def _step(summary: str, says: str, status: str) -> dict[str, Any]:
    return documented(
        TruckRequestData,
        summary=summary,
        says=says,
        fails=[ErrorCode.NOT_FOUND, ErrorCode.INVALID_TRANSITION],
        example={"truckRequest": WON_TRUCK_EXAMPLE | {"status": status}},
    )


START: dict[str, Any] = _step("Begin the trip", "By its captain. Again: the same answer.", "in_progress")
COMPLETE: dict[str, Any] = _step("End the trip", "By its captain. Again: the same answer.", "completed")
RELEASE: dict[str, Any] = documented(
    TruckRequestData,
    summary="Give a truck back before its trip",
    says="By its captain, or by ops. The truck is searched for again while the order searches, else cancelled. Again, "
    "while nobody else took it: the same answer.",
    fails=[ErrorCode.NOT_FOUND, ErrorCode.INVALID_TRANSITION],
    example={"truckRequest": TRUCK_EXAMPLE},
)
