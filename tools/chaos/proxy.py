"""A small TCP proxy on the loopback: passes bytes on, and cuts or slows its connections when it is told to.

It knows nothing of what it carries. A cut closes every connection at once, without a goodbye, and refuses new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from deploy.local.ports import HOST

CHUNK = 64 * 1024
LINGER_NONE = struct.pack("ii", 1, 0)  # a close with this is a reset: no FIN, no waiting


class TcpProxy:
    """Between ``port`` and ``target_port``; use it as a context."""

    def __init__(self, port: int, target_port: int) -> None:
        self._port = port
        self._target_port = target_port
        self._delay_s = 0.0
        self._is_cut = False
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self.carried = 0
        """Connections so far."""

    async def __aenter__(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._carry, HOST, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self._reset_all()
        if self._carrying:
            await asyncio.wait(self._carrying)

    def cut(self) -> None:
        """Reset every connection, and every new one, until ``mend``."""
        self._is_cut = True
        self._reset_all()

    def slow(self, delay_s: float) -> None:
        """Let every piece wait for this long, in both directions, until ``mend``."""
        self._delay_s = delay_s

    def mend(self) -> None:
        """Carry as if nothing had been."""
        self._is_cut = False
        self._delay_s = 0.0

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)
        self._open.add(writer)
        try:
            if self._is_cut:
                return
            try:
                there_reader, there_writer = await asyncio.open_connection(HOST, self._target_port)
            except OSError:
                return  # the server is down: so is the way to it
            self._open.add(there_writer)
            self.carried += 1
            try:
                await asyncio.gather(self._pass_on(reader, there_writer), self._pass_on(there_reader, writer))
            finally:
                self._open.discard(there_writer)
                there_writer.close()
        finally:
            self._open.discard(writer)
            if self._is_cut:
                _reset(writer)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # one side went: the other one goes, too
            while data := await reader.read(CHUNK):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                writer.write(data)
                await writer.drain()
        writer.close()

    def _reset_all(self) -> None:
        for writer in tuple(self._open):
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket | None = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # it is closed already
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    writer.transport.abort()
