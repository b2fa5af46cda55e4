"""What tests of the consumer loop share: one member of a group whose handler does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from prometheus_client import CollectorRegistry

from deploy.local.stack import LocalStack
from tests.integration.events_rig import GROUP, ORDERS_EVENTS, PATIENCE_S, EventsRig, events_rig, filled
from weelo_common.consumer import Consumer, ConsumerMetrics
from weelo_common.delivery import Delivery, Outcome
from weelo_common.events import OrderFullyFilled, encode, seal
from weelo_common.kafka import KafkaClients
from weelo_common.postgres import Connection

CREATE_EFFECTS = (
    "CREATE TABLE effect (id bigint GENERATED ALWAYS AS IDENTITY, order_id text, version integer)"
)
NOTE = "INSERT INTO effect (order_id, version) VALUES ($1, $2)"
# A handler that a test holds back stays in its transaction, and a machine under load is slow to connect: neither may
# end a test before its patience does.
UNHURRIED = {
    "postgres_idle_in_transaction_timeout_s": 3 * PATIENCE_S,
    "postgres_connect_deadline_s": PATIENCE_S,
    "postgres_acquire_deadline_s": PATIENCE_S,
}


# Fixtures that a module takes by name: ``rig, producer = consumer_rig.rig, consumer_rig.producer``.


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[EventsRig]:
    """A rig whose database has the table that a ``Member`` writes to."""
    async with events_rig(stack, **UNHURRIED) as made:
        async with made.database.connection() as connection:
            await connection.execute(CREATE_EFFECTS)
        yield made


@pytest.fixture
async def producer(rig: EventsRig) -> AsyncIterator[AIOKafkaProducer]:
    """Connected to the rig's brokers."""
    made = await rig.kafka.start_producer()
    yield made
    await rig.kafka.stop_producer(made)


class PatientClients(KafkaClients):
    """For tests that count on the last commit: a stop waits for it longer than a service would."""

    async def commit(
        self,
        consumer: AIOKafkaConsumer,
        offsets: Mapping[TopicPartition, int],
        deadline_s: float | None = None,
    ) -> None:
        await super().commit(consumer, offsets, PATIENCE_S)


def patient(rig: EventsRig) -> EventsRig:
    """The same rig for a member whose last commit counts."""
    return replace(rig, kafka=PatientClients(rig.settings, client_id="test"))


async def _nothing_more(connection: Connection, event: OrderFullyFilled) -> None:
    return None


@dataclass
class Member:
    """One member of the group, with what its handler is told to do."""

    rig: EventsRig
    trouble: Callable[[OrderFullyFilled], Exception | None] = lambda event: None
    also: Callable[[Connection, OrderFullyFilled], Awaitable[None]] = _nothing_more
    group: str = GROUP
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    committed: list[tuple[str, int]] = field(default_factory=list)

    async def handle(self, connection: Connection, delivery: Delivery[OrderFullyFilled]) -> Outcome:
        event = delivery.event
        await connection.execute(NOTE, event.order_id, event.order_version)
        await self.also(connection, event)
        if error := self.trouble(event):
            raise error
        delivery.after_commit(lambda: self.committed.append((event.order_id, event.order_version)))
        return Outcome.APPLIED

    def consumer(self) -> Consumer:
        return Consumer(
            group=self.group,
            handlers={OrderFullyFilled: self.handle},
            database=self.rig.database,
            kafka=self.rig.kafka,
            settings=self.rig.settings,
            metrics=ConsumerMetrics(self.registry),
        )

    def count(self, outcome: str) -> int:
        return int(
            self.registry.get_sample_value(f"weelo_consumer_{outcome}_total", {"consumer": self.group}) or 0
        )

    def adds_up(self) -> bool:
        parts = ("applied", "duplicate", "ignored", "parked", "dead")
        return self.count("consumed") == sum(self.count(part) for part in parts)


@contextlib.asynccontextmanager
async def consuming(*members: Member) -> AsyncIterator[list[Consumer]]:
    stop = asyncio.Event()
    consumers = [member.consumer() for member in members]
    tasks = [asyncio.create_task(consumer.run(stop)) for consumer in consumers]
    try:
        yield consumers
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def send(
    rig: EventsRig, producer: AIOKafkaProducer, order_id: str, version: int, event_id: str | None = None
) -> None:
    envelope = seal(filled(order_id, version), source="order-api", time=datetime.now(UTC), event_id=event_id)
    headers, value = encode(envelope)
    await producer.send_and_wait(
        rig.kafka.topic_name(ORDERS_EVENTS), value, key=order_id.encode(), headers=headers
    )


async def effects(rig: EventsRig) -> list[tuple[str, int]]:
    async with rig.database.connection() as connection:
        rows = await connection.fetch("SELECT order_id, version FROM effect ORDER BY id")
    return [(row["order_id"], row["version"]) for row in rows]
