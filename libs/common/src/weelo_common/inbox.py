"""The inbox: which events a consumer has handled, written in the transaction of their effect.

A row is inserted, never looked up first; a repeat finds it there and does nothing. The table is cut in days of the
event's own time, so a repeat always meets the partition of its first coming, and old days are dropped whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from weelo_common.events import Envelope
from weelo_common.postgres import Connection, database_now

KEEP_DAYS = 9  # longer than any topic keeps its events (7 d), and a day for the cut at midnight
DAYS_AHEAD = 3  # a sweep that does not run for this long leaves rows in the default partition, no more

REGISTER = """
WITH fresh AS (
    INSERT INTO inbox (day, consumer, event_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING 1)
SELECT EXISTS (SELECT FROM fresh) AS fresh,
       EXISTS (SELECT FROM parked_key WHERE consumer = $2 AND key = $4) AS parked
"""
# For a statement that is an event's whole effect and commits by itself: only with this row may it change anything. None
# is written for an event that is known, nor for one whose key is parked; both are then looked at in a transaction.
REGISTER_WITHIN = """
    INSERT INTO inbox (day, consumer, event_id) SELECT {day}::date, {consumer}::text, {event_id}::text
     WHERE NOT EXISTS (SELECT FROM parked_key WHERE consumer = {consumer}::text AND key = {key}::text) AND {only_if}
    ON CONFLICT DO NOTHING RETURNING 1"""
FORGET = "DELETE FROM inbox WHERE day = $1 AND consumer = $2 AND event_id = $3"
SELECT_PARTITIONS = """
SELECT relname::text AS name FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
 WHERE inhparent = 'inbox'::regclass
"""
# A row that a consumer puts into the default partition between our look and the CREATE would break the CREATE off.
# The CREATE takes this lock itself; here it comes before the look. The partitions' locks go with it.
LOCK_INBOX = "LOCK TABLE inbox IN ACCESS EXCLUSIVE MODE"
TAKE_FROM_DEFAULT = "DELETE FROM inbox_default WHERE day = $1 RETURNING day, consumer, event_id"
DROP_OLD_FROM_DEFAULT = "DELETE FROM inbox_default WHERE day < $1"
PUT_BACK = "INSERT INTO inbox (day, consumer, event_id) VALUES ($1, $2, $3)"


class InboxNote(NamedTuple):
    """What the inbox is told of an event, as the parameters of a statement with ``REGISTER_WITHIN``."""

    day: date
    consumer: str
    event_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Registration:
    """Whether the event is new to the consumer, and whether its key is parked."""

    fresh: bool
    parked: bool


def note_of(consumer: str, envelope: Envelope) -> InboxNote:
    """What the inbox is told of a consumer's event."""
    return InboxNote(_day(envelope.time), consumer, envelope.id, envelope.key)


async def register(
    connection: Connection, *, consumer: str, event_id: str, event_time: datetime, key: str
) -> Registration:
    """Note an event in the caller's transaction; waits for another transaction that notes the same one."""
    row = await connection.fetchrow(REGISTER, _day(event_time), consumer, event_id, key)
    assert row is not None  # noqa: S101 - a SELECT of two EXISTS has one row
    return Registration(fresh=row["fresh"], parked=row["parked"])


async def forget(connection: Connection, *, consumer: str, event_id: str, event_time: datetime) -> None:
    """Take an event's row away in the caller's transaction: where it comes again, it is handled."""
    await connection.execute(FORGET, _day(event_time), consumer, event_id)


async def keep_inbox_days(connection: Connection) -> int:
    """Make the partitions of the coming days and drop those past keeping; returns how many changed.

    Days come from dates, so the names below hold nothing a caller could choose.
    """
    today = (await database_now(connection)).date()
    present = {row["name"] for row in await connection.fetch(SELECT_PARTITIONS)}
    changed = 0
    for offset in range(-1, DAYS_AHEAD + 1):
        day = today + timedelta(days=offset)
        if _partition(day) in present:
            continue
        if not changed:
            await connection.execute(LOCK_INBOX)
        strays = await connection.fetch(TAKE_FROM_DEFAULT, day)
        await connection.execute(
            f"CREATE TABLE {_partition(day)} PARTITION OF inbox "
            f"FOR VALUES FROM ('{day.isoformat()}') TO ('{(day + timedelta(days=1)).isoformat()}')"
        )
        if strays:
            await connection.executemany(PUT_BACK, [tuple(stray) for stray in strays])
        changed += 1
    oldest = today - timedelta(days=KEEP_DAYS)
    for name in sorted(present):
        if name != "inbox_default" and name < _partition(oldest):
            await connection.execute(f"DROP TABLE {name}")
            changed += 1
    await connection.execute(DROP_OLD_FROM_DEFAULT, oldest)
    return changed


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def _partition(day: date) -> str:
    return f"inbox_{day:%Y%m%d}"
