"""The outbox: events commit with the state they tell of, and a relay publishes them to Kafka.

An event is appended inside the transaction that changes the aggregate, after the aggregate's row was locked or
inserted; so rows of one key have ids in commit order. One relay at a time, the holder of a lease, reads unsent rows
in id order, produces them, and deletes exactly what Kafka acknowledged. A crash anywhere sends again, with the same
``ce_id``, rather than never.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections import Counter as Counts
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry, Counter, Gauge

from weelo_common.events import Event, TimerFired, encode, seal
from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.postgres import Connection, Database, DatabaseUnavailable
from weelo_common.record_batches import Acknowledgement, BatchSender, Record
from weelo_common.settings import ServiceSettings
from weelo_common.telemetry import current_traceparent, is_recorded, span

log = logging.getLogger(__name__)

RETRY_PAUSE_S = 0.5  # after Kafka or PostgreSQL did not answer
LEASE_MARGIN_S = 0.5  # a produce ends at least this long before the lease does

INSERT_EVENTS = """
INSERT INTO outbox (topic, key, event_id, headers, payload)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[])
"""
ACQUIRE_LEASE = """
UPDATE outbox_lease SET owner = $1, term = CASE WHEN owner = $1 THEN term ELSE term + 1 END,
       expires_at = clock_timestamp() + $2 * interval '1 second'
 WHERE owner = $1 OR expires_at < clock_timestamp()
RETURNING term
"""
RELEASE_LEASE = "UPDATE outbox_lease SET expires_at = '-infinity', owner = '' WHERE owner = $1"
SELECT_UNSENT = "SELECT id, topic, key, event_id, headers, payload FROM outbox ORDER BY id LIMIT $1"
# It commits without waiting for the disk: a server that crashes and forgets it has the rows sent again, with their ids.
DELETE_SENT = """
DELETE FROM outbox WHERE id = ANY($1::bigint[])
   AND EXISTS (SELECT FROM outbox_lease
                WHERE owner = $2 AND term = $3 AND set_config('synchronous_commit', 'off', true) = 'off')
"""
SELECT_DEPTH = """
SELECT count(*) AS depth, coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS age_s
  FROM (SELECT created_at FROM outbox ORDER BY id LIMIT 100000) AS unsent
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
            headers.append(json.dumps({name: value.decode() for name, value in told}).encode())
            payloads.append(payload)
        return topics, keys, ids, headers, payloads


