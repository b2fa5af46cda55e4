"""Replays parked keys that an operator has asked for, in the service that parked them, with its own handlers.

The request is a mark on the key's row (``weelo parked replay``). Any replica may take it: each event is applied under
the row lock that a consumer takes before it appends, so two replicas take turns and no event slips past the queue. The
inbox is not asked: a parked event has its row there since the day it was parked. Only what turns out to be poison loses
that row, so that ``weelo dlq retry`` finds no repeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from weelo_common import inbox, parking
from weelo_common.dead_letters import DeadLetters
from weelo_common.delivery import Delivery, Handler, PoisonMessage, RetryLater
from weelo_common.events import Envelope, Event
from weelo_common.kafka import KafkaUnavailable
from weelo_common.outage_log import OutageLog
from weelo_common.parking import REASON_LENGTH, Record
from weelo_common.postgres import Connection, Database, DatabaseUnavailable, is_infrastructure_error

log = logging.getLogger(__name__)

LOOK_PERIOD_S = 1.0  # an operator waits no longer than this for the beginning
KEYS_A_LOOK = 100

SELECT_ASKED = """
SELECT key FROM parked_key WHERE consumer = $1 AND replay_asked_at IS NOT NULL ORDER BY replay_asked_at LIMIT $2
"""
NOTE_FAILURE = """
UPDATE parked_key SET replay_asked_at = NULL, replay_error = $3 WHERE consumer = $1 AND key = $2
"""


class ReplayMetrics(Protocol):
    """What a replay counts into: apart from what is consumed."""

    replayed: Any


class Replayer:
    """Looks for requests, and applies what is parked under them."""

    def __init__(
        self,
        consumer: str,
        handlers: Mapping[type[Event], Handler],
        database: Database,
        dead_letters: DeadLetters,
        metrics: ReplayMetrics,
    ) -> None:
        self._consumer = consumer
        self._handlers = handlers
        self._database = database
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._topics = {event.TOPIC.name: event.TOPIC for event in handlers}
        self._outages = OutageLog(log, begins="Replay waits", ends="Replay goes on")

    async def run(self, stop: asyncio.Event) -> None:
        """Look for requests until stopped; what is asked for while a server is away is done when it is back."""
        who = {"consumer": self._consumer}
        while not stop.is_set():
            try:
                await self.run_once(stop)
            except (DatabaseUnavailable, KafkaUnavailable) as error:
                self._outages.waits(str(error), extra=who)
            else:
                self._outages.goes_on(extra=who)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_PERIOD_S)

    async def run_once(self, stop: asyncio.Event) -> int:
        """Replay every key that is asked for, until stopped; how many events were applied.

        Raises:
            DatabaseUnavailable, KafkaUnavailable: what is left stays asked for.
        """
        async with self._database.connection() as connection:
            keys = [row["key"] for row in await connection.fetch(SELECT_ASKED, self._consumer, KEYS_A_LOOK)]
        return sum([await self._replay(key, stop) for key in keys])

    async def _replay(self, key: str, stop: asyncio.Event) -> int:
        where = {"consumer": self._consumer, "parkedKey": key}
        committed: list[Callable[[], None]] = []

        async def handle(connection: Connection, envelope: Envelope, record: Record) -> None:
            if stop.is_set():
                raise RetryLater(0, "the service stops")
            committed[:] = [await self._handle(connection, envelope, record)]

        def after_commit() -> None:
            self._metrics.replayed.labels(self._consumer).inc()
            try:
                committed.pop()()
            except Exception:  # the effect stands, and the event is no longer parked
                log.exception("After-commit work failed", extra=where)

        try:
            applied = await parking.replay(
                self._database, self._consumer, key, self._topics, handle, after_commit
            )
        except RetryLater as later:
            log.info("Replay goes on later", extra=where | {"reason": str(later)})
            return 0
        except (DatabaseUnavailable, KafkaUnavailable):
            raise
        except Exception as error:
            if is_infrastructure_error(error):
                raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error
            log.exception("Replay failed; the key stays parked", extra=where)
            await self._note_failure(key, f"{type(error).__name__}: {error}")
            return 0
        log.info("Parked key replayed", extra=where | {"events": applied})
        return applied

    async def _handle(self, connection: Connection, envelope: Envelope, record: Record) -> Callable[[], None]:
        """Apply one event in the caller's transaction; answers what is to be done after the commit."""
        handler = None if envelope.event is None else self._handlers.get(type(envelope.event))
        if envelope.event is None or handler is None:
            return _nothing  # a type that this version of the service ignores
        delivery: Delivery[Event] = Delivery(
            envelope, envelope.event, record.partition, record.offset, record.received_at
        )
        try:
            async with (
                connection.transaction()
            ):  # what poison had begun goes, its removal from the queue stays
                await handler(connection, delivery)
        except PoisonMessage as error:
            await inbox.forget(
                connection, consumer=self._consumer, event_id=envelope.id, event_time=envelope.time
            )
            await self._dead_letters.write(record, reason=str(error), attempts=1)
            log.error(  # noqa: TRY400 - the reason says it all, as in the consumer
                "Dead letter",
                extra={"consumer": self._consumer, "eventId": envelope.id, "reason": str(error)},
            )
            return _nothing
        return delivery.committed

    async def _note_failure(self, key: str, reason: str) -> None:
        storable = reason.replace("\x00", "").encode(errors="replace").decode()  # it may quote the event
        async with self._database.transaction() as connection:
            await connection.execute(NOTE_FAILURE, self._consumer, key, storable[:REASON_LENGTH])


def _nothing() -> None:
    """Nothing is left for after the commit."""
