"""A header whose name is not UTF-8 stops no consumer: brokers take such records, and so must we."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from tests.integration import consumer_rig
from tests.integration.consumer_rig import Member, consuming, effects
from tests.integration.events_rig import ORDERS_EVENTS, EventsRig, filled, until
from weelo_common.events import encode, seal
from weelo_common.record_batches import BatchSender, RecordBatch, encode_headers

STRANGE = b"\xff\xfe\x80"

rig = consumer_rig.rig


async def send(rig: EventsRig, *strange_at: int, count: int, compress: bool) -> None:
    """One batch of events of one order; those at ``strange_at`` have one header more."""
    batch = RecordBatch(rig.kafka.topic_name(ORDERS_EVENTS), 0)
    for number in range(count):
        headers, value = encode(
            seal(filled("order-1", number + 1), source="order-api", time=datetime.now(UTC))
        )
        written = encode_headers([*headers, ("???", b"what")] if number in strange_at else headers)
        batch.add(number, b"order-1", value, written.replace(b"???", STRANGE))
    if compress:
        batch.finish()
    else:
        batch._body = b"".join(batch._parts)
    producer = await rig.kafka.start_producer()
    try:
        await asyncio.wait_for(await BatchSender(producer).send(batch), 5)
    finally:
        await rig.kafka.stop_producer(producer)


@pytest.mark.parametrize("compress", [True, False])
async def test_an_event_with_a_header_name_that_is_not_utf_8_is_handled_like_any(
    rig: EventsRig, compress: bool
) -> None:
    await send(rig, 2, 4, count=6, compress=compress)
    member = Member(rig)
    async with consuming(member):
        await until(lambda: member.count("consumed") == 6, "all six events")
    assert member.count("applied") == 6
    assert await effects(rig) == [("order-1", version) for version in range(1, 7)]
    strange = (await rig.records(ORDERS_EVENTS, 6))[2]
    assert strange.headers[-1] == ("\ufffd\ufffd\ufffd", b"what")
