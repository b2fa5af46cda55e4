"""The tables: commands in, claims for firing, what is on its way to Kafka, tombstones.

Every judgement of time is PostgreSQL's. Its clock is read once a statement, so that the index on ``due_at`` serves it
(a bare ``clock_timestamp()`` would be asked for each row) and a whole claim has one time.

Claims and what follows them commit without waiting for the disk. A server that crashes and forgets one fires those
timers again, with the same event ids; a timer that was accepted is never forgotten.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import asyncpg

from expiry.domain import ClaimedTimer, Firing
from weelo_common.events.timers import MAX_HORIZON_DAYS
from weelo_common.inbox import REGISTER_WITHIN, InboxNote
from weelo_common.postgres import Connection

HORIZON = timedelta(days=MAX_HORIZON_DAYS)

_MOMENT = "moment AS MATERIALIZED (SELECT clock_timestamp() AS now)"
_HORIZON = "$5::timestamptz <= (SELECT now FROM moment) + $13::interval"

# One statement both locks and judges, and may: ON CONFLICT compares with the row as it is once locked.
_SAVED = """
    INSERT INTO timers AS t (timer_key, version, partition, state, owner, due_at, payload, order_id, traceparent)
    SELECT $1::text, $2::integer, $3::integer, 'pending', $4::text, $5::timestamptz, $6::text::json, $7::text, $8::text
      {source}
    ON CONFLICT (timer_key) DO UPDATE
    SET version = excluded.version, partition = excluded.partition, state = 'pending', owner = excluded.owner,
        due_at = excluded.due_at, payload = excluded.payload, order_id = excluded.order_id,
        traceparent = excluded.traceparent, updated_at = clock_timestamp()
    WHERE t.version < excluded.version
    RETURNING id"""
SCHEDULE = f"""
WITH {_MOMENT}, saved AS ({_SAVED.format(source="")})
SELECT (SELECT now FROM moment) AS now, (SELECT id FROM saved) AS id
"""  # noqa: S608 — only constants are put in, here and below
# Cancels up to its version. A firing of the same version is too late to stop; a lower one is kept from coming back.
_CANCELLED = """
INSERT INTO timers AS t (timer_key, version, partition, state, order_id, traceparent)
SELECT $1::text, $2::integer, $3::integer, 'cancelled', $4::text, $5::text {source}
ON CONFLICT (timer_key) DO UPDATE
SET version = excluded.version, state = 'cancelled', updated_at = clock_timestamp()
WHERE t.version < excluded.version OR (t.version = excluded.version AND t.state = 'pending')
"""
CANCEL = _CANCELLED.format(source="")

# The same with the command's row in the inbox, so that one statement is the whole transaction, and one round trip.
_FRESH_SCHEDULE = REGISTER_WITHIN.format(
    day="$9", consumer="$10", event_id="$11", key="$12", only_if=_HORIZON
)
_FRESH_CANCEL = REGISTER_WITHIN.format(day="$6", consumer="$7", event_id="$8", key="$9", only_if="true")
SCHEDULE_AT_ONCE = f"""
WITH {_MOMENT}, fresh AS ({_FRESH_SCHEDULE}), saved AS ({_SAVED.format(source="FROM fresh")})
SELECT (SELECT now FROM moment) AS now, (SELECT id FROM saved) AS id, EXISTS (SELECT FROM fresh) AS fresh
"""  # noqa: S608
CANCEL_AT_ONCE = f"""
WITH fresh AS ({_FRESH_CANCEL}), cancelled AS ({_CANCELLED.format(source="FROM fresh")} RETURNING 1)
SELECT EXISTS (SELECT FROM cancelled) AS cancelled FROM fresh
"""  # noqa: S608

_NO_WAIT_FOR_THE_DISK = "set_config('synchronous_commit', 'off', true) = 'off'"
_DUE_MS = "(date_part('epoch', due_at) * 1000)::bigint"
_TEXT_COLUMNS = "payload::text AS payload, order_id, traceparent"
_COLUMNS = f"id, timer_key, version, partition, owner, {_DUE_MS} AS due_ms, {_TEXT_COLUMNS}"

# Marks timers as fired and notes the batch, in one statement: from here on either its events are acknowledged and the
# note is deleted, or somebody finds the note. SKIP LOCKED: a row that a command holds is taken a moment later. By ctid:
# the rows are locked by then, and stay where they are.
_CLAIM = f"""
WITH moment AS MATERIALIZED (SELECT clock_timestamp() AS now WHERE {_NO_WAIT_FOR_THE_DISK}),
claimed AS (
    UPDATE timers SET state = 'fired', updated_at = (SELECT now FROM moment)
    WHERE state = 'pending' AND ctid = ANY (ARRAY (
        SELECT ctid FROM timers
        WHERE {{which}} AND state = 'pending' AND due_at <= (SELECT now FROM moment)
        {{order}} FOR UPDATE SKIP LOCKED))
    RETURNING {_COLUMNS}),
