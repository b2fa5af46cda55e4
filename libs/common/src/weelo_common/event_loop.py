"""The services' event loop: uvloop, with one difference.

To write to a connection that the other side has reset is an OSError here, as the libraries expect that open connections
of their own (redis-py and aiokafka catch it and connect anew). uvloop raises a RuntimeError, which went through them,
ended their background tasks and took whole services down, whenever something between forgot an idle connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import uvloop


class Loop(uvloop.Loop):
    """uvloop's loop, whose outgoing connections break as asyncio's do."""

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        """As asyncio has it; what is returned for writing raises ``ConnectionResetError`` once it is lost."""
        transport, protocol = await super().create_connection(*args, **kwargs)
        return LosableTransport(transport), protocol

    async def start_tls(self, transport: Any, *args: Any, **kwargs: Any) -> Any:
        """As asyncio has it: asyncpg begins TLS on a connection that is open already."""
        if isinstance(transport, LosableTransport):
            transport = transport.inner
        upgraded = await super().start_tls(transport, *args, **kwargs)
        return None if upgraded is None else LosableTransport(upgraded)


class LosableTransport:
    """A transport to write to; everything else is uvloop's."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    @property
    def inner(self) -> Any:
        """uvloop's own."""
        return self._transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Raises ConnectionResetError where the connection is lost."""
        try:
            self._transport.write(data)
        except RuntimeError as error:
            self._raise_if_lost(error)
            raise

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        """Raises ConnectionResetError where the connection is lost."""
        try:
            self._transport.writelines(pieces)
        except RuntimeError as error:
            self._raise_if_lost(error)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _raise_if_lost(self, error: RuntimeError) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the connection is lost") from error


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A fresh loop of this kind."""
    return Loop()
