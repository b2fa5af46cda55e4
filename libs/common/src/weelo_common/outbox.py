"""The outbox: events commit with the state they tell of; the relay (``weelo_common.relay``) publishes them to Kafka.

An event is appended inside the transaction that changes the aggregate, after the aggregate's row was locked or
inserted; so rows of one key have ids in commit order. A crash anywhere sends again, with the same ``ce_id``, rather
than never.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias

from weelo_common.events import Event, TimerFired, encode, seal
from weelo_common.postgres import Connection
from weelo_common.record_batches import encode_headers
from weelo_common.telemetry import current_traceparent

INSERT_EVENTS = """
INSERT INTO outbox (topic, key, event_id, headers, payload)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[])
"""

OutboxColumns: TypeAlias = tuple[list[str], list[str], list[str], list[bytes], list[bytes]]


class Outbox:
    """Appends events of one service."""

    def __init__(self, source: str) -> None:
        self._source = source

    async def append(self, connection: Connection, events: Sequence[Event], *, at: datetime) -> None:
        """Add events, in order, to the caller's transaction. Lock or insert the aggregate's row first.

        Raises:
            EventTooLarge: an event that no broker would take.
        """
        if not events:
            return
        # unnest() returns its rows in order, and the identity gives them ids in that order.
        await connection.execute(INSERT_EVENTS, *self.columns(events, at=at))

    def columns(self, events: Sequence[Event], *, at: datetime) -> OutboxColumns:
        """The events as the columns topic, key, event_id, headers and payload of ``outbox``, for a statement that
        inserts them together with their aggregate.

        Raises:
            EventTooLarge: an event that no broker would take.
        """
        traceparent = current_traceparent()
        topics: list[str] = []
        keys: list[str] = []
        ids: list[str] = []
        headers: list[bytes] = []
        payloads: list[bytes] = []
        for event in events:
            event_id = event.event_id() if isinstance(event, TimerFired) else None
            envelope = seal(event, source=self._source, time=at, event_id=event_id)
            told, payload = encode(envelope, traceparent)
            topics.append(envelope.topic.name)
            keys.append(envelope.key)
            ids.append(envelope.id)
            headers.append(encode_headers(told))
            payloads.append(payload)
        return topics, keys, ids, headers, payloads
