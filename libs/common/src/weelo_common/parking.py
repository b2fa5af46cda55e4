"""Parked keys: where a handler keeps failing on one event, that key waits and all others flow on.

The event and every later one of its key go to ``parked``, in order. A replay applies them in order and lifts the mark
under the same row lock that a consumer takes before it appends, so that no event slips past the queue.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from weelo_common.events import Envelope, decode
from weelo_common.events.topics import Topic
from weelo_common.postgres import Connection, Database

REASON_LENGTH = 500  # characters of the error that are kept

MARK_KEY = "INSERT INTO parked_key (consumer, key, reason) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
LOCK_MARK = "SELECT 1 FROM parked_key WHERE consumer = $1 AND key = $2 FOR UPDATE"
LIFT_MARK = "DELETE FROM parked_key WHERE consumer = $1 AND key = $2"
APPEND = """
INSERT INTO parked (consumer, key, topic, partition, "offset", event_id, received_at, headers, payload)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
SELECT_OLDEST = """
SELECT id, topic, partition, "offset", received_at, headers, payload
  FROM parked WHERE consumer = $1 AND key = $2 ORDER BY id LIMIT 1
"""
DELETE_PARKED = "DELETE FROM parked WHERE id = $1"


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it came from Kafka; ``topic`` is the declared one, without any prefix."""

    topic: Topic
    partition: int
    offset: int
    key: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None
    received_at: datetime


ReplayHandler = Callable[[Connection, Envelope, Record], Awaitable[None]]


async def lock_if_parked(connection: Connection, consumer: str, key: str) -> bool:
    """Whether the key is parked; holds the mark's lock to the end of the transaction if so."""
    return await connection.fetchval(LOCK_MARK, consumer, key) is not None


async def park(
    connection: Connection, consumer: str, envelope: Envelope, record: Record, *, reason: str
) -> None:
    """Mark the key and append the event, in the caller's transaction."""
    storable = reason.replace("\x00", "").encode(errors="replace").decode()  # it may quote the event
    await connection.execute(MARK_KEY, consumer, envelope.key, storable[:REASON_LENGTH])
    await lock_if_parked(connection, consumer, envelope.key)
    await append(connection, consumer, envelope, record)


async def append(connection: Connection, consumer: str, envelope: Envelope, record: Record) -> None:
    """Put an event at the end of its parked key, whose mark the caller has locked."""
    headers = json.dumps({name: value.decode() for name, value in record.headers}).encode()
    await connection.execute(
        APPEND,
        consumer,
        envelope.key,
        record.topic.name,
        record.partition,
        record.offset,
        envelope.id,
        record.received_at,
        headers,
        record.value or b"",
    )


async def replay(
    database: Database,
    consumer: str,
    key: str,
    topics: dict[str, Topic],
    handle: ReplayHandler,
    committed: Callable[[], None] | None = None,
) -> int:
    """Apply a parked key's events in order, each in its own transaction, and lift the mark after the last.

    ``committed`` is called after each commit and must return at once. Returns how many events were applied. An error of
    ``handle`` leaves its event and the later ones parked, and is raised.
    """
    applied = 0
    while True:
        async with database.transaction() as connection:
            if not await lock_if_parked(connection, consumer, key):
                return applied
            row = await connection.fetchrow(SELECT_OLDEST, consumer, key)
            if row is None:
                await connection.execute(LIFT_MARK, consumer, key)
                return applied
            record = Record(
                topic=topics[row["topic"]],
                partition=row["partition"],
                offset=row["offset"],
                key=key.encode(),
                headers=tuple((name, value.encode()) for name, value in json.loads(row["headers"]).items()),
                value=row["payload"],
                received_at=row["received_at"],
            )
            await handle(connection, decode(record.topic, record.key, record.headers, record.value), record)
            await connection.execute(DELETE_PARKED, row["id"])
        applied += 1
        if committed is not None:
            committed()
