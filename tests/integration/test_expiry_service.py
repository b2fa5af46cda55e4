"""The whole of expiry on real servers: commands in by Kafka, TimerFired out by Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from deploy.local.stack import LocalStack
from expiry.main import build
from expiry.settings import Settings
from tests.integration.events_rig import until
from tests.integration.expiry_rig import (
    TOPICS,
    create_topics,
    delete_topics,
    empty_tables,
    expiry_database,
    settings_for,
)
from weelo_common.events.envelope import Event, decode, encode, seal
from weelo_common.events.timers import MAX_PAYLOAD_BYTES, TimerCancelled, TimerFired, TimerScheduled
from weelo_common.events.topics import EXPIRY, TIMERS_COMMANDS, TIMERS_FIRED, Topic
from weelo_common.kafka import KafkaClients
from weelo_common.lifecycle import Lifecycle, running

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DEADLINE_S = 30.0


def scheduled(
    key: str, *, due_in_s: float = 0.0, version: int = 1, payload: dict[str, str] | None = None
) -> TimerScheduled:
    return TimerScheduled(
        timer_key=f"order-expiry:{key}",
        version=version,
        owner="order-api",
        due_at=datetime.now(UTC) + timedelta(seconds=due_in_s),
        payload=dict(payload or {}),
        order_id=key,
    )


def cancelled(key: str, *, version: int = 1) -> TimerCancelled:
    return TimerCancelled(timer_key=f"order-expiry:{key}", version=version, order_id=key)


class Broker:
    """Sends commands and reads what comes of them, as other services do."""

    def __init__(self, kafka: KafkaClients, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer) -> None:
        self._kafka = kafka
        self._producer = producer
        self._consumer = consumer
        self._seen: list[TimerFired] = []
        self.traceparents: dict[str, str | None] = {}

    async def send(self, *events: Event, event_id: str | None = None) -> None:
        for event in events:
            envelope = seal(event, source="order-api", time=datetime.now(UTC), event_id=event_id)
            headers, value = encode(envelope, TRACEPARENT)
            await self.send_raw(envelope.topic, envelope.key.encode(), headers, value)

    async def send_raw(
        self, topic: Topic, key: bytes, headers: list[tuple[str, bytes]], value: bytes
    ) -> None:
        name = self._kafka.topic_name(topic)
        await asyncio.wait_for(
            self._producer.send_and_wait(name, value, key=key, headers=headers), DEADLINE_S
        )

    async def fired_until(self, *last: str) -> list[TimerFired]:
        """All firings so far, once those of the orders named ``last`` are among them."""
        async with asyncio.timeout(DEADLINE_S):
            while not set(last) <= {event.order_id for event in self._seen}:
                for records in (await self._consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        envelope = decode(TIMERS_FIRED, record.key, record.headers, record.value)
                        assert isinstance(envelope.event, TimerFired)
                        self._seen.append(envelope.event)
                        self.traceparents[envelope.key] = envelope.traceparent
        return self._seen

    async def dead_letters(self, count: int) -> dict[str, str]:
        """The reasons of the first dead letters, by the key of their command."""
        consumer = self._kafka.consumer(group=None)
        await self._kafka.start_consumer(consumer)
        reasons: dict[str, str] = {}
        try:
            consumer.assign([TopicPartition(self._kafka.topic_name(TIMERS_COMMANDS.dlq(EXPIRY)), 0)])
            async with asyncio.timeout(DEADLINE_S):
                while len(reasons) < count:
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        for record in records:
                            reasons[record.key.decode()] = dict(record.headers)["dlq-reason"].decode()
        finally:
            await self._kafka.stop_consumer(consumer)
        return reasons


@pytest.fixture(scope="module")
def dsn(stack: LocalStack) -> Iterator[str]:
    with expiry_database(stack) as made:
        yield made


@pytest.fixture
async def settings(stack: LocalStack, dsn: str) -> AsyncIterator[Settings]:
    settings = settings_for(stack, dsn)
    await empty_tables(settings)
    kafka = KafkaClients(settings, client_id="test")
    await create_topics(kafka, *TOPICS)
    yield settings
    await delete_topics(kafka, *TOPICS)


@pytest.fixture
async def broker(settings: Settings) -> AsyncIterator[Broker]:
    kafka = KafkaClients(settings, client_id="test")
    producer = await kafka.start_producer()
    consumer = kafka.consumer(group=None)
    await kafka.start_consumer(consumer)
    name = kafka.topic_name(TIMERS_FIRED)
    consumer.assign([TopicPartition(name, number) for number in range(TIMERS_FIRED.partitions)])
    try:
        yield Broker(kafka, producer, consumer)
    finally:
        await kafka.stop_consumer(consumer)
        await kafka.stop_producer(producer)


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Lifecycle]:
    async with running(build, settings) as life:
        yield life


async def test_a_scheduled_timer_fires_after_its_time_with_the_trace_of_its_command(
    broker: Broker, service: Lifecycle
) -> None:
    await broker.send(scheduled("o-1", due_in_s=0.3, payload={"wave": "2"}))
    (event,) = await broker.fired_until("o-1")
    assert (event.timer_key, event.owner, event.version) == ("order-expiry:o-1", "order-api", 1)
    assert event.payload == {"wave": "2"}
    assert event.fired_at >= event.due_at
    traceparent = broker.traceparents["o-1"]
    assert traceparent is not None
    assert traceparent.split("-")[1] == TRACEPARENT.split("-")[1]


async def test_a_timer_that_was_due_long_ago_fires_at_once(broker: Broker, service: Lifecycle) -> None:
    await broker.send(scheduled("o-1", due_in_s=-3600))
    assert len(await broker.fired_until("o-1")) == 1


async def test_cancelled_and_repeated_and_outdated_commands_fire_nothing(
    broker: Broker, service: Lifecycle
) -> None:
    await broker.send(
        scheduled("cancelled", due_in_s=3),  # its cancel comes long before
        cancelled("cancelled"),
        cancelled("overtaken", version=2),
        scheduled("overtaken", version=2),
        scheduled("outdated", version=2),
        scheduled("outdated", version=1, due_in_s=0.2),
    )
    await broker.send(scheduled("repeated"), event_id="01890000-0000-7000-8000-000000000001")
    await broker.send(scheduled("repeated"), event_id="01890000-0000-7000-8000-000000000001")
    await broker.send(scheduled("last", due_in_s=3.5))
    fired = await broker.fired_until("last", "outdated", "repeated")
    assert sorted((event.order_id, event.version) for event in fired) == [
        ("last", 1),
        ("outdated", 2),
        ("repeated", 1),
    ]


async def test_a_moved_timer_fires_once_at_its_new_time(broker: Broker, service: Lifecycle) -> None:
    await broker.send(scheduled("o-1", due_in_s=3600), scheduled("o-1", version=2, due_in_s=0.2))
    (event,) = await broker.fired_until("o-1")
    assert event.version == 2


async def test_what_can_never_be_obeyed_is_dead_lettered_with_a_reason(
    broker: Broker, service: Lifecycle
) -> None:
    far = scheduled("far", due_in_s=31 * 24 * 3600)
    large = scheduled("large", payload={"a": "x" * MAX_PAYLOAD_BYTES})
    headers, _ = encode(seal(far, source="order-api", time=datetime.now(UTC)))
    await broker.send(far, large)
    await broker.send_raw(TIMERS_COMMANDS, b"rubbish", headers, b'{"timerKey": 1')
    await broker.send(scheduled("good"))
    assert len(await broker.fired_until("good")) == 1
    reasons = await broker.dead_letters(3)
    assert "more than 30 days ahead" in reasons["far"]
    assert "more than 8192" in reasons["large"]
    assert "weelo.timer.scheduled.v1" in reasons["rubbish"]


async def test_no_shape_of_rubbish_stops_the_timers(broker: Broker, service: Lifecycle) -> None:
    headers, value = encode(seal(scheduled("any"), source="order-api", time=datetime.now(UTC)))
    fields = dict(headers)

    def changed(**changes: bytes) -> list[tuple[str, bytes]]:
        return list({**fields, **changes}.items())

    await broker.send_raw(TIMERS_COMMANDS, b"no-headers", [], value)
    await broker.send_raw(TIMERS_COMMANDS, b"no-json", headers, b"\xff\x00")
    await broker.send_raw(TIMERS_COMMANDS, b"nul-id", changed(ce_id=b"a\x00b"), value)
    await broker.send_raw(TIMERS_COMMANDS, b"nul-key\x00", changed(ce_id=b"id-1"), value)
    early = value.replace(b'"dueAt":"2', b'"dueAt":"0001-01-01T00:00:00+14:00","x":"2')
    await broker.send_raw(TIMERS_COMMANDS, b"before-time", changed(ce_id=b"id-2"), early)
    await broker.send_raw(
        TIMERS_COMMANDS, b"odd-time", changed(ce_id=b"id-3", ce_time=b"0001-01-01T00:00:00+14:00"), value
    )
    surrogate = value.replace(b'"order-api"', b'"\\ud800"')
    await broker.send_raw(TIMERS_COMMANDS, b"surrogate", changed(ce_id=b"id-4"), surrogate)
    await broker.send_raw(TIMERS_COMMANDS, b"long-id", changed(ce_id=b"x" * 4000), value)
    await broker.send_raw(TIMERS_COMMANDS, b"k" * 4000, changed(ce_id=b"id-5"), value)
    reasons = await broker.dead_letters(9)
    assert reasons.keys() == {
        "no-headers",
        "no-json",
        "nul-id",
        "nul-key\x00",
        "before-time",
        "odd-time",
        "surrogate",
        "long-id",
        "k" * 4000,
    }


async def test_a_trace_context_that_is_none_does_not_keep_a_timer_from_firing(
    broker: Broker, service: Lifecycle
) -> None:
    headers, value = encode(seal(scheduled("o-1"), source="order-api", time=datetime.now(UTC)))
    await broker.send_raw(TIMERS_COMMANDS, b"o-1", [*headers, ("traceparent", b"\x00rubbish")], value)
    assert len(await broker.fired_until("o-1")) == 1


async def test_what_the_consumer_counts_adds_up(broker: Broker, service: Lifecycle) -> None:
    await broker.send(scheduled("o-1"), scheduled("o-1"), cancelled("o-2"), cancelled("o-2"))
    await broker.fired_until("o-1")
    await broker.send(scheduled("o-3"))
    await broker.fired_until("o-3")
    await until(lambda: not service.health.not_ready(), "readiness")
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{service.http_port}", timeout=DEADLINE_S
    ) as client:
        text = (await client.get("/metrics")).text
        ready = await client.get("/health/ready")
    counts = {
        line.split("{")[0]: float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("weelo_consumer_") and "_total{" in line
    }
    assert counts["weelo_consumer_consumed_total"] == sum(
        counts.get(f"weelo_consumer_{outcome}_total", 0)
        for outcome in ("applied", "duplicate", "ignored", "parked", "dead")
    )
    assert ready.status_code == 200


async def test_pending_timers_fire_after_a_restart_and_while_it_was_down(
    broker: Broker, settings: Settings
) -> None:
    async with running(build, settings):
        await broker.send(
            scheduled("soon", due_in_s=0.0), *(scheduled(f"o-{n}", due_in_s=1) for n in range(20))
        )
        await broker.fired_until("soon")
    await broker.send(*(scheduled(f"late-{n}") for n in range(20)))
    expected = {f"o-{n}" for n in range(20)} | {f"late-{n}" for n in range(20)} | {"soon"}
    async with running(build, settings):
        fired = await broker.fired_until(*expected)
    assert {event.order_id for event in fired} == expected
    assert len({event.event_id() for event in fired}) == len(expected)


async def test_the_timers_of_a_replica_that_stops_are_fired_by_the_other(
    broker: Broker, settings: Settings
) -> None:
    async with AsyncExitStack() as survivors:
        await survivors.enter_async_context(running(build, settings))
        async with running(build, settings):
            await broker.send(scheduled("first"))
            await broker.fired_until("first")
            await broker.send(*(scheduled(f"o-{n}", due_in_s=2) for n in range(40)))
        fired = await broker.fired_until(*(f"o-{n}" for n in range(40)))
    assert len({event.event_id() for event in fired}) == 41
