"""What expiry's timers are measured beside: a Redis sorted set polled every 5 ms, a PostgreSQL table every second.

Each holds the same million pending timers. Late is a timer by the moment at which the poller has it in hand and has
removed it; what it would then do with it is not counted.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import asyncpg
from redis.asyncio import Redis

REDIS_POLL_S = 0.005
POSTGRES_POLL_S = 1.0
BATCH = 1000  # taken at once
FAR_S = 3600.0  # ahead: those that only are there
REDIS_KEY = "bench:timers"
FILL_CHUNK = 20_000

PEER_TABLE = """
DROP TABLE IF EXISTS bench_timers;
CREATE TABLE bench_timers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, due_at timestamptz NOT NULL, payload text NOT NULL);
CREATE INDEX ON bench_timers (due_at);
"""
PEER_FILL = """
INSERT INTO bench_timers (due_at, payload)
SELECT $2::timestamptz + number * ($3::float8 * interval '1 second'), '{"timerKey":"order-expiry:x","version":1}'
FROM generate_series(0, $1::integer - 1) AS number
"""
PEER_TAKE = """
DELETE FROM bench_timers WHERE id = ANY (ARRAY (
    SELECT id FROM bench_timers WHERE due_at <= (SELECT clock_timestamp())
    ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING due_at
"""


class RedisPoller:
    """Members are ids, scores the seconds at which they are due."""

    def __init__(self, url: str) -> None:
        self._redis: Redis = Redis.from_url(url)

    async def fill(self, count: int, first_due_s: float, step_s: float) -> None:
        """``count`` timers, the first due at ``first_due_s``, one each ``step_s``."""
        for start in range(0, count, FILL_CHUNK):
            numbers = range(start, min(count, start + FILL_CHUNK))
            await self._redis.zadd(
                REDIS_KEY, {f"{first_due_s}:{number}": first_due_s + number * step_s for number in numbers}
            )

    async def lates_ms(self, until_s: float) -> list[float]:
        """Poll until then; how late each timer was."""
        lates: list[float] = []
        while (now := time.time()) < until_s:
            due: list[tuple[bytes, float]] = await self._redis.execute_command(  # type: ignore[no-untyped-call]
                "ZRANGEBYSCORE", REDIS_KEY, "-inf", now, "WITHSCORES", "LIMIT", 0, BATCH
            )
            if due:
                await self._redis.zrem(REDIS_KEY, *(member for member, _ in due))
                held = time.time()
                lates += [(held - score) * 1000 for _, score in due]
            if len(due) < BATCH:
                await asyncio.sleep(REDIS_POLL_S)
        return lates

    async def close(self) -> None:
        """Remove what was filled, and hang up."""
        await self._redis.delete(REDIS_KEY)
        await self._redis.aclose()


class PostgresPoller:
    """One table with an index on the due time."""

    def __init__(self, conn: asyncpg.Connection[asyncpg.Record]) -> None:
        self._conn = conn

    async def fill(self, count: int, first_due_s: float, step_s: float) -> None:
        """As ``RedisPoller.fill``."""
        await self._conn.execute(PEER_FILL, count, datetime.fromtimestamp(first_due_s, UTC), step_s)

    async def prepare(self, count: int) -> None:
        """A table with ``count`` timers that only are there."""
        await self._conn.execute(PEER_TABLE)
        await self.fill(count, time.time() + FAR_S, 0.001)
        await self._conn.execute("ANALYZE bench_timers")

    async def lates_ms(self, until_s: float) -> list[float]:
        """As ``RedisPoller.lates_ms``."""
        lates: list[float] = []
        while True:
            while due := await self._conn.fetch(PEER_TAKE, BATCH):
                held = time.time()
                lates += [(held - row["due_at"].timestamp()) * 1000 for row in due]
            if (left_s := until_s - time.time()) <= 0:
                return lates
            await asyncio.sleep(min(POSTGRES_POLL_S, left_s))

    async def close(self) -> None:
        """Remove what was filled."""
        await self._conn.execute("DROP TABLE bench_timers")
