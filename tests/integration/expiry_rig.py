"""Expiry's parts on real servers: a timers table and topics of one test alone, and what came out of them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta

from aiokafka import TopicPartition
from aiokafka.admin import NewTopic
from prometheus_client import CollectorRegistry

from deploy.local.stack import LocalStack
from expiry.domain import Firing
from expiry.firing import Firer
from expiry.keeper import Keeper
from expiry.metrics import ExpiryMetrics
from expiry.publisher import Publisher
from expiry.settings import Settings
from expiry.store import Schedule, TimerStore
from expiry.work import Work
from tests.integration.expiry_processes import Client
from tests.integration.service_rig import UNHURRIED
from weelo_common.events.envelope import Envelope, decode
from weelo_common.events.timers import TimerFired
from weelo_common.events.topics import EXPIRY, TIMERS_COMMANDS, TIMERS_FIRED, Topic
from weelo_common.kafka import KafkaClients
from weelo_common.migrate import migrate
from weelo_common.postgres import Database, database_now

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
READ_DEADLINE_S = 30.0
STORE = TimerStore()
TOPICS = (TIMERS_COMMANDS, TIMERS_COMMANDS.dlq(EXPIRY), TIMERS_FIRED)


def settings_for(stack: LocalStack, dsn: str, **others: object) -> Settings:
    """Expiry's settings with topics that nobody else has."""
    return Settings.model_validate(
        {
            "postgres_dsn": dsn,
            "kafka_bootstrap_servers": stack.servers.kafka_bootstrap,
            "kafka_producer_idempotence": stack.servers.kafka_idempotence,
            "kafka_topic_prefix": f"ex{secrets.token_hex(4)}.",
            "http_port": 0,
            **UNHURRIED,
            **others,
        }
    )


@contextlib.contextmanager
def expiry_database(stack: LocalStack) -> Iterator[str]:
    """The DSN of a database of its own, gone at the end."""
    prefix = f"ex{secrets.token_hex(3)}_"
    try:
        yield stack.provision(prefix)["expiry"]
    finally:
        stack.remove(prefix)


async def create_topics(kafka: KafkaClients, *topics: Topic) -> None:
    async with kafka.admin() as admin:
        await admin.create_topics(
            [NewTopic(kafka.topic_name(topic), topic.partitions, 1) for topic in topics]
        )


async def delete_topics(kafka: KafkaClients, *topics: Topic) -> None:
    """Give the broker its memory back."""
    async with kafka.admin() as admin:
        await admin.delete_topics([kafka.topic_name(topic) for topic in topics])


async def empty_tables(settings: Settings) -> None:
    """Tables of the newest version, with nothing in them."""
    async with (
        Database.open(settings, application_name="test") as database,
        database.connection() as conn,
    ):
        await migrate(conn, ["weelo_common", "expiry"])
        await conn.execute("TRUNCATE timers, firings, inbox")


async def fired_events(kafka: KafkaClients, count: int) -> list[Envelope]:
    """The first ``count`` events of ``timers.fired.v1``, those of a partition in the order they were written."""
    consumer = kafka.consumer(group=None)
    await kafka.start_consumer(consumer)
    try:
        name = kafka.topic_name(TIMERS_FIRED)
        consumer.assign([TopicPartition(name, number) for number in range(TIMERS_FIRED.partitions)])
        envelopes: list[Envelope] = []
        async with asyncio.timeout(READ_DEADLINE_S):
            while len(envelopes) < count:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    envelopes += [decode(TIMERS_FIRED, r.key, r.headers, r.value) for r in records]
        return envelopes
    finally:
        await kafka.stop_consumer(consumer)


def timer_of(envelope: Envelope) -> TimerFired:
    assert isinstance(envelope.event, TimerFired)
    return envelope.event


@dataclass
class Replica:
    """The firing half of one replica, without its consumer."""

    work: Work
    keeper: Keeper
    firer: Firer
    metrics: ExpiryMetrics

    async def look_and_fire(self) -> int:
        """One look at the tables, then one round; how many timers it fired."""
        await self.keeper.run_once()
        return await self.firer.run_once()

    async def close(self) -> None:
        """Let go of the producer, as the loop does when it is told to stop."""
        stop = asyncio.Event()
        stop.set()
        await self.firer.run(stop)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for loop in (self.keeper.run, self.firer.run):
                tasks.create_task(loop(stop))
            try:
                yield
            finally:
                stop.set()


