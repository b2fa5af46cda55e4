"""``POST /orders`` past FastAPI, for requests where nothing is out of the ordinary.

Creates are what order-api does most, and FastAPI's routing, body and dependencies cost more CPU than all our own work
on one. So a request with a good customer's token and a good body is answered here; whatever is odd in any way (no
token, a body that does not validate, chunks, a header twice) goes to the application untouched, which says what is
wrong. The same models, handler and table of refusals answer in both, and the application's route stays: it is the one
that OpenAPI describes. It must never answer a request that the application would answer otherwise.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from order_api.bodies import CreateBody
from order_api.errors import CommandRefused
from order_api.http import api_error
from order_api.idempotency import HEADERS, MalformedKey, fingerprint, key_of
from order_api.intake import Answer, CreateRequest, Intake
from weelo_common.auth import InvalidToken, Principal, Role, TokenVerifier
from weelo_common.http import may_be_unstorable
from weelo_common.http_middleware import MAX_BODY_BYTES, RequestMiddleware, RequestRules
from weelo_common.jwks import KeysUnavailable

PATH = "/api/v1/orders"
BODY_WAIT_S = (
    0.25  # a body that is not there by then is waited for by the application, which has all the patience
)
_KEY_HEADERS = {header.lower().encode(): header for header in HEADERS}
_ODD_HEADERS = frozenset({b"transfer-encoding", b"content-encoding", b"expect"})


@dataclass(frozen=True, slots=True)
class _Route:
    """What metrics and spans call this path: the same as the application's route."""

    path: str = PATH


_ROUTE = _Route()


class CreatePath:
    """Stands before the application."""

    def __init__(self, app: ASGIApp, intake: Intake, verifier: TokenVerifier, rules: RequestRules) -> None:
        self._app = app
        self._intake = intake
        self._verifier = verifier
        self._answered = RequestMiddleware(self._create, rules=rules)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        caller_and_key = self._head(scope)
        if caller_and_key is None:
            await self._app(scope, receive, send)
            return
        caller, key = caller_and_key
        first = await _first(receive)
        if first is None:
            await self._app(scope, receive, send)
            return
        body = _body(first)
        if body is None:
            await self._app(scope, _again(first, receive), send)
            return
        scope["route"] = _ROUTE
        scope["weelo.create"] = CreateRequest(body.wish(caller), key, fingerprint(body.understood()))
        await self._answered(scope, receive, send)

    def _head(self, scope: Scope) -> tuple[Principal, str | None] | None:
        """The customer and his idempotency key, or None where the application has to look."""
        token: bytes | None = None
        length: bytes | None = None
        kind: bytes | None = None
        keys: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            if name == b"authorization":
                if token is not None:
                    return None
                token = value
            elif name == b"content-length":
                if length is not None:
                    return None
                length = value
            elif name == b"content-type":
                if kind is not None:
                    return None
                kind = value
            elif name in _KEY_HEADERS:
                keys.setdefault(_KEY_HEADERS[name], []).append(value.decode("latin-1"))
            elif name in _ODD_HEADERS:
                return None
        if token is None or kind != b"application/json" or length is None or token[:7] != b"Bearer ":
            return None
        if not length.isdigit() or not 0 < int(length) <= MAX_BODY_BYTES:
            return None
        try:
            caller = self._verifier.verify(token[7:].decode("latin-1").strip())
            key = key_of(keys)
        except (InvalidToken, KeysUnavailable, MalformedKey):
            return None
        return (caller, key) if caller.role is Role.CUSTOMER else None

    async def _create(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._intake.create(scope["weelo.create"])
        except CommandRefused as refusal:
            await api_error(refusal).response()(scope, receive, send)
        else:
            await _send(answer, send)


async def _send(answer: Answer, send: Send) -> None:
    headers = [
        (b"location", f"{PATH}/{answer.order_id}".encode()),
        (b"content-length", b"%d" % len(answer.body)),
        (b"content-type", b"application/json"),
    ]
    if answer.replayed:
        headers.append((b"idempotent-replayed", b"true"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _first(receive: Receive) -> Message | None:
    """The first piece of the body; None where it did not come soon.

    It is nearly always there with the head, and then neither a timer nor a turn of the loop is spent on it: a first
    step of the waiting tells. What would have to wait is closed, which takes nothing, and waited for in good order.
    """
    waiting = receive()
    try:
        waiting.send(None)  # type: ignore[attr-defined]
    except StopIteration as there:
        message: Message = there.value
        return message
    waiting.close()  # type: ignore[attr-defined]
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            return await receive()
    except TimeoutError:
        return None


def _body(message: Message) -> CreateBody | None:
    """What a body that came in one piece asks for; None where the application has to look."""
    if message["type"] != "http.request" or message.get("more_body"):
        return None
    content: bytes = message.get("body", b"")
    if len(content) > MAX_BODY_BYTES or may_be_unstorable(content):
        return None
    try:
        return CreateBody.model_validate_json(content)
    except ValidationError:
        return None


def _again(first: Message, receive: Receive) -> Receive:
    """``receive`` that gives the message which was taken before any other."""
    left = [first]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again
