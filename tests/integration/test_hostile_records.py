"""Records and rows that no honest producer makes: each ends somewhere, and nothing goes down or waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client import CollectorRegistry

from deploy.local.stack import LocalStack
from tests.integration.events_rig import ORDERS_EVENTS, EventsRig, events_rig, filled, until
from weelo_common import inbox
from weelo_common.consumer import Consumer, ConsumerMetrics
from weelo_common.dead_letters import DeadLetters
from weelo_common.delivery import Delivery, Outcome
from weelo_common.events import OrderFullyFilled, encode, seal
from weelo_common.parking import Record
from weelo_common.postgres import Connection, Database, is_infrastructure_error

GROUP = "dispatcher"
SOMEBODY_WAITS = """
SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database
                WHERE NOT granted AND datname = current_database())
"""


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[EventsRig]:
    async with events_rig(stack) as made:
        yield made


class Reader:
    """A member of the group whose handler does what it is told."""

    def __init__(self, rig: EventsRig, error: Exception | None = None) -> None:
        self._rig = rig
        self._error = error
        self.registry = CollectorRegistry()

    async def handle(self, connection: Connection, delivery: Delivery[OrderFullyFilled]) -> Outcome:
        if self._error is not None:
            raise self._error
        return Outcome.APPLIED

    def count(self, outcome: str) -> float | None:
        return self.registry.get_sample_value(f"weelo_consumer_{outcome}_total", {"consumer": GROUP})

    async def reads(self, count: int) -> None:
        """Consume until so many records have ended."""
        consumer = Consumer(
            group=GROUP,
            handlers={OrderFullyFilled: self.handle},
            database=self._rig.database,
            kafka=self._rig.kafka,
            settings=self._rig.settings,
            metrics=ConsumerMetrics(self.registry),
        )
        stop = asyncio.Event()
        running = asyncio.create_task(consumer.run(stop))
        try:
            await until(lambda: running.done() or self.count("consumed") == count, f"{count} records")
        finally:
            stop.set()
            await running


async def send(rig: EventsRig, key: str, extra: list[tuple[str, Any]] | None = None, **options: Any) -> None:
    """One event as a hostile producer would send it."""
    envelope = seal(filled(key, 1), source="order-api", time=datetime.now(UTC))
    headers, value = encode(envelope)
    producer = AIOKafkaProducer(
        bootstrap_servers=rig.settings.kafka_bootstrap_servers,
        compression_type="gzip",
        max_request_size=20_000_000,
    )
    await producer.start()
    try:
        await producer.send_and_wait(
            rig.kafka.topic_name(ORDERS_EVENTS),
            options.pop("value", value),
            key=key.encode(),
            headers=[*headers, *(extra or [])],
            **options,
        )
    finally:
        await producer.stop()


@pytest.mark.parametrize("moment_ms", [-(10**15), -(2**62)])
async def test_a_timestamp_that_no_calendar_has_stops_no_consumer(rig: EventsRig, moment_ms: int) -> None:
    await send(rig, "o1", timestamp_ms=moment_ms)
    await send(rig, "o1")
    reader = Reader(rig)
    await reader.reads(2)
    assert reader.count("applied") == 2


async def test_a_record_larger_unpacked_than_any_producer_sends_is_dead_lettered_cut(rig: EventsRig) -> None:
    await send(rig, "o1", value=b"\x00" * 2_000_000)
    await send(rig, "o1", extra=[(f"h{number}", b"v" * 1000) for number in range(2000)], value=b"{")
    await send(rig, "o1")
    reader = Reader(rig)
    await reader.reads(3)
    assert (reader.count("dead"), reader.count("applied")) == (2, 1)
    for letter in await rig.records(ORDERS_EVENTS.dlq(GROUP), 2):
        headers = dict(letter.headers)
        assert headers["dlq-truncated"] == b"true"
        assert headers["dlq-topic"] == b"orders.events.v1"


async def test_a_record_without_key_and_value_can_be_dead_lettered(rig: EventsRig) -> None:
    letters = DeadLetters(rig.kafka, GROUP)
    empty = Record(ORDERS_EVENTS, 3, 7, None, (), None, datetime.now(UTC))
    try:
        await letters.write(empty, reason="empty\ud800", attempts=1)
    finally:
        await letters.close()
    (letter,) = await rig.records(ORDERS_EVENTS.dlq(GROUP), 1)
    assert dict(letter.headers)["dlq-offset"] == b"7"


async def test_an_event_with_a_null_header_whose_handler_fails_is_parked(rig: EventsRig) -> None:
    await send(rig, "o1", extra=[("nothing", None)])
    reader = Reader(rig, ValueError("a defect that quotes \x00 and \ud800"))
    await reader.reads(1)
    assert reader.count("parked") == 1


async def test_a_consumer_tells_zeros_before_its_first_event(rig: EventsRig) -> None:
    reader = Reader(rig)
    await reader.reads(0)
    assert reader.count("consumed") == reader.count("parked") == 0


async def test_a_day_is_given_its_partition_while_consumers_fill_the_default_one(rig: EventsRig) -> None:
    first_day = datetime.now(UTC) - timedelta(days=1)  # of those that the sweep makes
    database = rig.database

    async def register(connection: Connection, event_id: str) -> inbox.Registration:
        return await inbox.register(
            connection, consumer=GROUP, event_id=event_id, event_time=first_day, key="o1"
        )

    async with database.transaction() as connection:
        await register(connection, "before")
        keeping = asyncio.create_task(keep_days(database))
        await waits_for_a_lock(database)  # the sweep has looked, or waits to look
        await register(connection, "meanwhile")
    assert await keeping >= 4
    async with database.transaction() as connection:
        assert not (await register(connection, "before")).fresh
        assert not (await register(connection, "meanwhile")).fresh
    async with database.connection() as connection:
        left = await connection.fetchval(
            "SELECT count(*) FROM inbox_default WHERE day >= $1", first_day.date()
        )
    assert left == 0


async def test_a_migration_under_a_prepared_statement_is_no_defect_of_the_request(rig: EventsRig) -> None:
    async with rig.database.connection() as other:
        await other.execute("CREATE TABLE changing (id integer)")
        async with rig.database.connection() as connection:
            await connection.fetch("SELECT * FROM changing")
            await other.execute("ALTER TABLE changing ADD COLUMN more integer")
            with pytest.raises(asyncpg.InvalidCachedStatementError) as caught:
                async with connection.transaction():
                    await connection.fetch("SELECT * FROM changing")
            assert is_infrastructure_error(caught.value)
            async with connection.transaction():
                await connection.fetch("SELECT * FROM changing")


async def keep_days(database: Database) -> int:
    async with database.transaction() as connection:
        return await inbox.keep_inbox_days(connection)


async def waits_for_a_lock(database: Database) -> None:
    """Return once some session of this database waits for a lock."""
    async with asyncio.timeout(20), database.connection() as connection:
        while not await connection.fetchval(SOMEBODY_WAITS):
            await connection.execute("SELECT pg_sleep(0.01)")
