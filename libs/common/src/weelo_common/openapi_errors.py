"""What an OpenAPI document tells of the contract's error codes and of the headers of answers. Documentation only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weelo_common.api_errors import ErrorCode

_MOMENT = "2026-02-03T10:08:28.123Z"
_ID = "019c2b1e-6f2a-7c3d-8e4f-5a6b7c8d9e0f"


@dataclass(frozen=True, slots=True)
class _Problem:
    """What the document tells of a code. ``data`` has one schema a field, all of them present."""

    when: str
    message: str
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    details: bool = False
    headers: tuple[str, ...] = ()


_STATUS_DATA = {"status": {"type": "string", "examples": ["completed"]}}
PROBLEMS: Mapping[ErrorCode, _Problem] = {
    ErrorCode.VALIDATION_ERROR: _Problem(
        "Body, path, query or header is off; `details` names each field.",
        "The request is not valid.",
        details=True,
    ),
    ErrorCode.UNAUTHENTICATED: _Problem(
        "No token, or not a good one.", "A bearer token is needed.", headers=("WWW-Authenticate",)
    ),
    ErrorCode.FORBIDDEN: _Problem("The token's role may not do this.", "Not for the role captain."),
    ErrorCode.NOT_FOUND: _Problem("Unknown, or not the caller's.", "There is no such order."),
    ErrorCode.CONCURRENT_REQUEST: _Problem(
        "Another create of this customer is in flight.",
        "Another request of yours is being handled.",
        data={"retryAfter": {"type": "integer", "description": "Seconds.", "examples": [2]}},
        headers=("Retry-After",),
    ),
    ErrorCode.ACTIVE_ORDER_EXISTS: _Problem(
        "The customer has an order that is still searching.",
        "You have an order that is still searching.",
        data={
            "activeOrderId": {"type": "string", "format": "uuid", "examples": [_ID]},
            "status": {"type": "string", "examples": ["active"]},
            "createdAt": {"type": "string", "format": "date-time", "examples": [_MOMENT]},
        },
    ),
    ErrorCode.ORDER_NOT_CANCELLABLE: _Problem(
        "A trip has started, or the order has expired.", "The order is completed.", data=_STATUS_DATA
    ),
    ErrorCode.ORDER_CANCELLED: _Problem(
        "The accept lost: the order was cancelled.", "The order was cancelled."
    ),
    ErrorCode.ORDER_EXPIRED: _Problem(
        "The accept lost: the search ended by time.", "The search for this order is over."
    ),
    ErrorCode.TRUCK_REQUEST_TAKEN: _Problem(
        "The accept lost: other captains have every truck of this kind.", "Another captain was faster."
    ),
    ErrorCode.CAPTAIN_BUSY: _Problem(
        "The accept lost: the captain has a running trip.", "You have a running trip."
    ),
    ErrorCode.OFFER_EXPIRED: _Problem(
        "The offer ended otherwise.",
        "The offer has ended.",
        data={"status": {"type": "string", "examples": ["withdrawn"]}},
    ),
    ErrorCode.INVALID_TRANSITION: _Problem(
        "The state table has no such step from here.", "The truck request is completed.", data=_STATUS_DATA
    ),
    ErrorCode.OFFER_INVALID: _Problem(
        "The offer token is forged, altered, for another order, or another captain's.",
        "This offer is not valid for you and this order.",
    ),
    ErrorCode.METHOD_NOT_ALLOWED: _Problem(
        "The path has no such method.", "PUT is not for this path.", headers=("Allow",)
    ),
    ErrorCode.PAYLOAD_TOO_LARGE: _Problem(
        "The body is larger than 64 KiB.", "The body is larger than 64 KiB."
    ),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: _Problem("The body is not JSON.", "The body must be application/json."),
    ErrorCode.IDEMPOTENCY_KEY_REUSED: _Problem(
        "The key belongs to another request.", "This idempotency key belongs to another request."
    ),
    ErrorCode.RATE_LIMITED: _Problem(
        "Too many creates of this customer in a minute.",
        "Too many orders in a minute.",
        headers=("Retry-After",),
    ),
    ErrorCode.SERVICE_UNAVAILABLE: _Problem(
        "The database is out of reach. Try again; a create under the same key.",
        "The service cannot reach its database. Try again.",
        headers=("Retry-After",),
    ),
    ErrorCode.INTERNAL_ERROR: _Problem(
        "A defect of ours: never the answer to anything a caller can send.",
        "Something went wrong on our side.",
    ),
}
HEADERS: Mapping[str, Mapping[str, Any]] = {
    "X-Request-Id": {
        "description": "The caller's, if it sent a sane one, else one made here. Logs know it.",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
    },
    "Retry-After": {
        "description": "Seconds to wait before the next try.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "How to authenticate.",
        "required": True,
        "schema": {"type": "string", "examples": ['Bearer realm="weelo"']},
    },
    "Allow": {
        "description": "The methods that the path has.",
        "required": True,
        "schema": {"type": "string", "examples": ["GET, POST"]},
    },
}


def error_response(codes: list[ErrorCode]) -> dict[str, Any]:
    """The answer with the one status of these codes."""
    refs = [{"$ref": ref(schema_name(code))} for code in codes]
    headers = {"X-Request-Id": header("X-Request-Id")}
    for code in codes:
        for name in PROBLEMS[code].headers:
            # Where only some of the codes of a status bring the header, it is not always there.
            headers[name] = header(name) if len(codes) == 1 else {**HEADERS[name], "required": False}
    return {
        "description": " ".join(f"`{code}`: {PROBLEMS[code].when}" for code in codes),
        "headers": headers,
        "content": {
            "application/json": {
                "schema": refs[0] if len(refs) == 1 else {"oneOf": refs},
                "examples": {code.value: {"value": _error_example(code)} for code in codes},
            }
        },
    }


def error_schema(code: ErrorCode) -> dict[str, Any]:
    """The envelope with this code."""
    problem = PROBLEMS[code]
    properties: dict[str, Any] = {"code": {"const": code.value}, "message": {"type": "string"}}
    if problem.details:
        properties["details"] = {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        }
    if problem.data:
        properties["data"] = {
            "type": "object",
            "required": sorted(problem.data),
            "properties": {name: dict(schema) for name, schema in problem.data.items()},
        }
    return {
        "type": "object",
        "title": code.value,
        "description": problem.when,
        "required": ["success", "error"],
        "properties": {
            "success": {"const": False},
            "error": {"type": "object", "required": sorted(properties), "properties": properties},
        },
    }


def _error_example(code: ErrorCode) -> dict[str, Any]:
    problem = PROBLEMS[code]
    error: dict[str, Any] = {"code": code.value, "message": problem.message}
    if problem.details:
        error["details"] = [
            {"field": "pickup.latitude", "message": "Input should be less than or equal to 90"}
        ]
    if problem.data:
        error["data"] = {name: schema["examples"][0] for name, schema in problem.data.items()}
    return {"success": False, "error": error}


def schema_name(code: ErrorCode) -> str:
    """What the envelope of a code is called among the components."""
    return f"Error_{code.value}"


def ref(name: str) -> str:
    """Where a schema is found."""
    return f"#/components/schemas/{name}"


def header(name: str) -> dict[str, Any]:
    """A header of ``HEADERS``, by reference."""
    return {"$ref": f"#/components/headers/{name}"}
