"""What is told of an outbox: what was published and refused, and, from the table itself, how much waits how long."""

from __future__ import annotations

import asyncio
import contextlib
import math

from prometheus_client import CollectorRegistry, Counter, Gauge

from weelo_common.postgres import Database, DatabaseUnavailable

MEASURE_PERIOD_S = 1.0
DEPTH_COUNTED = 100_000  # rows; a deeper outbox is told as this deep

SELECT_DEPTH = """
SELECT count(*) AS depth, coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS age_s
  FROM (SELECT created_at FROM outbox ORDER BY id LIMIT $1) AS unsent
"""


class RelayMetrics:
    """What the relay tells. Depth and age come from the table itself, whoever holds the lease and whatever hangs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.published = Counter(
            "weelo_outbox_published", "Events that Kafka acknowledged", ["topic"], registry=registry
        )
        self.errors = Counter(
            "weelo_outbox_errors", "Passes that failed and are tried again", registry=registry
        )
        self.depth = Gauge(
            "weelo_outbox_depth",
            f"Events that wait to be published, counted up to {DEPTH_COUNTED}; NaN while PostgreSQL does not answer",
            registry=registry,
        )
        self.age = Gauge(
            "weelo_outbox_age_seconds",
            "Age of the oldest waiting event; NaN while PostgreSQL does not answer",
            registry=registry,
        )
        self.refused = Gauge(
            "weelo_outbox_refused",
            "1 while Kafka refuses an event and those behind it wait",
            registry=registry,
        )
        self.owner = Gauge("weelo_outbox_lease_held", "1 where this replica relays", registry=registry)

    async def keep_true(self, database: Database, stop: asyncio.Event) -> None:
        """Look at the table each second until stopped, apart from the relaying: an alarm hangs on it."""
        while not stop.is_set():
            depth = age_s = math.nan
            with contextlib.suppress(DatabaseUnavailable):  # told by the relaying, and by the watch
                async with database.connection() as connection:
                    depth, age_s = await connection.fetchrow(SELECT_DEPTH, DEPTH_COUNTED) or (depth, age_s)
            self.depth.set(depth)
            self.age.set(age_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), MEASURE_PERIOD_S)
