"""Firing on a real PostgreSQL and a real Kafka: what is due is published, through trouble and crashes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic
from prometheus_client import CollectorRegistry

from deploy.local.stack import LocalStack
from expiry.firing import Firer
from expiry.metrics import ExpiryMetrics
from expiry.publisher import Publisher
from expiry.settings import Settings
from expiry.store import TimerStore
from weelo_common.events.envelope import Envelope, decode
from weelo_common.events.timers import TimerFired
from weelo_common.events.topics import TIMERS_FIRED
from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.migrate import migrate
from weelo_common.postgres import Database, database_now

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = TRACEPARENT.split("-")[1]
READ_DEADLINE_S = 20.0
STORE = TimerStore()


@pytest.fixture(scope="module")
def dsn(stack: LocalStack) -> Iterator[str]:
    prefix = f"ex{secrets.token_hex(3)}_"
    yield stack.provision(prefix)["expiry"]
    stack.remove(prefix)


@dataclass
class Bench:
    """An empty timers table and a topic of this test alone, which is not made yet."""

    settings: Settings
    database: Database
    kafka: KafkaClients

    def firer(self, monotonic: Callable[[], float] = time.monotonic) -> Firer:
        return Firer(
            database=self.database,
            store=STORE,
            publisher=Publisher(self.kafka),
            metrics=ExpiryMetrics(CollectorRegistry()),
            settings=self.settings,
            monotonic=monotonic,
        )

    async def create_topic(self) -> None:
        async with self.kafka.admin() as admin:
            topic = NewTopic(self.kafka.topic_name(TIMERS_FIRED), TIMERS_FIRED.partitions, 1)
            await admin.create_topics([topic])

    async def schedule(
        self, key: str, *, due_in_s: float = -0.01, partition: int = 0, version: int = 1
    ) -> None:
        async with self.database.connection() as conn:
            await STORE.schedule(
                conn,
                key=f"order-expiry:{key}",
                version=version,
                partition=partition,
                owner="order-api",
                due_at=await database_now(conn) + timedelta(seconds=due_in_s),
                payload='{"wave":2}',
                order_id=key,
                traceparent=TRACEPARENT,
            )

    async def states(self) -> dict[str, str]:
        async with self.database.connection() as conn:
            rows = await conn.fetch("SELECT order_id, state FROM timers ORDER BY order_id")
        return {row["order_id"]: row["state"] for row in rows}

    async def fired(self, count: int) -> list[Envelope]:
        """The first ``count`` events of the topic, in the order they were written to their partitions."""
        consumer = self.kafka.consumer(group=None)
        await self.kafka.start_consumer(consumer)
        try:
            name = self.kafka.topic_name(TIMERS_FIRED)
            consumer.assign([TopicPartition(name, number) for number in range(TIMERS_FIRED.partitions)])
            envelopes: list[Envelope] = []
            async with asyncio.timeout(READ_DEADLINE_S):
                while len(envelopes) < count:
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        envelopes += [decode(TIMERS_FIRED, r.key, r.headers, r.value) for r in records]
            return envelopes
        finally:
            await self.kafka.stop_consumer(consumer)


@pytest.fixture
async def bench(stack: LocalStack, dsn: str) -> AsyncIterator[Bench]:
    settings = Settings(
        postgres_dsn=dsn,
        kafka_bootstrap_servers=stack.servers.kafka_bootstrap,
        kafka_producer_idempotence=stack.servers.kafka_idempotence,
        kafka_topic_prefix=f"ex{secrets.token_hex(4)}.",
        kafka_request_deadline_s=2,
        fire_batch_timers=10,
        http_port=0,
    )
    async with Database.open(settings, application_name="test") as database:
        async with database.connection() as conn:
            await migrate(conn, ["weelo_common", "expiry"])
            await conn.execute("TRUNCATE timers")
        yield Bench(settings, database, KafkaClients(settings, client_id="test"))


@contextlib.asynccontextmanager
async def closing(firer: Firer) -> AsyncIterator[Firer]:
    """Let go of the firer's producer at the end, as its loop does when it is told to stop."""
    try:
        yield firer
    finally:
        stop = asyncio.Event()
        stop.set()
        await firer.run(stop)


@contextlib.asynccontextmanager
async def running(firer: Firer) -> AsyncIterator[Firer]:
    stop = asyncio.Event()
    task = asyncio.create_task(firer.run(stop))
    try:
        yield firer
    finally:
        stop.set()
        await task


async def test_a_due_timer_is_published_with_all_that_its_owner_gave(bench: Bench) -> None:
    await bench.create_topic()
    await bench.schedule("o-1")
    async with closing(bench.firer()) as firer:
        firer.own({0})
        assert await firer.run_once() == 1
        assert await firer.run_once() == 0
    (envelope,) = await bench.fired(1)
    event = envelope.event
    assert isinstance(event, TimerFired)
    assert (event.timer_key, event.version, event.owner) == ("order-expiry:o-1", 1, "order-api")
    assert (event.payload, event.order_id, envelope.key) == ({"wave": 2}, "o-1", "o-1")
    assert event.fired_at >= event.due_at
    assert envelope.id == event.event_id()
    assert envelope.source == "/weelo/expiry"
    assert envelope.traceparent is not None
    assert envelope.traceparent.split("-")[1] == TRACE_ID
    assert await bench.states() == {"o-1": "fired"}


