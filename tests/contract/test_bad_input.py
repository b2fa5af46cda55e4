"""What a reader does with a record that it does not understand: it says so, puts it where it belongs, and goes on."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

import pytest
from aiokafka import AIOKafkaProducer
from jsonschema import Draft202012Validator

from notifier.domain import notices
from tests.integration import consumer_rig
from tests.integration.consumer_rig import Member, consuming, effects, send
from tests.integration.events_rig import GROUP, ORDERS_EVENTS, EventsRig, filled, until
from tools.contracts.headers import DEAD_LETTER_HEADERS, EVENT_HEADERS
from tools.contracts.samples import samples
from weelo_common.events import decode, encode, seal

Headers = list[tuple[str, bytes]]
READERS_NEED = ("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time")
UNKNOWN = {"status": "teleported", "reason": "sunspots", "truckRequestStatus": "beamed"}

rig, producer = consumer_rig.rig, consumer_rig.producer


def record(version: int) -> tuple[Headers, bytes]:
    return encode(seal(filled("o1", version), source="order-api", time=datetime.now(UTC)))


async def put(rig: EventsRig, producer: AIOKafkaProducer, headers: Headers, value: bytes | None) -> None:
    await producer.send_and_wait(rig.kafka.topic_name(ORDERS_EVENTS), value, key=b"o1", headers=headers)


def said(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, object]]:
    return [vars(one) for one in caplog.records if one.message == message]


async def test_an_unknown_event_is_named_once_for_its_type_and_ignored(
    rig: EventsRig, producer: AIOKafkaProducer, caplog: pytest.LogCaptureFixture
) -> None:
    headers, value = record(1)
    for event_type in (b"weelo.order.teleported.v1", b"weelo.order.teleported.v1", b"weelo.order.beamed.v1"):
        await put(rig, producer, [(n, event_type if n == "ce_type" else v) for n, v in headers], value)
    await send(rig, producer, "o1", 2)
    member = Member(rig)
    with caplog.at_level(logging.WARNING):
        async with consuming(member):
            await until(lambda: member.count("consumed") == 4, "all four")
    assert (member.count("ignored"), member.count("applied")) == (3, 1)
    assert member.adds_up()
    named = said(caplog, "Unknown event type ignored")
    assert [one["eventType"] for one in named] == ["weelo.order.teleported.v1", "weelo.order.beamed.v1"]
    assert {(one["consumer"], one["topic"]) for one in named} == {(GROUP, "orders.events.v1")}


async def test_a_record_that_lacks_a_header_is_dead_lettered_with_its_name_and_the_reader_goes_on(
    rig: EventsRig, producer: AIOKafkaProducer, caplog: pytest.LogCaptureFixture
) -> None:
    headers, value = record(1)
    for missing in READERS_NEED:
        await put(rig, producer, [(name, raw) for name, raw in headers if name != missing], value)
    await send(rig, producer, "o1", 2)
    member = Member(rig)
    async with consuming(member):
        await until(lambda: member.count("consumed") == len(READERS_NEED) + 1, "all")
    assert (member.count("dead"), member.count("applied")) == (len(READERS_NEED), 1)
    dead = await rig.records(ORDERS_EVENTS.dlq(GROUP), len(READERS_NEED))
    reasons = [dict(one.headers)["dlq-reason"].decode() for one in dead]
    for missing, reason in zip(READERS_NEED, reasons, strict=True):
        assert missing in reason
    assert [one["reason"] for one in said(caplog, "Dead letter")] == reasons


BROKEN = {
    "no body": None,
    "an empty body": b"",
    "half a body": b'{"orderId": "o1", ',
    "a body of another kind": b"[1, 2]",
    "a body that is no text": b"\xff\xfe\x00",
    "a field that is missing": b'{"orderId": "o1"}',
    "a field of another type": json.dumps(json.loads(record(1)[1]) | {"orderVersion": "many"}).encode(),
}


async def test_a_broken_record_is_dead_lettered_as_it_was_and_the_reader_goes_on(
    rig: EventsRig, producer: AIOKafkaProducer, caplog: pytest.LogCaptureFixture
) -> None:
    headers, _ = record(1)
    for value in BROKEN.values():
        await put(rig, producer, headers, value)
    await send(rig, producer, "o1", 2)
    member = Member(rig)
    async with consuming(member):
        await until(lambda: member.count("consumed") == len(BROKEN) + 1, "all")
    assert (member.count("dead"), member.count("applied")) == (len(BROKEN), 1)
    assert await effects(rig) == [("o1", 2)]
    dead = await rig.records(ORDERS_EVENTS.dlq(GROUP), len(BROKEN))
    assert [one.value for one in dead] == [value or b"" for value in BROKEN.values()]
    assert all(one.key == b"o1" for one in dead)
    where = [dict(one.headers) for one in dead]
    assert [int(one["dlq-offset"]) for one in where] == list(range(len(BROKEN)))
    assert all(one["dlq-topic"] == b"orders.events.v1" and one["dlq-reason"] for one in where)
    for one in where:
        Draft202012Validator(DEAD_LETTER_HEADERS).validate({name: raw.decode() for name, raw in one.items()})
    assert len(said(caplog, "Dead letter")) == len(BROKEN)


async def test_unknown_values_and_fields_are_no_reason_to_refuse_an_event(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    headers, value = record(1)
    strange = json.loads(value) | {"status": "teleported", "mood": {"of": ["the", "day"]}}
    await put(rig, producer, [*headers, ("ce_mood", b"good")], json.dumps(strange).encode())
    member = Member(rig)
    async with consuming(member):
        await until(lambda: member.count("consumed") == 1, "the event")
    assert member.count("applied") == 1
    assert await effects(rig) == [("o1", 1)]


@pytest.mark.parametrize("event_type", list(samples()))
def test_the_notifier_tells_users_of_statuses_and_reasons_that_nobody_knows(event_type: str) -> None:
    envelope = samples()[event_type]
    headers, value = encode(envelope)
    body = json.loads(value)
    body |= {name: text for name, text in UNKNOWN.items() if name in body}
    read = decode(envelope.topic, envelope.key.encode(), headers, json.dumps(body).encode())
    assert read.event is not None
    for notice in notices(read.event):
        assert json.loads(notice.body("e1"))["data"].get("status", "teleported") == "teleported"


def test_the_headers_that_readers_need_are_promised() -> None:
    assert set(READERS_NEED) <= set(EVENT_HEADERS["required"])
