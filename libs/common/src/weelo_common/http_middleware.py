"""Around every request: its id, its span, its deadline, its metrics, the body limit, and the last net for errors."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry, Histogram
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weelo_common.api_errors import ApiError, ErrorCode
from weelo_common.http_exchange import Exchange
from weelo_common.http_unavailable import (
    UNAVAILABLE,
    UnavailableLog,
    reason_of,
    unavailable,
    unavailable_for,
)
from weelo_common.ids import new_id
from weelo_common.telemetry import request_id, span

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
HUNG_UP = 499  # by this status metrics and spans know a caller who left before his answer; none is sent
_SANE_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:/+=-]{1,128}$")
# Personal data must not reach a log by this way: nothing that is a phone number, or has the ten digits of one in a row
# (signs between them do not count). The usual ids, which may have such a row by chance, are let through.
_LIKE_A_PHONE = re.compile(r"^\+?[0-9][0-9-]{5,18}$|[0-9](?:[._:/+=-]?[0-9]){9}")
_USUAL_ID = re.compile(r"^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$|^[0-9a-f]{32}$")
_QUIET_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/health/started", "/metrics"})


class HttpMetrics:
    """How long requests take, by route and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "weelo_http_request_seconds",
            "Time from the request's first byte to the answer's last",
            ["method", "route", "status"],
            registry=registry,
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10),
        )
        self._series: dict[tuple[str, str, int], Histogram] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. Methods, routes and statuses are few, so their series are kept at hand."""
        series = self._series.get((method, route, status))
        if series is None:
            series = self._series[method, route, status] = self.seconds.labels(method, route, str(status))
        series.observe(seconds)


@dataclass(frozen=True, slots=True)
class RequestRules:
    """What every request of a service is held to. ``deadline_s`` counts from its head, less the caller's own time."""

    metrics: HttpMetrics
    deadline_s: float
    unavailable: UnavailableLog


class RequestMiddleware:
    """Pure ASGI, because it stands around every request."""

    def __init__(self, app: ASGIApp, *, rules: RequestRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = parent = ""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                asked = value.decode("latin-1")
            elif name == b"traceparent":
                parent = value.decode("latin-1")
        this_request = asked if asked and _sane(asked) else new_id()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", this_request.encode())]
            await send(message)

        if scope["path"] in _QUIET_PATHS:
            await self._app(scope, receive, send_with_id)
            return
        token = request_id.set(this_request)

        async def refuse(send_refusal: Send) -> None:
            self._rules.unavailable.note("the request's deadline", route_of(scope))
            refusal = unavailable("The service could not answer in time. Try again.")
            await refusal.response()(scope, receive, send_refusal)

        exchange = Exchange(_limited(scope, receive), send_with_id, refuse, deadline_s=self._rules.deadline_s)
        try:
            with span(
                scope["method"],
                kind=SpanKind.SERVER,
                parent=parent or None,
                attributes={"http.request.method": scope["method"]},
            ) as current:
                await self._answered(scope, exchange)
                current.update_name(f"{scope['method']} {route_of(scope)}")
                current.set_attribute("http.response.status_code", exchange.status)
        finally:
            seconds = await exchange.close()
            self._rules.metrics.observe(scope["method"], route_of(scope), exchange.status, seconds)
            request_id.reset(token)

    async def _answered(self, scope: Scope, exchange: Exchange) -> None:
        """Have the application answer, and answer for it where it fails."""
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            if not exchange.cut_off:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()  # it was meant for the application, and has done its work
        except UNAVAILABLE as error:
            if exchange.cut_off:
                return  # the caller was told so before
            self._rules.unavailable.note(reason_of(error), route_of(scope))
            if exchange.begun:
                raise
            await unavailable_for(error).response()(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.status = HUNG_UP  # in the middle of the body: nobody is there to be answered
        except Exception:
            log.exception("Defect in a request", extra={"path": route_of(scope)})
            if exchange.begun and not exchange.cut_off:
                raise  # closing the connection is all that is left
            defect = ApiError(ErrorCode.INTERNAL_ERROR, "Something went wrong on our side.")
            await defect.response()(scope, exchange.receive, exchange.send)


def _sane(asked: str) -> bool:
    """Whether a caller's request id may stand in logs."""
    if _SANE_REQUEST_ID.match(asked) is None:
        return False
    return _USUAL_ID.match(asked) is not None or _LIKE_A_PHONE.search(asked) is None


def route_of(scope: MutableMapping[str, Any]) -> str:
    """The route's template, never the path itself: metrics and spans must stay few."""
    route = scope.get("route")
    return getattr(route, "path", "unmatched")


def _limited(scope: Scope, receive: Receive) -> Receive:
    """``receive`` that refuses a body over the limit, told or untold."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > MAX_BODY_BYTES:
                raise HTTPException(413)
        return message

    return limited
