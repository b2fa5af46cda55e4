"""What the matching benchmark compares the index with: Redis GEOSEARCH and PostgreSQL with GiST, as fast as can be.

Each holds the free captains only, by class, and answers the same question: the nearest k within a radius.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import numpy as np
import redis

from bench.towns import CLASSES, Fleet, Question

GEOADD_AT_ONCE = 2_000

CREATE_POINTS = """
CREATE EXTENSION IF NOT EXISTS cube;
CREATE EXTENSION IF NOT EXISTS earthdistance;
DROP TABLE IF EXISTS points;
CREATE UNLOGGED TABLE points (captain_id text, class int, free boolean, place cube);
"""
INDEX_POINTS = "CREATE INDEX ON points USING gist (place) WHERE class = {number} AND free"
NEAREST_POINTS = """
SELECT captain_id FROM points WHERE class = {number} AND free AND place <-> ll_to_earth($1, $2) <= $3
 ORDER BY place <-> ll_to_earth($1, $2) LIMIT $4
"""


class RedisGeo:
    """GEOSEARCH, with the client that costs least: synchronous, with hiredis."""

    def __init__(self, url: str, *, k: int, radius_m: int) -> None:
        self._k, self._radius_m = k, radius_m
        self._redis = redis.Redis.from_url(url)
        self._redis.flushall()
        self._redis.config_set("maxmemory", 0)

    def fill(self, fleet: Fleet) -> None:
        for number in range(len(CLASSES)):
            who = np.flatnonzero(fleet.free & (fleet.classes == number))
            for start in range(0, len(who), GEOADD_AT_ONCE):
                some = who[start : start + GEOADD_AT_ONCE].tolist()
                self._redis.geoadd(
                    f"class:{number}",
                    [
                        value
                        for at in some
                        for value in (
                            float(fleet.longitudes[at]),
                            float(fleet.latitudes[at]),
                            fleet.captain_ids[at],
                        )
                    ],
                )

    def ask(self, question: Question) -> Sequence[str]:
        number, latitude, longitude = question
        found: Any = self._redis.geosearch(
            f"class:{number}",
            longitude=longitude,
            latitude=latitude,
            radius=self._radius_m,
            unit="m",
            sort="ASC",
            count=self._k,
        )
        return list(found)

    def ping(self, _: Question) -> Sequence[str]:
        self._redis.ping()
        return ()

    def within(self, question: Question) -> int:
        """How many free captains of the class the radius holds."""
        number, latitude, longitude = question
        return len(
            self._redis.geosearch(
                f"class:{number}", longitude=longitude, latitude=latitude, radius=self._radius_m, unit="m"
            )
        )


class PostgresGeo:
    """GiST over points of the sphere (cube and earthdistance), by held prepared statements."""

    def __init__(self, dsn: str, *, k: int, radius_m: int) -> None:
        self._dsn, self._k, self._radius_m = dsn, k, radius_m
        self._runner = asyncio.Runner()
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._statements: list[Any] = []

    def fill(self, fleet: Fleet) -> None:
        self._runner.run(self._fill(fleet))

    def ask(self, question: Question) -> Sequence[str]:
        number, latitude, longitude = question
        rows = self._runner.run(
            self._statements[number].fetch(latitude, longitude, float(self._radius_m), self._k)
        )
        return [row["captain_id"] for row in rows]

    def close(self) -> None:
        if self._connection is not None:
            self._runner.run(self._connection.close())
        self._runner.close()

    async def _fill(self, fleet: Fleet) -> None:
        if self._connection is None:
            self._connection = await asyncpg.connect(self._dsn)
        await self._connection.execute(CREATE_POINTS)
        await self._connection.execute(
            "CREATE TEMP TABLE IF NOT EXISTS raw (captain_id text, class int, free boolean, lat float8, lon float8);"
            "TRUNCATE raw"
        )
        await self._connection.copy_records_to_table(
            "raw",
            records=zip(
                fleet.captain_ids,
                fleet.classes.tolist(),
                fleet.free.tolist(),
                fleet.latitudes.tolist(),
                fleet.longitudes.tolist(),
                strict=True,
            ),
        )
        await self._connection.execute(
            "INSERT INTO points SELECT captain_id, class, free, ll_to_earth(lat, lon) FROM raw"
        )
        for number in range(len(CLASSES)):
            await self._connection.execute(INDEX_POINTS.format(number=number))
        await self._connection.execute("ANALYZE points")
        self._statements = [
            await self._connection.prepare(NEAREST_POINTS.format(number=number))
            for number in range(len(CLASSES))
        ]
