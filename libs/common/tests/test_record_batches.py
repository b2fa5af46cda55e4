"""Record batches are what aiokafka, and so Kafka, reads and writes itself."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.structs import TopicPartition
from hypothesis import example, given
from hypothesis import strategies as st

from weelo_common.record_batches import BrokenHeaders, RecordBatch, decode_headers, encode_headers, murmur2

Record = tuple[bytes, bytes, list[tuple[str, bytes]]]

names = st.text(max_size=40).filter(lambda text: text.isprintable())
headers = st.lists(st.tuples(names, st.binary(max_size=200)), max_size=12)
records = st.lists(
    st.tuples(st.binary(min_size=1, max_size=40), st.binary(max_size=400), headers), min_size=1
)
A_LARGE_RECORD: list[Record] = [(b"k" * 300, b"v" * 300_000, [("h", b"x" * 20_000)])]
MANY_RECORDS: list[Record] = [(b"key", str(number).encode(), []) for number in range(9000)]


def batch_of(some: list[Record]) -> bytes:
    batch = RecordBatch("topic", 0)
    for mark, (key, value, told) in enumerate(some):
        batch.add(mark, key, value, encode_headers(told))
    batch.finish()
    return bytes(batch._build())


@given(records)
@example(A_LARGE_RECORD)
@example(MANY_RECORDS)
def test_a_batch_reads_back_as_it_was_written(some: list[Record]) -> None:
    data = batch_of(some)
    for reader in (DefaultRecordBatch, _DefaultRecordBatchPy):
        read = reader(data)
        assert read.validate_crc()
        found = [(record.key, record.value, list(record.headers), record.offset) for record in read]
        assert found == [(key, value, told, offset) for offset, (key, value, told) in enumerate(some)]


def test_a_batch_is_smaller_on_the_wire_where_that_can_be() -> None:
    batch = RecordBatch("topic", 0)
    for mark in range(100):
        batch.add(mark, b"key", b'{"orderId": "018f"}' * 10, encode_headers([]))
    batch.finish()
    assert batch.wire_size < batch.size / 4
    assert batch.wire_size == len(batch._build())


async def test_a_batch_does_in_the_hands_of_aiokafka_what_its_own_builder_does() -> None:
    batch = RecordBatch("topic", 0)
    batch.add("first", b"k", b"v", encode_headers([]))
    batch.add("second", b"k", b"w", encode_headers([]))
    batch.finish()
    held = MessageBatch(TopicPartition("topic", 0), batch, 5.0, 5.0)
    assert (held.record_count, held.is_empty(), held.remaining_linger()) == (2, False, None)
    held.set_producer_state(producer_id=7, producer_epoch=2, base_sequence=40)
    read = DefaultRecordBatch(bytes(held.get_data_buffer()))
    assert (read.producer_id, read.producer_epoch, read.base_sequence) == (7, 2, 40)
    assert read.validate_crc()
    assert held.get_data_buffer() == held.get_data_buffer()


@given(st.binary(min_size=1, max_size=70), st.integers(min_value=1, max_value=1000))
def test_a_key_has_the_partition_that_every_client_gives_it(key: bytes, partitions: int) -> None:
    numbers = list(range(partitions))
    assert (murmur2(key) & 0x7FFFFFFF) % partitions == DefaultPartitioner()(key, numbers, numbers)


@given(headers)
def test_headers_read_back_as_they_were_written(told: list[tuple[str, bytes]]) -> None:
    assert decode_headers(encode_headers(told)) == told


@pytest.mark.parametrize(
    "data", [b"", b"\x02", encode_headers([("a", b"b")])[:-1], encode_headers([]) + b"x"]
)
def test_what_are_no_headers_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenHeaders, match="the headers"):
        decode_headers(data)
