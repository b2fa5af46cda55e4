"""Redis that does not answer costs a fraction of a second, and after a few failures nothing at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tests.integration.events_rig import until
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


async def test_after_a_few_failures_in_a_row_redis_is_spared_for_a_while_and_then_tried_again() -> None:
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
                "redis_breaker_pause_s": 0.2,
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
