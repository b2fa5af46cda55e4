"""The notifier's SQL: streams, facts about offers and orders, retention.

Every append happens under two kinds of row locks, in this order: the order's row, then the users' streams in the
order of their ids. Judging comes in the statement after the order's lock, because a statement sees what stood when it
began; a stream's head is raised as it is once it is locked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from asyncpg import Record

from notifier.domain import Notice
from weelo_common.postgres import Connection

# The update locks the row also where its WHERE keeps it as it is; a row comes back only for a newer version.
LOCK_ORDER_AT_VERSION = """
INSERT INTO orders (order_id, version, search_over) VALUES ($1, $2, $3)
ON CONFLICT (order_id) DO UPDATE
   SET version = excluded.version, search_over = orders.search_over OR excluded.search_over,
       touched_at = clock_timestamp()
 WHERE orders.version < excluded.version
RETURNING version
"""
LOCK_ORDER = """
INSERT INTO orders (order_id) VALUES ($1)
ON CONFLICT (order_id) DO UPDATE SET touched_at = clock_timestamp()
RETURNING search_over
"""
INSERT_ENDED_OFFERS = """
INSERT INTO ended_offers (offer_id) SELECT DISTINCT unnest($1::text[]) ORDER BY 1 ON CONFLICT DO NOTHING
"""
LOCK_STREAMS = "SELECT user_id FROM streams WHERE user_id = ANY($1::text[]) ORDER BY user_id FOR UPDATE"
# Offsets are given to what is left once repeats and dead offers are out, so none is wasted. What that is judged by
# changes only under the order's lock, which the caller holds. The streams are locked as they are raised, or made: in
# the order of their users, for a sorted INSERT takes one row after the other.
# Subqueries with a LIMIT are one look into an index each, whatever the planner thinks of a table: joined, a plan made
# while the tables were empty read them whole, 50 ms a call. Arrays behind a SELECT hide their length, so that one plan
# is kept; else each call is planned anew, which takes as long as the call.
APPEND = """
WITH wanted AS (
    SELECT * FROM unnest((SELECT $1::text[]), (SELECT $2::text[]), (SELECT $3::text[]), (SELECT $4::text[]),
                         (SELECT $5::timestamptz[])) WITH ORDINALITY
        AS w(user_id, event, body, offer_id, expires_at, place)
), fresh AS (
    SELECT w.*, row_number() OVER (PARTITION BY w.user_id ORDER BY w.place) AS step,
           count(*) OVER (PARTITION BY w.user_id) AS frames
      FROM wanted AS w
     WHERE (SELECT true FROM notifications AS n
             WHERE n.user_id = w.user_id AND n.event_id = $6 AND n.event = w.event LIMIT 1) IS NULL
       AND (w.offer_id IS NULL OR (w.expires_at > clock_timestamp()
            AND (SELECT true FROM ended_offers AS e WHERE e.offer_id = w.offer_id LIMIT 1) IS NULL))
), raised AS (
    INSERT INTO streams AS s (user_id, head)
    SELECT user_id, frames FROM fresh WHERE step = 1 ORDER BY user_id COLLATE "C"
    ON CONFLICT (user_id) DO UPDATE SET head = s.head + excluded.head, touched_at = clock_timestamp()
    RETURNING s.user_id, s.epoch, s.head
), added AS (
    INSERT INTO notifications (user_id, stream_offset, event_id, event, body, order_id, offer_id, expires_at,
                               event_time, traceparent)
    SELECT f.user_id, r.head - f.frames + f.step, $6, f.event, f.body::json, $7, f.offer_id, f.expires_at, $8, $9
      FROM fresh AS f JOIN raised AS r USING (user_id)
)
SELECT f.place, r.epoch::text AS epoch, r.head - f.frames + f.step AS stream_offset
  FROM fresh AS f JOIN raised AS r USING (user_id) ORDER BY f.place
"""
SELECT_STREAM = "SELECT user_id, epoch, head, floor FROM streams WHERE user_id = $1"
CREATE_STREAM = """
INSERT INTO streams (user_id) VALUES ($1) ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id
RETURNING user_id, epoch, head, floor
"""
# One round trip for a thousand sockets, and as a rule no row comes back.
SELECT_OTHER_HEADS = """
SELECT DISTINCT s.user_id, s.epoch, s.head, s.head < at.cursor AS went_back
  FROM unnest($1::text[], $2::text[], $3::bigint[]) AS at(user_id, epoch, cursor)
  JOIN streams AS s ON s.user_id = at.user_id
 WHERE s.head <> at.cursor OR s.epoch::text <> at.epoch
