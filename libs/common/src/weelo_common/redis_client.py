"""Redis with a short deadline, no retries and a breaker. It only speeds things up: PostgreSQL decides.

With its defaults one command on a black-holed Redis hangs for most of a minute; here it costs a fraction of a second,
and after a few failures in a row the breaker spares even that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from opentelemetry.trace import SpanKind
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.maint_notifications import MaintNotificationsConfig

from weelo_common.outage_log import OutageLog
from weelo_common.redis_batch import RedisBatches
from weelo_common.settings import RedisSettings
from weelo_common.telemetry import span

log = logging.getLogger(__name__)

T = TypeVar("T")

_REDIS = {"db.system.name": "redis"}


class RedisUnavailable(Exception):
    """Redis did not answer in time, or is being spared; go on without it."""


class RedisClient:
    """One Redis for one service. Make it with ``RedisClient.open``."""

    def __init__(self, redis: Redis, batches: RedisBatches, settings: RedisSettings) -> None:
        self._redis = redis
        self._batches = batches
        self._deadline_s = settings.redis_deadline_s
        self._limit = settings.redis_breaker_failures
        self._pause_s = settings.redis_breaker_pause_s
        self._failures = 0
        self._open_until = 0.0
        self._outages = OutageLog(log, begins="Redis is spared for a while", ends="Redis is back")

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: RedisSettings) -> AsyncIterator[RedisClient]:
        """A client that is closed at the end. Nothing is connected before the first call."""
        pool = _pool(settings, settings.redis_pool_max, socket_timeout=settings.redis_deadline_s)
        redis = Redis(connection_pool=pool)
        # One batch is in flight at a time, and has a deadline as a whole: one for each read and write costs more.
        line = _pool(settings, 1, socket_timeout=None)
        batches = RedisBatches(line, deadline_s=settings.redis_deadline_s)
        try:
            yield cls(redis, batches, settings)
        finally:
            await batches.aclose()
            for close in (redis.aclose, pool.disconnect, line.disconnect):
                with contextlib.suppress(RedisError, OSError, TimeoutError):  # nothing of ours hangs on it
                    await asyncio.wait_for(close(), settings.redis_deadline_s)

    @property
    def available(self) -> bool:
        """Whether the next call would be tried."""
        return time.monotonic() >= self._open_until

    async def call(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        """Run one operation within the deadline.

        Raises:
            RedisUnavailable: it failed, took too long, or the breaker is open.
        """

        async def within_deadline() -> T:
            async with asyncio.timeout(self._deadline_s):
                return await operation(self._redis)

        return await self._tried("redis", within_deadline())

    async def command(self, *command: Any) -> Any:
        """Run one command that does not block; those asked for at the same time share a round trip.

        Raises:
            RedisUnavailable: as ``call``.
            NoScriptError: the script of an EVALSHA is not known there.
        """
        return await self._tried(f"redis {command[0]}", self._batches.command(*command))

    async def _tried(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        if not self.available:
            work.close()
            raise RedisUnavailable("spared after failures")
        try:
            with span(name, kind=SpanKind.CLIENT, attributes=_REDIS):
                result = await work
        except NoScriptError:
            raise  # an answer like any: the caller has the script
        except (RedisError, OSError, TimeoutError) as error:
            self._failures += 1
            if self._failures >= self._limit:
                self._open_until = time.monotonic() + self._pause_s
                self._outages.waits(type(error).__name__)
            raise RedisUnavailable(f"{type(error).__name__}: {error}") from error
        self._failures = 0
        self._outages.goes_on()
        return result


def _pool(
    settings: RedisSettings, connections: int, *, socket_timeout: float | None
) -> BlockingConnectionPool:
    return BlockingConnectionPool.from_url(
        settings.redis_url.get_secret_value(),
        max_connections=connections,
        timeout=settings.redis_deadline_s,
        socket_timeout=socket_timeout,
        socket_connect_timeout=settings.redis_deadline_s,
        retry=Retry(NoBackoff(), 0),
        # With them on, a pool gives out idle connections that were closed meanwhile, and each costs a failure.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
