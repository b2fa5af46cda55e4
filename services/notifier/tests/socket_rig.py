"""Our sockets on a real listener, without the rest of the service."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from notifier.socket_adapter import Gate, Socket

CLOSE_DEADLINE_S = 0.3
PATIENCE_S = 10.0


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until a condition of this process holds."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_at, "it never came to hold"
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def listening(
    converse: Callable[[Socket], Awaitable[None]], *, gate: Gate | None = None, **options: Any
) -> AsyncIterator[int]:
    """Serve ``converse`` for each connection; gives the port."""

    async def handle(connection: ServerConnection) -> None:
        await converse(cast(Socket, connection))

    sockets = functools.partial(
        Socket, gate=gate or Gate(most=99, most_unauthenticated=99), close_deadline_s=CLOSE_DEADLINE_S
    )
    async with serve(
        handle, "127.0.0.1", 0, compression=None, ping_interval=None, max_size=65_536,
        create_connection=cast(Any, sockets), **options,
    ) as server:  # fmt: skip
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def client(port: int, **options: Any) -> AsyncIterator[ClientConnection]:
    """The library's client."""
    async with connect(
        f"ws://127.0.0.1:{port}",
        compression=None,
        proxy=None,
        ping_interval=None,
        close_timeout=0.2,
        **options,
    ) as connection:
        yield connection


@contextlib.asynccontextmanager
async def bare_client(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """TCP with small buffers after the handshake, and nobody who answers by himself."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", port))
    raw.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=raw, limit=4096)
    try:
        writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