"""
READ_STREAM = """
SELECT n.stream_offset, n.event, n.body, n.event_time, n.traceparent, n.expires_at,
       n.offer_id IS NOT NULL AND (
           n.expires_at <= clock_timestamp()
           OR EXISTS (SELECT FROM ended_offers AS e WHERE e.offer_id = n.offer_id)
           OR EXISTS (SELECT FROM orders AS o WHERE o.order_id = n.order_id AND o.search_over)) AS dead
  FROM notifications AS n
 WHERE n.user_id = $1 AND n.stream_offset > $2
 ORDER BY n.stream_offset LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class Stream:
    """A user's stream: the last offset given, and the one up to which frames are gone."""

    user_id: str
    epoch: str
    head: int
    floor: int


@dataclass(frozen=True, slots=True)
class Head:
    """Where a user's stream stands. ``went_back``: before what a socket was sent; PostgreSQL has lost commits."""

    user_id: str
    epoch: str
    head: int
    went_back: bool


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame of a stream. ``dead``: its offer has ended, so the offset is passed over.

    ``rest`` is what follows the offset in the frame's JSON, as bytes, so that nothing is encoded when it is sent.
    """

    offset: int
    event: str
    rest: bytes
    event_time: datetime
    traceparent: str | None
    expires_at: datetime | None
    dead: bool


@dataclass(frozen=True, slots=True)
class Appended:
    """A frame that a transaction has added to a user's stream, for the sockets that wait for it."""

    user_id: str
    epoch: str
    frame: StoredFrame


async def lock_order_at(connection: Connection, order_id: str, version: int, *, search_over: bool) -> bool:
    """Lock an order's row and bring it to this version; False where a version as high is known already."""
    return await connection.fetchval(LOCK_ORDER_AT_VERSION, order_id, version, search_over) is not None


async def lock_order(connection: Connection, order_id: str) -> bool:
    """Lock an order's row; True where its search is known to be over."""
    return bool(await connection.fetchval(LOCK_ORDER, order_id))


async def end_offers(connection: Connection, offer_ids: Sequence[str]) -> None:
    """Leave behind that these offers have ended, whether or not they were ever announced."""
    if offer_ids:
        await connection.execute(INSERT_ENDED_OFFERS, list(offer_ids))


async def append(
    connection: Connection,
    notices: Sequence[Notice],
    *,
    event_id: str,
    event_time: datetime,
    order_id: str,
    traceparent: str | None,
) -> list[Appended]:
    """Add one event's frames to their users' streams and return those that were new and worth sending.

    The caller has locked the order's row.
    """
    if not notices:
        return []
    users = [notice.user_id for notice in notices]
    bodies = [notice.body(event_id) for notice in notices]
    rows = await connection.fetch(
        APPEND,
        users,
        [notice.name.value for notice in notices],
        bodies,
        [notice.offer_id for notice in notices],
        [notice.expires_at for notice in notices],
        event_id,
        order_id,
        event_time,
        traceparent,
    )
    appended = []
    for row in rows:
        place = row["place"] - 1
        notice = notices[place]
        frame = StoredFrame(
            offset=row["stream_offset"],
            event=notice.name.value,
            rest=_rest(bodies[place]),
            event_time=event_time,
            traceparent=traceparent,
            expires_at=notice.expires_at,
            dead=False,
        )
        appended.append(Appended(notice.user_id, row["epoch"], frame))
    return appended


async def open_stream(connection: Connection, user_id: str) -> Stream:
    """A user's stream, made where there is none."""
    row = await connection.fetchrow(SELECT_STREAM, user_id) or await connection.fetchrow(
        CREATE_STREAM, user_id
    )
    if row is None:
        raise LookupError("an upsert returned no row")
    return _stream(row)


async def other_heads(
    connection: Connection, users: Sequence[str], epochs: Sequence[str], cursors: Sequence[int]
) -> list[Head]:
    """The streams that are not where these users' sockets are: gone on, replaced, or gone back."""
    rows = await connection.fetch(SELECT_OTHER_HEADS, users, epochs, cursors)
    return [Head(row["user_id"], str(row["epoch"]), row["head"], row["went_back"]) for row in rows]


async def read_stream(connection: Connection, user_id: str, *, after: int, limit: int) -> list[StoredFrame]:
    """At most ``limit`` frames after an offset, in order, the dead ones marked."""
    rows = await connection.fetch(READ_STREAM, user_id, after, limit)
    return [
        StoredFrame(
            offset=row["stream_offset"],
            event=row["event"],
            rest=_rest(row["body"]),
            event_time=row["event_time"],
            traceparent=row["traceparent"],
            expires_at=row["expires_at"],
            dead=row["dead"],
        )
        for row in rows
    ]


def _stream(row: Record) -> Stream:
    return Stream(row["user_id"], str(row["epoch"]), row["head"], row["floor"])


def _rest(body: str) -> bytes:
    """The JSON of a frame's body without its opening brace, in whose place the offset goes."""
    return body[1:].encode()
