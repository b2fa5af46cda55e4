"""The error envelope of the HTTP contract: stable codes, one status each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson
from fastapi import Response

from weelo_common.clock import format_time


class ErrorCode(StrEnum):
    """Every code of the contract."""

    VALIDATION_ERROR = "VALIDATION_ERROR"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    CONCURRENT_REQUEST = "CONCURRENT_REQUEST"
    ACTIVE_ORDER_EXISTS = "ACTIVE_ORDER_EXISTS"
    ORDER_NOT_CANCELLABLE = "ORDER_NOT_CANCELLABLE"
    ORDER_CANCELLED = "ORDER_CANCELLED"
    ORDER_EXPIRED = "ORDER_EXPIRED"
    TRUCK_REQUEST_TAKEN = "TRUCK_REQUEST_TAKEN"
    CAPTAIN_BUSY = "CAPTAIN_BUSY"
    OFFER_EXPIRED = "OFFER_EXPIRED"
    INVALID_TRANSITION = "INVALID_TRANSITION"
    OFFER_INVALID = "OFFER_INVALID"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    RATE_LIMITED = "RATE_LIMITED"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    INTERNAL_ERROR = "INTERNAL_ERROR"


STATUS: Mapping[ErrorCode, int] = {
    ErrorCode.VALIDATION_ERROR: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.CONCURRENT_REQUEST: 409,
    ErrorCode.ACTIVE_ORDER_EXISTS: 409,
    ErrorCode.ORDER_NOT_CANCELLABLE: 409,
    ErrorCode.ORDER_CANCELLED: 409,
    ErrorCode.ORDER_EXPIRED: 409,
    ErrorCode.TRUCK_REQUEST_TAKEN: 409,
    ErrorCode.CAPTAIN_BUSY: 409,
    ErrorCode.OFFER_EXPIRED: 409,
    ErrorCode.INVALID_TRANSITION: 409,
    ErrorCode.OFFER_INVALID: 403,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.PAYLOAD_TOO_LARGE: 413,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.IDEMPOTENCY_KEY_REUSED: 422,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.SERVICE_UNAVAILABLE: 503,
    ErrorCode.INTERNAL_ERROR: 500,
}
UNAVAILABLE_RETRY_S = 2  # Retry-After of a 503


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field of a request; the message never repeats the value."""

    field: str
    message: str


class ApiError(Exception):
    """An answer of the contract other than success. The status follows from the code."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        details: Sequence[FieldProblem] = (),
        data: Mapping[str, Any] | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.details = tuple(details)
        self.data = data
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return STATUS[self.code]

    def response(self) -> Response:
        """The envelope as a response."""
        error: dict[str, Any] = {"code": self.code.value, "message": self.message}
        if self.details:
            error["details"] = [
                {"field": problem.field, "message": problem.message} for problem in self.details
            ]
        if self.data is not None:
            error["data"] = self.data
        return Response(
            to_json({"success": False, "error": error}),
            status_code=self.status,
            headers=self.headers,
            media_type="application/json",
        )


def success(data: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``{"success": true, "data": …}``; moments are written as the contract has them."""
    return Response(
        to_json({"success": True, "data": data}),
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/json",
    )


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8; a datetime becomes RFC 3339 with milliseconds."""
    return orjson.dumps(value, default=_encode, option=orjson.OPT_PASSTHROUGH_DATETIME)


def _encode(value: object) -> str:
    if isinstance(value, datetime):
        return format_time(value)
    raise TypeError(f"{type(value).__name__} has no JSON form in the contract")