async def test_timers_of_partitions_owned_elsewhere_stay(bench: Bench) -> None:
    await bench.create_topic()
    await bench.schedule("mine", partition=4)
    await bench.schedule("theirs", partition=5)
    async with closing(bench.firer()) as firer:
        firer.own({4})
        assert await firer.run_once() == 1
    assert await bench.states() == {"mine": "fired", "theirs": "pending"}


async def test_the_loop_fires_a_new_timer_in_its_time_and_never_early(bench: Bench) -> None:
    await bench.create_topic()
    async with running(bench.firer()) as firer:
        firer.own(range(12))
        await bench.schedule("o-1", due_in_s=0.5)
        firer.note(0, time.monotonic() + 0.5)
        (envelope,) = await bench.fired(1)
    assert isinstance(envelope.event, TimerFired)
    assert envelope.event.fired_at >= envelope.event.due_at


async def test_what_memory_was_not_told_of_is_found_by_the_next_look(bench: Bench) -> None:
    await bench.create_topic()
    async with running(bench.firer()) as firer:
        firer.own(range(12))
        await bench.schedule("o-1", due_in_s=0.2, partition=7)
        assert len(await bench.fired(1)) == 1


async def test_a_crash_before_the_mark_fires_again_with_the_same_event_id(bench: Bench) -> None:
    await bench.create_topic()
    await bench.schedule("o-1")
    publisher = Publisher(bench.kafka)
    async with bench.database.connection() as conn:
        claim = await STORE.claim(conn, 0, fresh_s=1, limit=10)
    assert len(await publisher.publish(claim.timers)) == 1
    await publisher.close()  # and here the process dies
    async with closing(bench.firer()) as successor:
        successor.own({0})
        assert await successor.run_once() == 1
    first, second = await bench.fired(2)
    assert first == second
    assert await bench.states() == {"o-1": "fired"}


async def test_a_crash_before_the_publish_fires_rather_than_never(bench: Bench) -> None:
    await bench.create_topic()
    await bench.schedule("o-1")
    async with bench.database.connection() as conn:
        await STORE.claim(conn, 0, fresh_s=1, limit=10)  # and here the process dies
    async with closing(bench.firer()) as successor:
        successor.own({0})
        assert await successor.run_once() == 1
    assert len(await bench.fired(1)) == 1


async def test_a_claim_of_an_owner_that_lost_its_partition_and_died_is_finished(bench: Bench) -> None:
    await bench.create_topic()
    now_s = 0.0
    async with closing(bench.firer(lambda: now_s)) as firer:
        firer.own({0})
        assert await firer.run_once() == 0
        await bench.schedule("o-1")
        async with bench.database.connection() as conn:
            await STORE.claim(conn, 0, fresh_s=1, limit=10)
            await conn.execute("UPDATE timers SET updated_at = updated_at - interval '1 minute'")
        assert await firer.run_once() == 0
        now_s = bench.settings.kafka_request_deadline_s  # time for the next search
        assert await firer.run_once() == 1
    assert await bench.states() == {"o-1": "fired"}


async def test_what_kafka_did_not_take_is_fired_once_it_does(bench: Bench) -> None:
    await bench.schedule("o-1")
    await bench.schedule("o-2", partition=3)
    async with closing(bench.firer()) as firer:
        firer.own({0, 3})
        with pytest.raises(KafkaUnavailable):  # there is no such topic yet
            await firer.run_once()
        assert await bench.states() == {"o-1": "firing", "o-2": "firing"}
        await bench.create_topic()
        assert await firer.run_once() == 2
    assert await bench.states() == {"o-1": "fired", "o-2": "fired"}
    assert len(await bench.fired(2)) == 2


async def test_a_timer_moved_while_its_firing_failed_fires_once_at_its_new_time(bench: Bench) -> None:
    await bench.schedule("o-1")
    async with closing(bench.firer()) as firer:
        firer.own({0})
        with pytest.raises(KafkaUnavailable):
            await firer.run_once()
        await bench.schedule("o-1", version=2)
        await bench.create_topic()
        assert await firer.run_once() == 1
    (envelope,) = await bench.fired(1)
    assert isinstance(envelope.event, TimerFired)
    assert envelope.event.version == 2


async def test_a_backlog_drains_in_batches_while_a_new_timer_is_on_time(bench: Bench) -> None:
    await bench.create_topic()
    for number in range(25):
        await bench.schedule(f"old-{number:02}", due_in_s=-600 + number)
    await bench.schedule("new", due_in_s=-0.01)
    async with closing(bench.firer()) as firer:
        firer.own({0})
        assert await firer.run_once() == 11  # a batch of the backlog, and the new one
        assert (await bench.states())["new"] == "fired"
        assert [await firer.run_once() for _ in range(3)] == [10, 5, 0]
    assert set((await bench.states()).values()) == {"fired"}