firing AS (
    INSERT INTO firings (fired_at, worked_at, timer_ids, versions)
    SELECT (SELECT now FROM moment), (SELECT now FROM moment), array_agg(id), array_agg(version)
    FROM claimed HAVING count(*) > 0
    RETURNING id)
SELECT claimed.*, (SELECT id FROM firing) AS firing, (SELECT now FROM moment) AS now FROM claimed
"""  # noqa: S608 — only the constants of this file are put in
CLAIM_HELD = _CLAIM.format(which="id = ANY ($1::bigint[])", order="")
CLAIM_BACKLOG = _CLAIM.format(which="partition = $1", order="ORDER BY due_at, id LIMIT $2")

RENEW_FIRING = f"UPDATE firings SET worked_at = clock_timestamp() WHERE id = $1 AND {_NO_WAIT_FOR_THE_DISK}"  # noqa: S608
DROP_FIRINGS = f"DELETE FROM firings WHERE id = ANY ($1::bigint[]) AND {_NO_WAIT_FOR_THE_DISK}"  # noqa: S608 — a constant

TAKE_ABANDONED = """
UPDATE firings SET worked_at = clock_timestamp()
WHERE id = ANY (ARRAY (
    SELECT id FROM firings WHERE worked_at <= (SELECT clock_timestamp() - $1::interval)
    ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING id, fired_at, timer_ids, versions
"""
TIMERS_OF_FIRING = f"SELECT {_COLUMNS} FROM timers WHERE id = ANY ($1::bigint[]) AND state = 'fired'"  # noqa: S608

# From the index alone, in slices: as arrays, because a row for each timer would cost ten times as much to read.
LOAD = f"""
SELECT array_agg({_DUE_MS}) AS due_ms, array_agg(id) AS ids,
       max(due_at) AS last_due, count(*) AS count
FROM (SELECT due_at, id FROM timers
      WHERE partition = $1 AND state = 'pending' AND (due_at, id) > ($2, $3::bigint) AND due_at <= $4
      ORDER BY due_at, id LIMIT $5) AS slice
"""  # noqa: S608 — only a constant of this file is put in

OVERDUE = """
SELECT number FROM unnest($1::integer[]) AS number
WHERE EXISTS (SELECT FROM timers WHERE partition = number AND state = 'pending'
                AND due_at <= (SELECT clock_timestamp() - $2::interval))
"""

COUNT_PENDING = "SELECT count(*) FROM timers WHERE state = 'pending' AND partition = ANY ($1::integer[])"
COUNT_DUE = """
SELECT count(*) FROM (
    SELECT FROM timers
    WHERE state = 'pending' AND partition = ANY ($1::integer[]) AND due_at <= (SELECT clock_timestamp())
    LIMIT $2) AS due
"""

# A tombstone's age counts from its claim; while Kafka is away longer than that, only its row can still fire it.
DROP_TOMBSTONES = """
DELETE FROM timers WHERE id = ANY (
    ARRAY (SELECT id FROM timers
           WHERE state IN ('fired', 'cancelled') AND updated_at < (SELECT clock_timestamp() - $1::interval)
             AND id NOT IN (SELECT unnest(timer_ids) FROM firings)
           ORDER BY updated_at LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


class Schedule(NamedTuple):
    """A timer to be; ``payload`` is JSON text."""

    key: str
    version: int
    partition: int
    owner: str
    due_at: datetime
    payload: str
    order_id: str | None
    traceparent: str | None


class Cancel(NamedTuple):
    """A timer not to be, up to a version."""

    key: str
    version: int
    partition: int
    order_id: str | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What became of a command: the timer's id, None where its version was not higher; ``now`` by the database."""

    id: int | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Loaded:
    """Timers of one partition in the order they are due, as columns; the last one's time, for the next slice."""

    due_ms: Sequence[int]
    ids: Sequence[int]
    last_due: datetime


class TimerStore:
    """SQL of expiry's tables; each method is one bounded statement or two, on the caller's connection."""

    async def schedule(self, conn: Connection, timer: Schedule) -> Scheduled:
        """Schedule or move a timer, where its version is higher than what is known."""
        row = await conn.fetchrow(SCHEDULE, *timer)
        assert row is not None  # noqa: S101 - a SELECT of two values has one row
        return Scheduled(row["id"], row["now"])

    async def schedule_at_once(self, conn: Connection, timer: Schedule, note: InboxNote) -> Scheduled | None:
        """The same with the command's inbox row; None, and nothing done, where that was not written.

        So it is with a repeat, with a parked key, and with what is due beyond the horizon.
        """
        row = await conn.fetchrow(SCHEDULE_AT_ONCE, *timer, *note, HORIZON)
        assert row is not None  # noqa: S101 - a SELECT of three values has one row
        return Scheduled(row["id"], row["now"]) if row["fresh"] else None

    async def cancel(self, conn: Connection, timer: Cancel) -> bool:
        """Cancel a timer up to a version, known or not yet; False where it has fired or has moved on."""
        return _rows(await conn.execute(CANCEL, *timer)) == 1

    async def cancel_at_once(self, conn: Connection, timer: Cancel, note: InboxNote) -> bool | None:
        """The same with the command's inbox row; None, and nothing done, where that was not written."""
        is_cancelled: bool | None = await conn.fetchval(CANCEL_AT_ONCE, *timer, *note)
        return is_cancelled

    async def claim_held(self, conn: Connection, ids: Sequence[int]) -> Firing | None:
        """Mark as fired those of these timers that are pending and due; None where none is."""
        return _firing(await conn.fetch(CLAIM_HELD, ids))

    async def claim_backlog(self, conn: Connection, partition: int, *, limit: int) -> Firing | None:
        """Mark as fired up to ``limit`` timers of a partition that are due, the oldest first; None where none is."""
        return _firing(await conn.fetch(CLAIM_BACKLOG, partition, limit))

    async def renew(self, conn: Connection, firing: Firing) -> bool:
        """Say that a firing is still worked on; False where somebody else has finished it."""
        return _rows(await conn.execute(RENEW_FIRING, firing.id)) == 1

    async def finish(self, conn: Connection, firings: Sequence[int]) -> None:
        """The brokers hold the events of all timers of these firings: they are done."""
        await conn.execute(DROP_FIRINGS, firings)

    async def take_abandoned(self, conn: Connection, *, older_than_s: float, limit: int) -> list[Firing]:
        """Firings that nobody has worked on for so long. They are the caller's now; moved timers are left out."""
        rows = await conn.fetch(TAKE_ABANDONED, timedelta(seconds=older_than_s), limit)
        firings: list[Firing] = []
        for row in rows:
            versions = dict(zip(row["timer_ids"], row["versions"], strict=True))
            timers = [_claimed(one) for one in await conn.fetch(TIMERS_OF_FIRING, row["timer_ids"])]
            unmoved = [timer for timer in timers if versions[timer.id] == timer.version]
            firings.append(Firing(row["id"], row["fired_at"], unmoved))
        return firings

    async def load(
        self,
        conn: Connection,
        partition: int,
        *,
        after: datetime,
        after_id: int,
        until: datetime,
        limit: int,
    ) -> Loaded | None:
        """The first ``limit`` pending timers due after that moment and id, and no later than ``until``."""
        row = await conn.fetchrow(LOAD, partition, after, after_id, until, limit)
        if row is None or row["count"] == 0:
            return None
        return Loaded(array("q", row["due_ms"]), array("q", row["ids"]), row["last_due"])

    async def overdue(
        self, conn: Connection, partitions: Collection[int], *, older_than_s: float
    ) -> list[int]:
        """Those of the partitions that have a pending timer overdue by so much."""
        rows = await conn.fetch(OVERDUE, list(partitions), timedelta(seconds=older_than_s))
        return [row["number"] for row in rows]

    async def count_pending(self, conn: Connection, partitions: Collection[int]) -> int:
        """How many timers of these partitions are pending."""
        count: int = await conn.fetchval(COUNT_PENDING, list(partitions))
        return count

    async def count_due(self, conn: Connection, partitions: Collection[int], *, limit: int) -> int:
        """How many of them are due; counts no further than ``limit``."""
        count: int = await conn.fetchval(COUNT_DUE, list(partitions), limit)
        return count

    async def drop_tombstones(self, conn: Connection, *, older_than_s: float, limit: int) -> int:
        """Delete up to ``limit`` tombstones older than that, and in no firing; how many it were."""
        return _rows(await conn.execute(DROP_TOMBSTONES, timedelta(seconds=older_than_s), limit))


def _rows(status: str) -> int:
    """The count at the end of a command's status, e.g. 3 of ``DELETE 3``."""
    return int(status.rsplit(" ", 1)[1])


def _firing(rows: Sequence[asyncpg.Record]) -> Firing | None:
    if not rows:
        return None
    return Firing(rows[0]["firing"], rows[0]["now"], [_claimed(row) for row in rows])


def _claimed(row: asyncpg.Record) -> ClaimedTimer:
    return ClaimedTimer._make(row[:9])  # the order of _COLUMNS
