"""The timers table: commands in, claims for firing, marks, tombstones.

Every judgement of time is PostgreSQL's. ``(SELECT clock_timestamp())`` is read once a statement, so that the index
on ``due_at`` serves it: a bare ``clock_timestamp()`` would be asked for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from expiry.domain import ClaimedTimer
from weelo_common.postgres import Connection

# One statement both locks and judges, and may: ON CONFLICT compares with the row as it is once locked.
SCHEDULE = """
INSERT INTO timers AS t (timer_key, version, partition, state, owner, due_at, payload, order_id, traceparent)
VALUES ($1, $2, $3, 'pending', $4, $5, $6::text::json, $7, $8)
ON CONFLICT (timer_key) DO UPDATE
SET version = excluded.version, partition = excluded.partition, state = 'pending', owner = excluded.owner,
    due_at = excluded.due_at, payload = excluded.payload, order_id = excluded.order_id,
    traceparent = excluded.traceparent, fired_at = NULL, updated_at = clock_timestamp()
WHERE t.version < excluded.version
"""

# Cancels up to its version. A firing of the same version is too late to stop; a lower one is kept from coming back.
CANCEL = """
INSERT INTO timers AS t (timer_key, version, partition, state, order_id, traceparent)
VALUES ($1, $2, $3, 'cancelled', $4, $5)
ON CONFLICT (timer_key) DO UPDATE
SET version = excluded.version, state = 'cancelled', updated_at = clock_timestamp()
WHERE t.version < excluded.version OR (t.version = excluded.version AND t.state = 'pending')
"""

_CLAIMED = "id, timer_key, version, partition, owner, due_at, fired_at, payload::text AS payload, order_id, traceparent"

# Two lanes of one partition: what came due just now, and the backlog, oldest first. So that a backlog of an hour
# does not stand before a new timer. SKIP LOCKED: a row that a command holds is taken by the next look.
CLAIM = f"""
UPDATE timers
SET state = 'firing', fired_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE state = 'pending' AND id = ANY (
    ARRAY (SELECT id FROM timers
           WHERE partition = $1 AND state = 'pending'
             AND due_at <= (SELECT clock_timestamp()) AND due_at > (SELECT clock_timestamp() - $2::interval)
           ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED)
    || ARRAY (SELECT id FROM timers
              WHERE partition = $1 AND state = 'pending'
                AND due_at <= (SELECT clock_timestamp() - $2::interval)
              ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED))
RETURNING {_CLAIMED}
"""  # noqa: S608 — only the list of columns above is put in

NEXT_DUE = """
SELECT min(due_at) - clock_timestamp() FROM timers WHERE partition = $1 AND state = 'pending'
"""

UNFINISHED = f"""
SELECT {_CLAIMED} FROM timers
WHERE partition = $1 AND state = 'firing' AND updated_at <= (SELECT clock_timestamp() - $2::interval)
ORDER BY id LIMIT $3
"""  # noqa: S608 — only the list of columns above is put in

# By version too: a timer moved while its old firing was on the way is pending again, and stays so.
MARK_FIRED = """
UPDATE timers t SET state = 'fired', updated_at = clock_timestamp()
FROM unnest($1::bigint[], $2::integer[]) AS done (id, version)
WHERE t.id = done.id AND t.version = done.version AND t.state = 'firing'
"""

DROP_TOMBSTONES = """
DELETE FROM timers WHERE id = ANY (
    ARRAY (SELECT id FROM timers
           WHERE state IN ('fired', 'cancelled') AND updated_at < (SELECT clock_timestamp() - $1::interval)
           ORDER BY updated_at LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one look found: the timers to fire, and seconds until the next is due (None: none is pending)."""

    timers: Sequence[ClaimedTimer]
    next_due_s: float | None


class TimerStore:
    """SQL of the timers table; each method is one bounded statement or two, on the caller's connection."""

    async def schedule(
        self,
        conn: Connection,
        *,
        key: str,
        version: int,
        partition: int,
        owner: str,
        due_at: datetime,
        payload: str,
        order_id: str | None,
        traceparent: str | None,
    ) -> bool:
        """Schedule or move a timer; False where its version is not higher than what is known."""
        status = await conn.execute(
            SCHEDULE, key, version, partition, owner, due_at, payload, order_id, traceparent
        )
        return _rows(status) == 1

    async def cancel(
        self,
        conn: Connection,
        *,
        key: str,
        version: int,
        partition: int,
        order_id: str | None,
        traceparent: str | None,
    ) -> bool:
        """Cancel a timer up to a version, known or not yet; False where it has fired or has moved on."""
        return _rows(await conn.execute(CANCEL, key, version, partition, order_id, traceparent)) == 1

    async def claim(self, conn: Connection, partition: int, *, fresh_s: float, limit: int) -> Claim:
        """Mark as firing up to ``limit`` timers due in the last ``fresh_s`` seconds and as many older ones."""
        rows = await conn.fetch(CLAIM, partition, timedelta(seconds=fresh_s), limit)
        wait: timedelta | None = await conn.fetchval(NEXT_DUE, partition)
        timers = sorted((_claimed(row) for row in rows), key=lambda timer: (timer.due_at, timer.id))
        return Claim(timers, None if wait is None else wait.total_seconds())

    async def unfinished(
        self, conn: Connection, partition: int, *, older_than_s: float, limit: int
    ) -> list[ClaimedTimer]:
        """Timers left in the state firing for longer than that: nobody knows whether their event went out."""
        rows = await conn.fetch(UNFINISHED, partition, timedelta(seconds=older_than_s), limit)
        return [_claimed(row) for row in rows]

    async def mark_fired(self, conn: Connection, timers: Sequence[ClaimedTimer]) -> None:
        """The brokers hold the events of these timers: turn them into tombstones."""
        ordered = sorted(timers, key=lambda timer: timer.id)
        await conn.execute(MARK_FIRED, [timer.id for timer in ordered], [timer.version for timer in ordered])

    async def drop_tombstones(self, conn: Connection, *, older_than_s: float, limit: int) -> int:
        """Delete up to ``limit`` tombstones older than that; how many it were."""
        return _rows(await conn.execute(DROP_TOMBSTONES, timedelta(seconds=older_than_s), limit))


def _rows(status: str) -> int:
    """The count at the end of a command's status, e.g. 3 of ``DELETE 3``."""
    return int(status.rsplit(" ", 1)[1])


def _claimed(row: asyncpg.Record) -> ClaimedTimer:
    return ClaimedTimer(
        id=row["id"],
        key=row["timer_key"],
        version=row["version"],
        partition=row["partition"],
        owner=row["owner"],
        due_at=row["due_at"],
        fired_at=row["fired_at"],
        payload=row["payload"],
        order_id=row["order_id"],
        traceparent=row["traceparent"],
    )