class RelayMetrics:
    """What the relay tells: events published, errors, and how much waits."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.published = Counter(
            "weelo_outbox_published", "Events that Kafka acknowledged", ["topic"], registry=registry
        )
        self.errors = Counter(
            "weelo_outbox_errors", "Batches that failed and are sent again", registry=registry
        )
        self.depth = Gauge("weelo_outbox_depth", "Events that wait to be published", registry=registry)
        self.age = Gauge("weelo_outbox_age_seconds", "Age of the oldest waiting event", registry=registry)
        self.owner = Gauge("weelo_outbox_lease_held", "1 where this replica relays", registry=registry)


class Relay:
    """Publishes the outbox of one database. Any number may run; the lease lets one work."""

    def __init__(
        self, database: Database, kafka: KafkaClients, settings: ServiceSettings, metrics: RelayMetrics
    ) -> None:
        self._database = database
        self._kafka = kafka
        self._settings = settings
        self._metrics = metrics
        self._owner = str(uuid.uuid4())
        self._term = 0
        self._lease_until = 0.0  # on the monotonic clock, counted from before the lease was asked for
        self._renew_at = 0.0
        self._measure_at = 0.0
        self._producer: AIOKafkaProducer | None = None
        self._sender: BatchSender  # made with each producer
        self._woken = asyncio.Event()
        database.on_commit(self.wake)

    def wake(self) -> None:
        """Something was committed: look at once."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until stopped; what is unsent by then stays for the next owner."""
        try:
            while not stop.is_set():
                try:
                    sent = await self.run_once()
                except (DatabaseUnavailable, KafkaUnavailable) as error:
                    self._metrics.errors.inc()
                    log.warning("Relay waits", extra={"reason": str(error)})
                    await _wait(stop, RETRY_PAUSE_S)
                    continue
                if sent == 0:
                    await self._rest(stop)
        finally:
            await asyncio.shield(self._close())

    async def run_once(self) -> int:
        """Publish one batch and return how many rows it had; 0 where another holds the lease.

        Raises:
            DatabaseUnavailable, KafkaUnavailable: nothing was lost; call again later.
        """
        if not await self._hold_lease():
            return 0
        async with self._database.connection() as connection:
            rows = await connection.fetch(SELECT_UNSENT, self._settings.relay_batch_rows)
        await self._measure()
        if not rows:
            return 0
        acknowledged = await self._produce(rows)
        if acknowledged:
            async with self._database.connection() as connection:
                await connection.execute(DELETE_SENT, acknowledged, self._owner, self._term)
        if len(acknowledged) < len(rows):
            raise KafkaUnavailable(
                f"{len(rows) - len(acknowledged)} of {len(rows)} events were not acknowledged"
            )
        return len(rows)

    async def _hold_lease(self) -> bool:
        now = time.monotonic()
        if now < self._renew_at:
            return True
        async with self._database.connection() as connection:
            term: int | None = await connection.fetchval(
                ACQUIRE_LEASE, self._owner, self._settings.relay_lease_s
            )
        self._metrics.owner.set(0 if term is None else 1)
        if term is None:
            self._renew_at = 0.0
            return False
        self._term = term
        self._lease_until = now + self._settings.relay_lease_s
        self._renew_at = now + self._settings.relay_lease_s / 3
        return True

    async def _produce(self, rows: Sequence[Any]) -> list[int]:
        """Send the rows in order and return the ids of those acknowledged in time.

        A stale owner could still produce after its lease, so the deadline is what remains of it, less a margin.
        On any error the producer is dropped unflushed: the next try starts again at the first unsent row.
        """
        deadline_s = self._lease_until - LEASE_MARGIN_S - time.monotonic()
        if deadline_s <= 0:
            self._renew_at = 0.0
            return []
        try:
            if self._producer is None:
                self._producer = await asyncio.wait_for(self._kafka.start_producer(), deadline_s)
                self._sender = BatchSender(self._producer)
        except TimeoutError:
            raise KafkaUnavailable("no producer within the lease") from None
        handed: dict[int, Acknowledgement] = {}
        try:
            async with asyncio.timeout(self._lease_until - LEASE_MARGIN_S - time.monotonic()):
                await self._sender.send([self._record(row) for row in rows], handed)
                await asyncio.wait(set(handed.values()), return_when=asyncio.FIRST_EXCEPTION)
        except (TimeoutError, KafkaError, OSError) as error:
            log.warning("Relay drops its producer", extra={"reason": f"{type(error).__name__}: {error}"})
        except asyncio.CancelledError:
            await asyncio.shield(self._drop_producer())
            raise
        acknowledged: list[int] = []
        published: Counts[str] = Counts()
        for position, row in enumerate(rows):
            if position in handed and _is_acknowledged(handed[position]):
                acknowledged.append(row["id"])
                published[row["topic"]] += 1
        for topic, count in published.items():
            self._metrics.published.labels(topic).inc(count)
        if len(acknowledged) < len(rows):
            self._renew_at = 0.0  # ask for the lease again before the next try
            await self._drop_producer()
            for future in handed.values():
                if future.done() and not future.cancelled():
                    future.exception()  # marks it as seen; the rows are sent again
        return acknowledged

    def _record(self, row: Any) -> Record:
        headers = json.loads(row["headers"])
        traceparent = headers.get("traceparent")
        if traceparent and is_recorded(traceparent):
            with span(
                f"publish {row['topic']}",
                kind=SpanKind.PRODUCER,
                parent=traceparent,
                attributes={"messaging.system": "kafka", "messaging.message.id": row["event_id"]},
            ):
                headers["traceparent"] = current_traceparent() or traceparent
        return Record(
            f"{self._settings.kafka_topic_prefix}{row['topic']}",
            row["key"].encode(),
            row["payload"],
            [(name, value.encode()) for name, value in headers.items()],
        )

    async def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._kafka.drop_producer(producer)

    async def _rest(self, stop: asyncio.Event) -> None:
        """Wait for a commit in this process, or for the poll that finds the rows of others."""
        holds = self._renew_at > 0
        with contextlib.suppress(TimeoutError):
            pause_s = self._settings.relay_poll_s if holds else self._settings.relay_lease_s / 6
            await asyncio.wait_for(self._woken.wait(), pause_s)
        self._woken.clear()
        if not holds and not stop.is_set():
            await _wait(stop, self._settings.relay_poll_s)  # another relays: no need to ask at each commit

    async def _measure(self) -> None:
        now = time.monotonic()
        if now < self._measure_at:
            return
        self._measure_at = now + 1.0
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SELECT_DEPTH)
        if row is not None:
            self._metrics.depth.set(row["depth"])
            self._metrics.age.set(row["age_s"])

    async def _close(self) -> None:
        """Stop producing and give the lease back, so that another replica goes on at once."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._kafka.drop_producer(producer)
        try:
            async with self._database.connection() as connection:
                await connection.execute(RELEASE_LEASE, self._owner)
        except DatabaseUnavailable as error:
            log.warning("Lease left to run out", extra={"reason": str(error)})


def _is_acknowledged(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
