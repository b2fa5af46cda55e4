"""uvicorn's HTTP protocol, with one difference: an answer's head and body leave in one piece.

uvicorn writes them one after the other, and the event loop hands each write to the kernel at once: two system calls and
two packets for each small answer. Nothing is held back for longer than a turn of the event loop.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OnePieceProtocol(HttpToolsProtocol):
    """For ``uvicorn.Config(http=…)``."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(OnePieceTransport(transport, self.loop))  # type: ignore[arg-type]


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
