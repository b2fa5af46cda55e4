"""The records of TimerFired beside what the contract's own encoder makes of the same timer."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import cast

from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from expiry.domain import ClaimedTimer, Firing, fired_event
from expiry.records import FiredRecords
from weelo_common.clock import epoch_ms
from weelo_common.events.envelope import encode, seal
from weelo_common.events.topics import EXPIRY
from weelo_common.record_batches import MAX_BATCH_BYTES, BatchSender, RecordBatch, murmur2

PARTITIONS = 12
FIRED_AT = datetime(2026, 2, 3, 10, 8, 28, 123_456, tzinfo=UTC)
NOT_RECORDED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


class KnownTopic:
    """What a sender answers that has found the topic's partitions."""

    hash = staticmethod(murmur2)

    async def partitions(self, topic: str) -> int:
        return PARTITIONS


async def laid_out(*timers: ClaimedTimer) -> list[RecordBatch]:
    records = FiredRecords("timers.fired.v1")
    return await records.lay_out(Firing(1, FIRED_AT, timers), cast(BatchSender, KnownTopic()))


def timer(
    number: int, *, key: str | None = None, payload: str = "{}", order_id: str | None = None
) -> ClaimedTimer:
    return ClaimedTimer(
        number,
        key or f"order-expiry:{number}",
        1,
        0,
        "order-api",
        epoch_ms(FIRED_AT),
        payload,
        order_id,
        None,
    )


texts = st.text(
    st.characters(blacklist_characters="\x00", blacklist_categories=["Cs"]), min_size=1, max_size=30
)
timers = st.builds(
    lambda number, name, subject, version, owner, late_ms, payload, order_id, traced: ClaimedTimer(
        id=number,
        key=f"{name}:{subject}",
        version=version,
        partition=0,
        owner=owner,
        due_ms=epoch_ms(FIRED_AT) - late_ms,
        payload=json.dumps(payload, ensure_ascii=False, separators=(",", ":")),
        order_id=order_id,
        traceparent=NOT_RECORDED if traced else None,
    ),
    number=st.integers(1, 2**62),
    name=st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True),
    subject=texts.filter(lambda text: "\n" not in text),
    version=st.integers(1, 2**31 - 1),
    owner=texts,
    late_ms=st.integers(0, 10**9),
    payload=st.dictionaries(texts, st.none() | st.booleans() | st.integers() | texts, max_size=3),
    order_id=st.none() | texts,
    traced=st.booleans(),
)


@given(timers)
async def test_a_record_is_what_the_contracts_encoder_makes_of_the_timer(one: ClaimedTimer) -> None:
    event = fired_event(one, FIRED_AT)
    envelope = seal(event, source=EXPIRY, time=FIRED_AT, event_id=event.event_id())
    headers, value = encode(envelope, one.traceparent)

    (batch,) = await laid_out(one)
    (record,) = DefaultRecordBatch(bytes(batch._build()))
    assert batch.marks == [one]
    assert batch.partition == (murmur2(envelope.key.encode()) & 0x7FFFFFFF) % PARTITIONS
    assert record.key == envelope.key.encode()
    assert sorted(record.headers) == sorted(headers)
    assert json.loads(record.value) == json.loads(value)


async def test_every_timer_is_in_one_batch_of_its_keys_partition_and_in_order() -> None:
    some = [timer(number, order_id=f"o-{number % 7}") for number in range(100)]
    batches = await laid_out(*some)
    assert sorted(mark for batch in batches for mark in batch.marks) == some
    for batch in batches:
        assert batch.marks == sorted(batch.marks)
        assert {(murmur2(one.order_id.encode()) & 0x7FFFFFFF) % PARTITIONS for one in batch.marks} == {
            batch.partition
        }
    assert len({batch.partition for batch in batches}) == len(batches)


async def test_timers_with_large_payloads_go_in_several_batches_that_brokers_take() -> None:
    payload = json.dumps({"a": "x" * 8000})
    some = [timer(number, order_id="o-1", payload=payload) for number in range(200)]
    batches = await laid_out(*some)
    assert len(batches) > 1
    assert all(batch.size <= MAX_BATCH_BYTES + len(payload) for batch in batches)
    assert [mark for batch in batches for mark in batch.marks] == some
