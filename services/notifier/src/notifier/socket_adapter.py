"""The one file that touches the inside of the ``websockets`` library.

A frame is built once and written straight to the transport, which is half as dear as the library's ``send()``; this
is right only without extensions and without fragmented messages, and we use neither. What else the library lacks:
a count of connections that have not authenticated, and a bound on what a client that never reads can make us queue.
"""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.asyncio.server import Server, ServerConnection
from websockets.protocol import State
from websockets.server import ServerProtocol

from notifier.protocol import CloseCode

TEXT_FRAME = 0x81  # FIN and the opcode of text (RFC 6455, section 5.2)
MAX_REASON_BYTES = 123  # RFC 6455, section 5.5: a control frame's 125 less the code
PONG_SLACK_BYTES = (
    64 * 1024
)  # the library answers protocol pings by itself, also when nobody reads the answers


class SlowClient(Exception):
    """The client did not make room in its queue in time; it is closed with 4429 and may resume."""


class Gate:
    """Counts the connections of the process: all, and those that have not shown a token."""

    def __init__(self, *, most: int, most_unauthenticated: int) -> None:
        self._most = most
        self._most_unauthenticated = most_unauthenticated
        self._all: set[object] = set()
        self._unauthenticated: set[object] = set()

    @property
    def unauthenticated(self) -> int:
        """Connections that have not shown a token yet."""
        return len(self._unauthenticated)

    def refusal(self) -> str | None:
        """Why one more connection, which has been counted already, is too many; None where it is not."""
        if len(self._all) > self._most:
            return "sockets"
        if len(self._unauthenticated) > self._most_unauthenticated:
            return "unauthenticated"
        return None

    def arrived(self, connection: object) -> None:
        """A TCP connection was accepted."""
        self._all.add(connection)
        self._unauthenticated.add(connection)

    def authenticated(self, connection: object) -> None:
        """It has shown a token that holds."""
        self._unauthenticated.discard(connection)

    def left(self, connection: object) -> None:
        """It is gone."""
        self._all.discard(connection)
        self._unauthenticated.discard(connection)


class GuardedConnection(ServerConnection):
    """The library's connection, counted by the gate and cut when its unread answers pile up."""

    def __init__(self, protocol: ServerProtocol, server: Server, *, gate: Gate, **options: Any) -> None:
        super().__init__(protocol, server, **options)
        self._gate = gate

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._gate.arrived(self)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.transport.get_write_buffer_size() > self.write_limit_high + PONG_SLACK_BYTES:
            self.transport.abort()
            return
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.left(self)
        super().connection_lost(exc)


class Socket:
    """One open connection, for writing and closing. Reading stays with the library's ``recv()``."""

    __slots__ = ("_close_deadline_s", "_closing", "_connection", "close_code", "queue_bytes")

    def __init__(self, connection: ServerConnection, *, queue_bytes: int, close_deadline_s: float) -> None:
        self._connection = connection
        self._close_deadline_s = close_deadline_s
        self._closing: asyncio.Task[None] | None = None
        self.queue_bytes = queue_bytes
        self.close_code: CloseCode | None = None
        """Why we closed it, or None while we have not."""

    def is_open(self) -> bool:
        """Whether a frame would still be taken."""
        return self._connection.protocol.state is State.OPEN and self._closing is None

    @property
    def queued_bytes(self) -> int:
        """What the kernel has not taken yet."""
        return self._connection.transport.get_write_buffer_size()

    def is_full(self) -> bool:
        """Whether the queue has reached its bound; nothing more is written until ``drained``."""
        return self.queued_bytes >= self.queue_bytes

    def write(self, frame: bytes) -> None:
        """Queue a frame from ``text_frame``, or several joined; nothing happens where the socket is not open."""
        if self.is_open():
            self._connection.transport.write(frame)

    async def drained(self, deadline_s: float) -> None:
        """Wait until the queue has room again.

        Raises:
            SlowClient: not within ``deadline_s`` seconds.
        """
        try:
            async with asyncio.timeout(deadline_s):
                await self._connection.drain()
        except TimeoutError:
            raise SlowClient from None

    def close(self, code: CloseCode, reason: str) -> bool:
        """Begin to close, once; False where it was begun before. The connection is cut at the close deadline."""
        if not self.is_open():
            return False
        self.close_code = code
        text = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        self._closing = asyncio.create_task(self._close(code, text))
        return True

    async def closed(self) -> None:
        """Wait until a close that was begun here has ended."""
        if self._closing is not None:
            await self._closing

    async def _close(self, code: CloseCode, reason: str) -> None:
        try:
            async with asyncio.timeout(self._close_deadline_s):
                await self._connection.close(code, reason)
        except TimeoutError:
            self._connection.transport.abort()


def text_frame(payload: bytes) -> bytes:
    """The WebSocket frame of a server's text message: unmasked, in one piece."""
    length = len(payload)
    if length < 126:
        return bytes((TEXT_FRAME, length)) + payload
    if length < 65_536:
        return bytes((TEXT_FRAME, 126)) + length.to_bytes(2, "big") + payload
    return bytes((TEXT_FRAME, 127)) + length.to_bytes(8, "big") + payload
