"""What each service and each topic tells of one order, as moments that can be put in order.

It knows the services' tables by their names, as the ledger does, and imports none of them. It reads ids, numbers and
states; names, phone numbers, addresses and what people typed are never selected.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from weelo_cli.connections import Connection
from weelo_cli.conventions import json_text
from weelo_cli.dead_letters import dead_letter_topics, read_dead_letters
from weelo_cli.reading import TopicReader
from weelo_cli.redaction import shown_event, shown_reason
from weelo_common.clock import format_time
from weelo_common.events import MalformedEvent, decode
from weelo_common.events.topics import (
    DISPATCH_OFFERS,
    DISPATCHER,
    EXPIRY,
    NOTIFIER,
    ORDER_API,
    ORDERS_EVENTS,
    TIMERS_COMMANDS,
    TIMERS_FIRED,
)

BEFORE = timedelta(minutes=1)  # clocks differ; an order's events are no older than its id

SELECT_STATE = """
SELECT status, searching, search_end, version, trucks_filled, total_trucks, total_amount, customer_id,
       expires_at, created_at, cancel_kind
  FROM orders WHERE id = $1::text::uuid
"""
ORDER_API_MOMENTS = {
    "order made": "SELECT created_at AS at, customer_id, total_trucks FROM orders WHERE id = $1::text::uuid",
    "order cancelled": """
        SELECT cancelled_at AS at, cancel_kind AS by FROM orders
         WHERE id = $1::text::uuid AND cancelled_at IS NOT NULL""",
    "truck request won": """
        SELECT assigned_at AS at, id::text AS truck_request_id, captain_id, offer_id, status AS status_now
          FROM truck_requests WHERE order_id = $1::text::uuid AND assigned_at IS NOT NULL""",
    "answer kept for retries": """
        SELECT created_at AS at, status AS http_status FROM idempotency_records WHERE order_id = $1::text::uuid""",
    "dispatch progress as GET …/status tells it": """
        SELECT updated_at AS at, state, attempts FROM dispatch_progress WHERE order_id = $1::text::uuid""",
}
DISPATCHER_MOMENTS = {
    "order seen": "SELECT seen_at AS at FROM orders WHERE order_id = $1",
    "round of matching": """
        SELECT at, wave, cause, radius_m FROM match_rounds WHERE order_id = $1""",
    "offer made": """
        SELECT made_at AS at, offer_id, captain_id, wave, distance_m FROM offers WHERE order_id = $1""",
    "offer ended": """
        SELECT ended_at AS at, offer_id, captain_id, status, reason FROM offers
         WHERE order_id = $1 AND ended_at IS NOT NULL""",
}
NOTIFIER_MOMENTS = {
    "frame for a phone": """
        SELECT created_at AS at, user_id, stream_offset AS "offset", event, event_id
          FROM notifications WHERE order_id = $1""",
}
EXPIRY_MOMENTS = {
    "timer as it stands": """
        SELECT updated_at AS at, timer_key, version, state, owner, due_at FROM timers
         WHERE timer_key = ANY (ARRAY['order-expiry:' || $1, 'dispatch-wave:' || $1])""",
}
STUCK_MOMENTS = {
    "WAITS to be published": "SELECT created_at AS at, topic, event_id FROM outbox WHERE key = $1",
    "PARKED key": """
        SELECT parked_at AS at, consumer, reason, replay_asked_at, replay_error FROM parked_key WHERE key = $1""",
    "PARKED event": """
        SELECT parked_at AS at, consumer, topic, partition, "offset", event_id FROM parked WHERE key = $1""",
}
MOMENTS: Mapping[str, Mapping[str, str]] = {
    ORDER_API: ORDER_API_MOMENTS,
    DISPATCHER: DISPATCHER_MOMENTS,
    NOTIFIER: NOTIFIER_MOMENTS,
    EXPIRY: EXPIRY_MOMENTS,
}
TOPICS = (ORDERS_EVENTS, DISPATCH_OFFERS, TIMERS_COMMANDS, TIMERS_FIRED)
QUOTED = ("reason", "replay_error")  # columns that may quote what somebody sent


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened. ``rank`` puts causes first where times are equal: tables, then topics, then phones."""

    at: datetime
    where: str
    what: str
    details: Mapping[str, Any] = field(default_factory=dict)
    rank: int = 0

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {"at": self.at, "where": self.where, "what": self.what, **self.details}

    def line(self) -> str:
        """For people."""
        return f"{format_time(self.at)} {self.where:<18} {self.what} {json_text(self.details)}"


async def state_of(connection: Connection, service: str, order_id: str) -> dict[str, Any] | None:
    """The order as order-api has it; None from any other service, and where it is unknown."""
    if service != ORDER_API:
        return None
    row = await connection.fetchrow(SELECT_STATE, order_id)
    return None if row is None else _named(row)


async def from_tables(connection: Connection, service: str, order_id: str) -> list[Moment]:
    """What a service's tables tell of the order, and what of it is stuck there."""
    rank = 3 if service == NOTIFIER else 1
    found: list[Moment] = []
    for what, query in {**MOMENTS[service], **STUCK_MOMENTS}.items():
        for row in await connection.fetch(query, order_id):
            details = _named(row)
            at: datetime = details.pop("at")
            found.append(Moment(at, service, what, details, rank))
    return found


async def from_topics(reader: TopicReader, order_id: str) -> list[Moment]:
    """The order's events as they lie in Kafka, and its dead letters.

    Raises:
        KafkaUnavailable: the brokers do not answer.
    """
    begin = made_at(order_id) - BEFORE
    found: list[Moment] = []
    for topic in TOPICS:
        pairs = [reader.partition_of(topic, order_id)]
        starts, ends = await reader.offsets_at(pairs, begin), await reader.ends(pairs)
        async for record in reader.between(topic, starts, ends):
            if record.key != order_id.encode():
                continue
            try:
                envelope = decode(topic, record.key, record.headers, record.value)
            except MalformedEvent as error:
                details: dict[str, Any] = {"why": str(error)}
                found.append(Moment(record.received_at, topic.name, "malformed record", details, 2))
                continue
            details = {
                "id": envelope.id,
                "offset": f"{record.partition}/{record.offset}",
                "inKafkaAt": record.received_at,
                "data": {} if envelope.event is None else shown_event(envelope.event),
            }
            found.append(Moment(envelope.time, topic.name, envelope.type, details, 2))
    for topic, group in dead_letter_topics(None, None):
        for letter in await read_dead_letters(reader, topic, group):
            if letter.record.key == order_id.encode():
                found.append(
                    Moment(letter.record.received_at, topic.name, f"DEAD for {group}", letter.document(), 2)
                )
    return found


def made_at(order_id: str) -> datetime:
    """When an order was made: its id is a UUIDv7 and begins with the milliseconds. The epoch for any other id."""
    value = uuid.UUID(order_id)
    milliseconds = value.int >> 80 if value.version == 7 else 0
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _named(row: asyncpg.Record) -> dict[str, Any]:
    """A row with the names of the contract; absent values left out."""
    return {
        _camel(name): shown_reason(value) if name in QUOTED else value
        for name, value in row.items()
        if value is not None
    }


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)
