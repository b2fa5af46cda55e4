"""uvicorn's HTTP protocol, with three differences: an answer's head and body leave in one piece, what is no HTTP gets
the contract's envelope, and a head without end is not read on.

uvicorn writes them one after the other, and the event loop hands each write to the kernel at once: two system calls and
two packets for each small answer. Nothing is held back for longer than a turn of the event loop.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from weelo_common.api_errors import ApiError, ErrorCode, FieldProblem
from weelo_common.ids import new_id

MAX_HEAD_BYTES = 64 * 1024  # of a request's line and headers; the parser has no limit of its own


class OnePieceProtocol(HttpToolsProtocol):
    """For ``uvicorn.Config(http=…)``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bytes_since = 0
        """Of pieces that have come since the parser was last known to get on: at a beginning, a head's end, a body."""

    def on_message_begin(self) -> None:
        self._bytes_since = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._bytes_since = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bytes_since = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._bytes_since = 0
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        self._bytes_since += len(data)  # the parser sets it back wherever it gets on
        super().data_received(data)
        if self._bytes_since > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head is too large.")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(OnePieceTransport(transport, self.loop))  # type: ignore[arg-type]

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as the contract has it. The parser has lost its place, so the connection ends.

        ``msg`` is for people.
        """
        refusal = ApiError(
            ErrorCode.VALIDATION_ERROR,
            "The request is not valid.",
            details=[FieldProblem("request", msg)],
            headers={"X-Request-Id": new_id(), "Connection": "close"},
        ).response()
        head = b"".join(b"%b: %b\r\n" % header for header in refusal.raw_headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n%b\r\n%b" % (head, bytes(refusal.body)))
        self.transport.close()


class OnePieceTransport:
    """Holds a first write until the second one, or until the turn ends; everything else is the transport's own."""

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        """Write ``data``, after what is held."""
        if self._held:
            data, self._held = self._held + data, b""
            self._transport.write(data)
        elif data:
            self._held = data
            self._loop.call_soon(self._release)

    def close(self) -> None:
        """Close once everything is written."""
        self._release()
        self._transport.close()

    def _release(self) -> None:
        data, self._held = self._held, b""
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