@dataclass
class Bench:
    """Empty tables and topics of this test alone."""

    settings: Settings
    database: Database
    kafka: KafkaClients

    @contextlib.asynccontextmanager
    async def replica(
        self, partitions: Collection[int] = range(12), monotonic: Callable[[], float] = time.monotonic
    ) -> AsyncIterator[Replica]:
        """A replica that owns these partitions; its loops do not run yet."""
        work = Work(max_timers=self.settings.hold_max_timers, monotonic=monotonic)
        metrics = ExpiryMetrics(CollectorRegistry())
        replica = Replica(
            work,
            Keeper(work=work, database=self.database, store=STORE, metrics=metrics, settings=self.settings),
            Firer(
                work=work,
                database=self.database,
                store=STORE,
                publisher=Publisher(self.kafka),
                metrics=metrics,
                settings=self.settings,
            ),
            metrics,
        )
        replica.keeper.own(partitions)
        try:
            yield replica
        finally:
            await replica.close()

    async def schedule(
        self, key: str, *, due_in_s: float = -0.3, partition: int = 0, version: int = 1
    ) -> int | None:
        """Put a timer into the table, as the consumer of commands does; its id."""
        async with self.database.connection() as conn:
            timer = Schedule(
                key=f"order-expiry:{key}",
                version=version,
                partition=partition,
                owner="order-api",
                due_at=await database_now(conn) + timedelta(seconds=due_in_s),
                payload='{"wave":2}',
                order_id=key,
                traceparent=TRACEPARENT,
            )
            saved = await STORE.schedule(conn, timer)
        return saved.id

    async def let_come_due(self, key: str) -> None:
        """Let the time of a timer come, for the table alone."""
        async with self.database.connection() as conn:
            await conn.execute("UPDATE timers SET due_at = clock_timestamp() WHERE order_id = $1", key)

    async def claim(self, partition: int = 0) -> Firing:
        """Claim what is due, as a replica does that dies right after it."""
        async with self.database.connection() as conn:
            firing = await STORE.claim_backlog(conn, partition, limit=100)
        assert firing is not None
        return firing

    async def abandon(self) -> None:
        """Let a minute pass for all firings that are open."""
        async with self.database.connection() as conn:
            await conn.execute("UPDATE firings SET worked_at = worked_at - interval '1 minute'")

    async def states(self) -> dict[str, str]:
        async with self.database.connection() as conn:
            rows = await conn.fetch("SELECT order_id, state FROM timers ORDER BY order_id")
        return {row["order_id"]: row["state"] for row in rows}

    async def settled(self, client: Client) -> dict[str, tuple[int, str]]:
        """Version and state of every key, once nothing is pending or on its way and all that fired has come."""
        async with asyncio.timeout(READ_DEADLINE_S):
            while True:
                async with self.database.connection() as conn:
                    rows = await conn.fetch("SELECT timer_key, version, state FROM timers")
                if not await self.open_firings() and all(row["state"] != "pending" for row in rows):
                    break
                await asyncio.sleep(0.1)
        fired = [(row["timer_key"], row["version"]) for row in rows if row["state"] == "fired"]
        await client.until(
            lambda: all(firing in client.fired for firing in fired), "all came that fired", READ_DEADLINE_S
        )
        return {row["timer_key"]: (row["version"], row["state"]) for row in rows}

    async def open_firings(self) -> int:
        async with self.database.connection() as conn:
            count: int = await conn.fetchval("SELECT count(*) FROM firings")
        return count


@contextlib.asynccontextmanager
async def bench_on(settings: Settings) -> AsyncIterator[Bench]:
    """A bench; its topics are made by the test, and deleted at the end."""
    await empty_tables(settings)
    kafka = KafkaClients(settings, client_id="test")
    async with Database.open(settings, application_name="test") as database:
        try:
            yield Bench(settings, database, kafka)
        finally:
            await delete_topics(kafka, *TOPICS)
