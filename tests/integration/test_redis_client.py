"""Redis that does not answer costs a fraction of a second, and after a few failures nothing at all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from deploy.local.stack import LocalStack
from tests.integration.events_rig import PATIENCE_S, until
from weelo_common.event_loop import new_event_loop
from weelo_common.redis_client import RedisClient, RedisUnavailable
from weelo_common.settings import RedisSettings


class BlackHole:
    """Accepts connections and never says a word."""

    def __init__(self) -> None:
        self.url = ""
        self._closed = asyncio.Event()

    async def swallow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._closed.wait()
        writer.close()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[BlackHole]:
        server = await asyncio.start_server(self.swallow, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        try:
            yield self
        finally:
            self._closed.set()
            server.close()
            await server.wait_closed()


async def test_after_a_few_failures_in_a_row_redis_is_spared_for_a_while_and_then_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries = 0

    async def ping(redis: Redis) -> None:
        nonlocal tries
        tries += 1
        await redis.ping()

    async with BlackHole().open() as hole:
        settings = RedisSettings.model_validate(
            {
                "redis_url": hole.url,
                "redis_deadline_s": 0.05,
                "redis_breaker_failures": 2,
                "redis_breaker_pause_s": 3.0,  # longer than any stall between the calls below
            }
        )
        async with RedisClient.open(settings) as client:
            for _ in range(5):
                with pytest.raises(RedisUnavailable):
                    await client.call(ping)
            assert tries == 2
            assert not client.available
            await until(lambda: client.available, "the end of the pause")
            with pytest.raises(RedisUnavailable):
                await client.call(ping)
            assert tries == 3
    assert caplog.messages == ["Redis is spared for a while"]  # an outage is told of once


class ResettingProxy:
    """Between a client and Redis: resets every connection on request, as a load balancer that forgot them does."""

    def __init__(self, redis_url: str) -> None:
        self._target = urlsplit(redis_url)
        self._open: list[asyncio.StreamWriter] = []
        self.connections = 0
        self.url = ""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[ResettingProxy]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        try:
            yield self
        finally:
            server.close()
            self.reset()

    def reset(self) -> None:
        for writer in self._open:
            raw: socket.socket = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._open.clear()

    async def close(self) -> None:
        """As a server does that goes down in good order."""
        for writer in self._open:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._open), return_exceptions=True)
        self._open.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._open += [writer, to_there]
        self.connections += 1
        with contextlib.suppress(OSError):
            await asyncio.gather(_pass_on(reader, to_there), _pass_on(there, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)


def test_connections_that_were_reset_while_idle_are_redis_being_away_and_no_defect(stack: LocalStack) -> None:
    """On the services' own loop: uvloop's raises a RuntimeError there, which redis-py does not expect."""

    async def reset_while_idle() -> None:
        async with ResettingProxy(stack.servers.redis_url).open() as proxy:
            settings = RedisSettings.model_validate(
                {"redis_url": proxy.url, "redis_breaker_failures": 100, "redis_deadline_s": PATIENCE_S}
            )
            async with RedisClient.open(settings) as client:

                async def publish(redis: Redis) -> None:
                    async with redis.pipeline(transaction=False) as pipeline:
                        pipeline.publish("nobody", "listens")
                        await pipeline.execute()

                failures = 0
                for _ in range(5):
                    await client.call(publish)
                    await client.command("PING")
                    proxy.reset()
                    await asyncio.sleep(0.02)  # the resets arrive
                    for ask in (lambda: client.call(publish), lambda: client.command("PING")):
                        while True:
                            try:
                                await ask()
                                break
                            except RedisUnavailable:
                                failures += 1
                                assert failures < 50

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(reset_while_idle())


def test_a_redis_that_is_back_is_used_at_once_whatever_it_cut_off_meanwhile(stack: LocalStack) -> None:
    """A pool looks whether an idle connection was closed; else each of them would fail once more."""

    async def cut_off_while_idle() -> None:
        async with ResettingProxy(stack.servers.redis_url).open() as proxy:
            settings = RedisSettings.model_validate({"redis_url": proxy.url, "redis_deadline_s": PATIENCE_S})

            async def ping(redis: Redis) -> None:
                await redis.ping()

            async with RedisClient.open(settings) as client:
                await asyncio.gather(client.command("PING"), *(client.call(ping) for _ in range(12)))
                seen = proxy.connections
                await proxy.close()
                for _ in range(10):  # turns of the event loop, in which the farewells are read
                    await asyncio.sleep(0.02)
                for ask in (lambda: client.call(ping), lambda: client.command("PING")):
                    await ask()  # raises where a closed connection was given out
                assert proxy.connections > seen

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(cut_off_while_idle())
