"""The SQL of idempotency records and of what the dispatch tells of an order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import asyncpg

from order_api.store import SearchingOrder
from weelo_common.inbox import REGISTER_WITHIN, InboxNote
from weelo_common.postgres import Connection

SELECT_ANSWER = """
SELECT fingerprint, status, body, order_id FROM idempotency_records
 WHERE customer_id = $1 AND endpoint = $2 AND key = $3
"""
# LATERAL with LIMIT: one look into each index for each request, whatever the planner thinks of an empty table.
SELECT_SITUATIONS = """
SELECT date_trunc('milliseconds', clock_timestamp()) AS database_now,
       kept.fingerprint, kept.status AS answer_status, kept.body, kept.order_id,
       open_order.id AS open_id, open_order.status AS open_status, open_order.created_at AS open_created_at,
       open_order.expires_at <= clock_timestamp() AS overdue
  FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (customer_id, endpoint, key, number)
  LEFT JOIN LATERAL (SELECT fingerprint, status, body, order_id FROM idempotency_records
                      WHERE customer_id = asked.customer_id AND endpoint = asked.endpoint AND key = asked.key
                      LIMIT 1) AS kept ON true
  LEFT JOIN LATERAL (SELECT id, status, created_at, expires_at FROM orders
                      WHERE customer_id = asked.customer_id AND searching
                      LIMIT 1) AS open_order ON true
 ORDER BY asked.number
"""
DELETE_OLD_ANSWERS = """
DELETE FROM idempotency_records WHERE (customer_id, endpoint, key) IN (
    SELECT customer_id, endpoint, key FROM idempotency_records
     WHERE created_at < clock_timestamp() - $1 * interval '1 hour' ORDER BY created_at LIMIT $2)
"""
_NOTED = """
noted AS (
    INSERT INTO dispatch_progress (order_id, state, attempts) SELECT id, $2, $3 FROM {source} WHERE id = $1
    ON CONFLICT (order_id) DO UPDATE
       SET state = excluded.state, attempts = greatest(dispatch_progress.attempts, excluded.attempts),
           updated_at = clock_timestamp()
    RETURNING order_id
), told AS (
    INSERT INTO notified_transporters (order_id, transporter_id)
    SELECT order_id, transporter_id FROM noted, unnest($4::text[]) AS new (transporter_id) ON CONFLICT DO NOTHING
)
SELECT EXISTS (SELECT FROM noted)"""
NOTE_WAVE = f"WITH {_NOTED.format(source='orders')}"
# The same with the event's row in the inbox, so that one statement is the whole transaction, and one round trip.
_FRESH = REGISTER_WITHIN.format(day="$5", consumer="$6", event_id="$7", key="$8", only_if="true")
NOTE_WAVE_AT_ONCE = f"WITH fresh AS ({_FRESH}), {_NOTED.format(source='fresh, orders')} FROM fresh"
SELECT_PROGRESS = """
SELECT state, attempts, (SELECT count(*) FROM notified_transporters WHERE order_id = $1) AS notified
  FROM dispatch_progress WHERE order_id = $1
"""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What a create under this key was answered, byte for byte, and the order that it made."""

    fingerprint: bytes
    status: int
    body: bytes
    order_id: str


@dataclass(frozen=True, slots=True)
class Situation:
    """What a create meets, at the database's time ``now`` (whole ms)."""

    now: datetime
    answer: StoredAnswer | None
    searching: SearchingOrder | None

    @property
    def free(self) -> bool:
        """Whether nothing is in the create's way."""
        return self.answer is None and self.searching is None


class Wave(NamedTuple):
    """What the dispatch told of an order: its state, the waves so far, and the transporters notified now, in order."""

    order_id: str
    state: str
    attempts: int
    transporter_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class DispatchProgress:
    """How far the dispatch of an order is: its state, the waves so far, distinct transporters notified."""

    state: str
    attempts: int
    notified_transporters: int


async def stored_answer(
    connection: Connection, customer_id: str, endpoint: str, key: str
) -> StoredAnswer | None:
    """The answer kept under a customer's key of one endpoint."""
    row = await connection.fetchrow(SELECT_ANSWER, customer_id, endpoint, key)
    if row is None:
        return None
    return StoredAnswer(row["fingerprint"], row["status"], row["body"], str(row["order_id"]))


async def situations(connection: Connection, asked: Sequence[tuple[str, str, str | None]]) -> list[Situation]:
    """What creates meet: the earlier answer, the customer's searching order, and the time; one statement.

    ``asked`` has customer id, endpoint and key of each; the situations come in the same order.
    """
    rows = await connection.fetch(SELECT_SITUATIONS, *(list(column) for column in zip(*asked, strict=True)))
    return [_situation(row) for row in rows]


def _situation(row: asyncpg.Record) -> Situation:
    answer = searching = None
    if row["order_id"] is not None:
        answer = StoredAnswer(row["fingerprint"], row["answer_status"], row["body"], str(row["order_id"]))
    if row["open_id"] is not None:
        searching = SearchingOrder(
            str(row["open_id"]), row["open_status"], row["open_created_at"], row["overdue"]
        )
    return Situation(row["database_now"], answer, searching)


async def delete_old_answers(connection: Connection, *, keep_h: int, limit: int) -> int:
    """Delete up to ``limit`` answers older than ``keep_h`` hours; returns how many went."""
    tag = await connection.execute(DELETE_OLD_ANSWERS, keep_h, limit)
    return int(tag.split()[-1])


async def note_wave(connection: Connection, wave: Wave) -> bool:
    """Record what the dispatch told of an order; False where this service has no such order."""
    known: bool = await connection.fetchval(NOTE_WAVE, *wave)
    return known


async def note_wave_at_once(connection: Connection, wave: Wave, note: InboxNote) -> bool | None:
    """The same with the event's inbox row; None, and nothing done, where that was not written."""
    known: bool | None = await connection.fetchval(NOTE_WAVE_AT_ONCE, *wave, *note)
    return known


async def dispatch_progress(connection: Connection, order_id: str) -> DispatchProgress | None:
    """What the dispatch told so far; None before its first word."""
    row = await connection.fetchrow(SELECT_PROGRESS, order_id)
    return None if row is None else DispatchProgress(row["state"], row["attempts"], row["notified"])
