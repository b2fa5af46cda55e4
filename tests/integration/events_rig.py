"""What tests of the Kafka mechanisms share: a fresh database and fresh topics on the run's servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from aiokafka import TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from deploy.local.stack import LocalStack
from tests.integration.service_rig import UNHURRIED
from weelo_common.events import OrderFullyFilled
from weelo_common.events.topics import ORDERS_EVENTS, Topic
from weelo_common.kafka import KafkaClients
from weelo_common.migrate import migrate
from weelo_common.postgres import Database
from weelo_common.relay import Relay
from weelo_common.settings import ServiceSettings

GROUP = "dispatcher"  # whose dead letters have a topic
PATIENCE_S = 30.0
COUNT_LOCK_WAITS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@dataclass
class EventsRig:
    """A database with the common tables, clients for topics of its own, and a registry."""

    settings: ServiceSettings
    database: Database
    relay_database: Database
    kafka: KafkaClients
    registry: CollectorRegistry

    async def lock_wait(self) -> None:
        """Return once some transaction of this database waits for another's lock."""
        async with asyncio.timeout(PATIENCE_S), self.database.connection() as connection:
            while True:
                if await connection.fetchval(COUNT_LOCK_WAITS):
                    return
                await asyncio.sleep(0.01)

    async def records(self, topic: Topic, count: int) -> list[ConsumerRecord]:
        """All records of a topic, partition by partition, once there are ``count`` of them."""
        consumer = self.kafka.consumer(group=None)
        await self.kafka.start_consumer(consumer)
        try:
            name = self.kafka.topic_name(topic)
            partitions = [TopicPartition(name, number) for number in range(topic.partitions)]
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            found: list[ConsumerRecord] = []
            async with asyncio.timeout(PATIENCE_S):
                while len(found) < count:
                    for batch in (await consumer.getmany(timeout_ms=100)).values():
                        found.extend(batch)
            return found
        finally:
            await self.kafka.stop_consumer(consumer)


@contextlib.asynccontextmanager
async def events_rig(stack: LocalStack, **changed: object) -> AsyncIterator[EventsRig]:
    """A rig that lasts for one test; ``changed`` are settings other than the usual ones."""
    prefix = f"t{uuid4().hex[:8]}_"
    dsns = await asyncio.to_thread(stack.provision, prefix)
    settings = ServiceSettings.model_validate(
        {
            "postgres_dsn": dsns["order-api"],
            "kafka_bootstrap_servers": stack.servers.kafka_bootstrap,
            "kafka_topic_prefix": prefix.replace("_", "."),
            "kafka_replication_factor": 1,
            "kafka_session_timeout_s": 6,
            "http_port": 0,
            **UNHURRIED,
        }
        | changed
    )
    kafka = KafkaClients(settings, client_id="test")
    # These and no more, and gone at the end: a broker that keeps thousands of partitions of tests runs out of memory.
    topics = {
        kafka.topic_name(topic): topic.partitions for topic in (ORDERS_EVENTS, ORDERS_EVENTS.dlq(GROUP))
    }
    async with kafka.admin() as admin:
        await admin.create_topics([NewTopic(name, partitions, 1) for name, partitions in topics.items()])
    try:
        async with (
            Database.open(settings, application_name="test") as database,
            Relay.database(settings, "test") as relay_database,
        ):
            async with database.connection() as connection:
                await migrate(connection, ["weelo_common"])
            yield EventsRig(settings, database, relay_database, kafka, CollectorRegistry())
    finally:
        async with kafka.admin() as admin:
            await admin.delete_topics(list(topics))
        await asyncio.to_thread(stack.remove, prefix)


@contextlib.asynccontextmanager
async def relaying(*relays: Relay) -> AsyncIterator[None]:
    """Relays that run meanwhile."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(relay.run(stop)) for relay in relays]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until a condition of this process holds; fails with ``what`` after a while."""
    deadline = asyncio.get_running_loop().time() + patience_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"never came: {what}")
        await asyncio.sleep(0.01)


def filled(order_id: str, version: int) -> OrderFullyFilled:
    """A small event of an order."""
    return OrderFullyFilled(
        order_id=order_id,
        order_version=version,
        customer_id="c-1",
        status="fully_filled",
        searching=False,
        trucks_filled=1,
        total_trucks=1,
        occurred_at=datetime.now(UTC),
    )


__all__ = ["GROUP", "ORDERS_EVENTS", "EventsRig", "events_rig", "filled", "relaying", "until"]
