"""One partition's events, one after the other: inbox, handler, retries, dead letters, parking."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Protocol

from opentelemetry.trace import SpanKind

from weelo_common import inbox, parking
from weelo_common.dead_letters import DeadLetters
from weelo_common.delivery import AtOnce, Delivery, Handler, Outcome, PoisonMessage, RetryLater
from weelo_common.events import Envelope, Event, MalformedEvent, decode
from weelo_common.events.topics import Topic
from weelo_common.kafka import KafkaUnavailable
from weelo_common.outage_log import OutageLog
from weelo_common.parking import Record
from weelo_common.postgres import Connection, Database, DatabaseUnavailable, is_infrastructure_error
from weelo_common.telemetry import span

log = logging.getLogger(__name__)

TRIES = 3  # of an event whose handler fails for a reason of its own; then its key is parked
TRY_PAUSE_S = 0.1  # between those tries
UNKNOWN_TYPES = 100  # that are named in the log before it falls silent; rubbish must not fill it
TYPE_LENGTH = 120  # characters of an unknown type that are named
WAIT_MIN_S = 0.1  # first pause while the infrastructure is away
WAIT_MAX_S = 5.0  # and the longest


class Metrics(Protocol):
    """What the worker counts into."""

    retries: Any

    def count(self, consumer: str, outcome: Outcome) -> None:
        """One event ended."""

    def handled(self, consumer: str, event_type: str, seconds: float) -> None:
        """One try at an event took so long."""

    def took_effect(self, consumer: str, event_type: str, age_s: float) -> None:
        """An event was applied, so long after it was made."""


class EventProcessor:
    """Takes one record to its end, whatever it takes."""

    def __init__(
        self,
        consumer: str,
        handlers: Mapping[type[Event], Handler],
        database: Database,
        dead_letters: DeadLetters,
        metrics: Metrics,
        relevant: Callable[[Event], bool],
        at_once: Mapping[type[Event], AtOnce] = MappingProxyType({}),
    ) -> None:
        self._consumer = consumer
        self._handlers = handlers
        self._database = database
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._relevant = relevant
        self._at_once = at_once
        self._outages = OutageLog(log, begins="Consumer waits", ends="Consumer goes on")
        self._unknown: set[str] = set()

    async def process(self, record: Record, ended: asyncio.Event) -> bool:
        """Handle a record; False where ``ended`` came first and the record must be read again by its next owner."""
        failures = 0
        waits = 0
        who = (record.topic.name, record.partition)
        while True:
            pause_s: float
            try:
                outcome = await self._attempt(record, failures)
            except RetryLater as later:
                pause_s = later.delay_s
            except (DatabaseUnavailable, KafkaUnavailable) as error:
                pause_s = _backoff_s(waits)
                waits += 1
                self._outages.waits(str(error), who, self._where(record))
            else:
                self._outages.goes_on(who, self._where(record))
                if outcome is not None:
                    self._metrics.count(self._consumer, outcome)
                    return True
                failures += 1
                pause_s = TRY_PAUSE_S
            self._metrics.retries.labels(self._consumer).inc()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), pause_s)
            if ended.is_set():
                self._outages.gives_up(who)
                return False

    async def _attempt(self, record: Record, failures: int) -> Outcome | None:
        """One try; None where the handler failed for a reason of its own and another try is due."""
        try:
            envelope = decode(record.topic, record.key, record.headers, record.value)
        except MalformedEvent as error:
            return await self._bury(record, str(error), failures + 1)
        if envelope.event is None:
            self._say_unknown(envelope.type, record)
            return Outcome.IGNORED
        handler = self._handlers.get(type(envelope.event))
        if handler is None or not self._relevant(envelope.event):
            return Outcome.IGNORED
        started = time.perf_counter()
        try:
            with span(
                f"handle {envelope.type}",
                kind=SpanKind.CONSUMER,
                parent=envelope.traceparent,
                attributes={"messaging.system": "kafka", "messaging.message.id": envelope.id},
            ):
                outcome = await self._apply(envelope, envelope.event, handler, record)
        except PoisonMessage as error:
            return await self._bury(record, str(error), failures + 1)
        except (RetryLater, DatabaseUnavailable, KafkaUnavailable):
            raise
        except Exception as error:
            if is_infrastructure_error(error):
                raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error
            where = self._where(record) | {"eventId": envelope.id, "eventType": envelope.type}
            if failures + 1 < TRIES:
                log.warning("Handler failed", extra=where, exc_info=True)
                return None
            log.exception("Handler failed; the key is parked", extra=where)
            return await self._park(envelope, record, f"{type(error).__name__}: {error}")
        else:
            if outcome is Outcome.APPLIED:
                age_s = time.time() - envelope.time.timestamp()
                self._metrics.took_effect(self._consumer, envelope.type, max(0.0, age_s))
            return outcome
        finally:
            self._metrics.handled(self._consumer, envelope.type, time.perf_counter() - started)

    async def _apply(self, envelope: Envelope, event: Event, handler: Handler, record: Record) -> Outcome:
        delivery: Delivery[Event] = Delivery(
            envelope, event, record.partition, record.offset, record.received_at
        )
        at_once = self._at_once.get(type(event))
        if at_once is not None:
            async with self._database.connection() as connection:
                done = await at_once(connection, delivery, inbox.note_of(self._consumer, envelope))
            if done is not None:
                self._after_commit(delivery, record)
                return done
        async with self._database.transaction() as connection:
            registration = await self._register(connection, envelope)
            if not registration.fresh:
                return Outcome.DUPLICATE
            if registration.parked and await parking.lock_if_parked(connection, self._consumer, envelope.key):
                await parking.append(connection, self._consumer, envelope, record)
                return Outcome.PARKED
            outcome = await handler(connection, delivery)
        self._after_commit(delivery, record)
        return outcome

    def _after_commit(self, delivery: Delivery[Event], record: Record) -> None:
        try:
            delivery.committed()
        except Exception:  # the effect stands; another try would only meet the inbox
            log.exception("After-commit work failed", extra=self._where(record))

    async def _park(self, envelope: Envelope, record: Record, reason: str) -> Outcome:
        async with self._database.transaction() as connection:
            registration = await self._register(connection, envelope)
            if not registration.fresh:
                return Outcome.DUPLICATE
            await parking.park(connection, self._consumer, envelope, record, reason=reason)
        return Outcome.PARKED

    async def _bury(self, record: Record, reason: str, attempts: int) -> Outcome:
        await self._dead_letters.write(record, reason=reason, attempts=attempts)
        log.error("Dead letter", extra=self._where(record) | {"reason": reason})
        return Outcome.DEAD

    async def _register(self, connection: Connection, envelope: Envelope) -> inbox.Registration:
        return await inbox.register(
            connection,
            consumer=self._consumer,
            event_id=envelope.id,
            event_time=envelope.time,
            key=envelope.key,
        )

    def _say_unknown(self, event_type: str, record: Record) -> None:
        """Once for each type: a newer service may write many of what we do not know yet."""
        name = event_type[:TYPE_LENGTH]
        if name not in self._unknown and len(self._unknown) < UNKNOWN_TYPES:
            self._unknown.add(name)
            log.warning("Unknown event type ignored", extra=self._where(record) | {"eventType": name})

    def _where(self, record: Record) -> dict[str, object]:
        return {
            "consumer": self._consumer,
            "topic": record.topic.name,
            "partition": record.partition,
            "offset": record.offset,
        }


class PartitionWorker:
    """The serial worker of one partition in one epoch. The caller bounds the queue by pausing the partition."""

    def __init__(self, topic: Topic, partition: int, processor: EventProcessor) -> None:
        self._topic = topic
        self._partition = partition
        self._processor = processor
        self._queue: deque[Any] = deque()
        self._filled = asyncio.Event()
        self._ended = asyncio.Event()
        self.position = -1
        """The last contiguous finished offset + 1; -1 before the first."""
        self.committed = -1
        self.task = asyncio.create_task(self._run(), name=f"{topic.name}-{partition}")

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, records: Sequence[Any]) -> None:
        """Queue records of aiokafka, in order."""
        if self.position < 0 and records:
            self.position = self.committed = records[0].offset
        self._queue.extend(records)
        self._filled.set()

    def revoke(self) -> None:
        """End after the event in hand."""
        self._ended.set()
        self._filled.set()

    async def _run(self) -> None:
        while not self._ended.is_set():
            if not self._queue:
                self._filled.clear()
                await self._filled.wait()
                continue
            raw = self._queue[0]
            record = Record(
                topic=self._topic,
                partition=self._partition,
                offset=raw.offset,
                key=raw.key,
                headers=tuple((name, value or b"") for name, value in raw.headers),  # Kafka allows null
                value=raw.value,
                received_at=_moment(raw.timestamp),
            )
            if await self._processor.process(record, self._ended):
                self._queue.popleft()
                self.position = raw.offset + 1


def _moment(timestamp_ms: int) -> datetime:
    """A record's timestamp; the epoch where a producer wrote one that no calendar has, as brokers allow."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _backoff_s(waits: int) -> float:
    ceiling = min(WAIT_MAX_S, WAIT_MIN_S * 2 ** min(waits, 10))
    return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - jitter, not a secret
