"""Which rows the sweep drops: frames after a day or beyond a user's thousand, facts after two days.

Frames go only together with the stream's ``floor``, so that a client that comes back is told what it has missed.
Each function is one bounded batch in the caller's transaction and returns how many rows it dropped.
"""

from __future__ import annotations

from notifier.store import LOCK_STREAMS
from weelo_common.postgres import Connection

BATCH_FRAMES = 5_000  # some tens of milliseconds of work, so that no stream is locked for longer
BATCH_STREAMS = 200  # full streams cut in one batch
FRAMES_KEPT_S = 24 * 3600
FRAMES_A_USER = 1_000
FACTS_KEPT_S = 48 * 3600  # longer than dispatch.offers.v1 is kept, whose repeats they hold off

SELECT_AGED = """
SELECT user_id, max(stream_offset) AS upto
  FROM (SELECT user_id, stream_offset FROM notifications
         WHERE created_at < clock_timestamp() - $1 * interval '1 second' ORDER BY created_at LIMIT $2) AS aged
 GROUP BY user_id
"""
SELECT_FULL = """
SELECT user_id, head - $1 AS upto FROM streams WHERE head - floor > $1 LIMIT $2
"""
RAISE_FLOORS = """
UPDATE streams AS s SET floor = greatest(s.floor, w.upto)
  FROM unnest($1::text[], $2::bigint[]) AS w(user_id, upto) WHERE s.user_id = w.user_id
"""
DELETE_FRAMES = """
DELETE FROM notifications AS n USING unnest($1::text[], $2::bigint[]) AS w(user_id, upto)
 WHERE n.user_id = w.user_id AND n.stream_offset <= w.upto
"""
DELETE_ENDED_OFFERS = """
DELETE FROM ended_offers WHERE offer_id = ANY(ARRAY(
    SELECT offer_id FROM ended_offers WHERE ended_at < clock_timestamp() - $1 * interval '1 second'
     ORDER BY ended_at LIMIT $2))
"""
DELETE_ORDERS = """
DELETE FROM orders WHERE order_id = ANY(ARRAY(
    SELECT order_id FROM orders WHERE touched_at < clock_timestamp() - $1 * interval '1 second'
     ORDER BY touched_at LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def drop_aged_frames(connection: Connection, kept_s: float = FRAMES_KEPT_S) -> int:
    """Drop frames older than ``kept_s`` seconds, with everything before them in their streams."""
    rows = await connection.fetch(SELECT_AGED, kept_s, BATCH_FRAMES)
    return await _cut(connection, {row["user_id"]: row["upto"] for row in rows})


async def drop_surplus_frames(connection: Connection, most: int = FRAMES_A_USER) -> int:
    """Cut streams that hold more than ``most`` frames down to their newest."""
    rows = await connection.fetch(SELECT_FULL, most, BATCH_STREAMS)
    return await _cut(connection, {row["user_id"]: row["upto"] for row in rows})


async def drop_old_facts(connection: Connection, kept_s: float = FACTS_KEPT_S) -> int:
    """Forget offers that ended, and orders of which nothing was heard, more than ``kept_s`` seconds ago."""
    offers = _count(await connection.execute(DELETE_ENDED_OFFERS, kept_s, BATCH_FRAMES))
    return offers + _count(await connection.execute(DELETE_ORDERS, kept_s, BATCH_FRAMES))


async def _cut(connection: Connection, upto: dict[str, int]) -> int:
    if not upto:
        return 0
    users, offsets = list(upto), list(upto.values())
    await connection.execute(LOCK_STREAMS, users)
    await connection.execute(RAISE_FLOORS, users, offsets)
    return _count(await connection.execute(DELETE_FRAMES, users, offsets))


def _count(status: str) -> int:
    return int(status.rsplit(" ", 1)[-1])
