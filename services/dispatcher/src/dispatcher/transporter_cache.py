"""Whether transporters are active and verified, kept in Redis for 300 s. It speeds look-ups up and decides nothing.

An entry carries its version and is only replaced by a newer one, so that a slow reader never puts back what a change
has just replaced. Redis away means: ask PostgreSQL.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable
from typing import cast

from redis.asyncio import Redis

from dispatcher.store.fleet import TransporterStanding, get_transporter_standing
from weelo_common.postgres import Connection
from weelo_common.redis_client import RedisClient, RedisUnavailable

log = logging.getLogger(__name__)

KEY = "weelo:dispatcher:transporter:{}"
# Both keys' parts are given: the entry, its version, its life in seconds.
KEEP_NEWER = """
local known = redis.call('GET', KEYS[1])
if known and tonumber(cjson.decode(known).version) >= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return 1
"""


class TransporterCache:
    """Looks transporters up."""

    def __init__(self, redis: RedisClient, *, keep_s: int) -> None:
        self._redis = redis
        self._keep_s = keep_s

    async def get(self, connection: Connection, transporter_id: str) -> TransporterStanding | None:
        """From Redis, else from PostgreSQL; None where he is not known."""
        try:
            cached = await self._redis.call(lambda redis: redis.get(KEY.format(transporter_id)))
        except RedisUnavailable:
            return await get_transporter_standing(connection, transporter_id)
        if cached is not None:
            known = _read(transporter_id, cached)
            if known is not None:
                return known
        found = await get_transporter_standing(connection, transporter_id)
        if found is not None:
            await self.put(found)
        return found

    async def put(self, standing: TransporterStanding) -> None:
        """Keep what is known now, unless something newer is kept."""
        entry = json.dumps(
            {"active": standing.active, "verified": standing.verified, "version": standing.version}
        )

        def keep(redis: Redis) -> Awaitable[str]:
            return cast(
                "Awaitable[str]",
                redis.eval(
                    KEEP_NEWER,
                    1,
                    KEY.format(standing.transporter_id),
                    entry,
                    str(standing.version),
                    str(self._keep_s),
                ),
            )

        try:
            await self._redis.call(keep)
        except RedisUnavailable as error:
            log.warning(
                "Transporter not cached",
                extra={"transporterId": standing.transporter_id, "reason": str(error)},
            )


def _read(transporter_id: str, entry: bytes | str) -> TransporterStanding | None:
    """An entry, or None where it is not one of ours."""
    try:
        known = json.loads(entry)
        return TransporterStanding(
            transporter_id, bool(known["active"]), bool(known["verified"]), int(known["version"])
        )
    except (ValueError, KeyError, TypeError):
        return None
