"""The consumer loop on a real Kafka and a real PostgreSQL: once in effect, in order, whatever goes wrong."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from aiokafka import AIOKafkaProducer

from tests.integration import consumer_rig
from tests.integration.consumer_rig import NOTE, Member, consuming, effects, patient, send
from tests.integration.events_rig import GROUP, ORDERS_EVENTS, PATIENCE_S, EventsRig, filled, until
from weelo_common import parking
from weelo_common.delivery import PoisonMessage, RetryLater
from weelo_common.events import OrderFullyFilled, encode, seal
from weelo_common.events.topics import NOTIFIER
from weelo_common.kafka import KafkaClients
from weelo_common.parking import Record
from weelo_common.partition_worker import EventProcessor
from weelo_common.postgres import Connection, DatabaseUnavailable

rig, producer = consumer_rig.rig, consumer_rig.producer


async def test_an_event_that_comes_twice_has_one_effect(rig: EventsRig, producer: AIOKafkaProducer) -> None:
    await send(rig, producer, "o1", 1, "e1")
    await send(rig, producer, "o1", 1, "e1")
    member = Member(rig)
    async with consuming(member):
        await until(lambda: member.count("consumed") == 2, "both")
    assert await effects(rig) == [("o1", 1)]
    assert (member.count("applied"), member.count("duplicate")) == (1, 1)
    assert member.committed == [("o1", 1)]


async def test_offsets_are_kept_so_the_next_member_of_the_group_goes_on(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    await send(rig, producer, "o1", 1)
    first = Member(patient(rig))
    async with consuming(first):
        await until(lambda: first.count("consumed") == 1, "the first event")
    await send(rig, producer, "o1", 2)
    second = Member(rig)
    async with consuming(second):
        await until(lambda: second.count("consumed") == 1, "the second event")
    assert await effects(rig) == [("o1", 1), ("o1", 2)]
    assert second.count("duplicate") == 0


async def test_two_members_share_the_work_through_a_rebalance_and_double_nothing(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    first, second = Member(rig), Member(rig)
    wanted = [(f"o{number}", version) for version in range(1, 6) for number in range(12)]
    async with consuming(first):
        for order_id, version in wanted[:30]:
            await send(rig, producer, order_id, version)
        async with consuming(second):
            for order_id, version in wanted[30:]:
                await send(rig, producer, order_id, version)
            await until(
                lambda: first.count("applied") + second.count("applied") == len(wanted), "every event"
            )
    found = await effects(rig)
    assert sorted(found) == sorted(wanted)
    for number in range(12):
        assert [v for o, v in found if o == f"o{number}"] == [1, 2, 3, 4, 5]
    assert first.adds_up()
    assert second.adds_up()


async def test_poison_is_dead_lettered_with_where_and_why_and_the_partition_goes_on(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    topic = rig.kafka.topic_name(ORDERS_EVENTS)
    await producer.send_and_wait(topic, b"{", key=b"o1", headers=[("ce_id", b"x")])
    await send(rig, producer, "o1", 1)
    await send(rig, producer, "o1", 2)
    member = Member(rig, trouble=lambda e: PoisonMessage("not today") if e.order_version == 1 else None)
    async with consuming(member):
        await until(lambda: member.count("consumed") == 3, "all three")
    assert await effects(rig) == [("o1", 2)]
    assert member.count("dead") == 2
    dead = await rig.records(ORDERS_EVENTS.dlq(GROUP), 2)
    headers = [dict(record.headers) for record in dead]
    assert [h["dlq-reason"] for h in headers] == [b"the header ce_type is missing", b"not today"]
    assert headers[0]["dlq-topic"] == b"orders.events.v1"
    assert dead[0].value == b"{"


async def test_unknown_events_are_ignored(rig: EventsRig, producer: AIOKafkaProducer) -> None:
    envelope = seal(filled("o1", 1), source="order-api", time=datetime.now(UTC))
    headers, value = encode(envelope)
    strange = [(n, b"weelo.order.teleported.v1" if n == "ce_type" else v) for n, v in headers]
    await producer.send_and_wait(rig.kafka.topic_name(ORDERS_EVENTS), value, key=b"o1", headers=strange)
    member = Member(rig)
    async with consuming(member):
        await until(lambda: member.count("ignored") == 1, "the strange event")
    assert member.adds_up()


async def test_a_failing_key_is_parked_the_others_flow_and_a_replay_applies_it_in_order(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    await send(rig, producer, "bad", 1)
    await send(rig, producer, "bad", 2)
    await send(rig, producer, "good", 1)
    member = Member(rig, trouble=lambda e: KeyError("a defect") if e.order_id == "bad" else None)
    async with consuming(member):
        await until(lambda: member.count("consumed") == 3, "all three")
    assert await effects(rig) == [("good", 1)]
    assert (member.count("parked"), member.count("applied")) == (2, 1)

    async def mended(connection: Connection, envelope: object, record: Record) -> None:
        event = getattr(envelope, "event", None)
        assert isinstance(event, OrderFullyFilled)
        await connection.execute(NOTE, event.order_id, event.order_version)

    topics = {ORDERS_EVENTS.name: ORDERS_EVENTS}
    assert await parking.replay(rig.database, GROUP, "bad", topics, mended) == 2
    assert (await effects(rig))[1:] == [("bad", 1), ("bad", 2)]
    await send(rig, producer, "bad", 3)
    well = Member(rig)
    async with consuming(well):
        await until(lambda: well.count("applied") == 1, "the event after the replay")


async def test_trouble_of_the_infrastructure_is_waited_out_told_of_once_and_nothing_is_parked(
    rig: EventsRig, producer: AIOKafkaProducer, caplog: pytest.LogCaptureFixture
) -> None:
    await send(rig, producer, "o1", 1)
    left = [DatabaseUnavailable("gone"), RetryLater(0.05, "too early"), ConnectionResetError("gone")] * 2
    member = Member(rig, trouble=lambda event: left.pop() if left else None)
    async with consuming(member):
        await until(lambda: member.count("applied") == 1, "the event")
    assert await effects(rig) == [("o1", 1)]
    assert member.count("consumed") == 1
    told = [record.getMessage() for record in caplog.records if record.name == EventProcessor.__module__]
    assert told == ["Consumer waits", "Consumer goes on"]


async def test_a_member_says_it_is_ready_once_it_is_in_its_group_and_the_broker_answers(
    rig: EventsRig,
) -> None:
    member = Member(rig)
    async with consuming(member) as (consumer,):
        assert consumer.trouble() is not None
        await until(lambda: consumer.trouble() is None, "readiness")


async def test_it_stops_soon_though_a_topic_of_its_dead_letters_is_not_there(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    await send(rig, producer, "o1", 1)
    slow_to_give_up = rig.settings.model_copy(update={"kafka_request_deadline_s": 3 * PATIENCE_S})
    kafka = KafkaClients(slow_to_give_up, client_id="test")
    member = Member(replace(rig, kafka=kafka), group=NOTIFIER)  # the rig has made no such topic for this one
    stop = asyncio.Event()
    running = asyncio.create_task(member.consumer().run(stop))
    await until(lambda: member.count("consumed") == 1, "the event")
    stop.set()
    started = time.monotonic()
    await running
    assert time.monotonic() - started < PATIENCE_S
