"""Kafka record batches, written from stored bytes, and handed to aiokafka whole, one for each partition.

The outbox keeps a record's headers as Kafka writes them, so that publishing a row copies bytes and parses nothing: some
2 µs a record, where decoding, ``send()`` and its futures take 20. The format is version 2 of the record batch
(https://kafka.apache.org/documentation/#recordbatch), and the partition is the standard partitioner's: a record lands
where any other client would put it. A batch must never be changed once it was handed over.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import cramjam
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.record.util import calc_crc32c

from weelo_common.kafka import MAX_REQUEST_BYTES

Acknowledgement = asyncio.Future[Any]

MAX_BATCH_BYTES = 512 * 1024  # of records, not compressed: well below what brokers take in one batch
KNOWN_KEYS = 4096  # whose hash is remembered: an order's events come close together
LZ4_LEVEL = 1  # a seventh of the CPU of aiokafka's level 9, for 6 % more bytes

_HEADER = struct.Struct(">qiibIhiqqqhii")  # what stands before the records
_CHECKSUM = struct.Struct(">I")
_AFTER_LENGTH = 12  # bytes of the header up to the end of the field that holds the batch's length
_AFTER_CRC = 21  # and up to the end of the checksum, which covers the rest
_MAGIC = 2
_LZ4 = 3
_NO_PRODUCER = (-1, -1, -1)  # id, epoch, first sequence number
_SMALL = 4096
_MURMUR_SEED = 0x9747B28C
_MURMUR_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


class BrokenHeaders(ValueError):
    """Bytes that are no record's headers: no broker would take them, and no consumer could read them."""


def _varint(number: int) -> bytes:
    """A length or an offset as Kafka writes it: zigzag, seven bits a byte, the lowest first."""
    left = number << 1
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


class _Varints(dict[int, bytes]):
    """``_varint``, with the small numbers at hand."""

    def __missing__(self, number: int) -> bytes:
        return _varint(number)


_VARINTS = _Varints((number, _varint(number)) for number in range(_SMALL))
_BEFORE_OFFSET = b"\x00\x00"  # attributes that nobody uses, and no time after the batch's own


def encode_headers(headers: Iterable[tuple[str, bytes]]) -> bytes:
    """A record's headers as they stand in a batch: their number, then each name and value with its length."""
    parts: list[bytes] = []
    count = 0
    for name, value in headers:
        text = name.encode()
        parts += (_VARINTS[len(text)], text, _VARINTS[len(value)], value)
        count += 1
    return b"".join((_VARINTS[count], *parts))


def decode_headers(data: bytes) -> list[tuple[str, bytes]]:
    """What ``encode_headers`` was given.

    Raises:
        BrokenHeaders: these are not the bytes of headers.
        UnicodeDecodeError: they are, with a name that is not UTF-8.
    """
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value >> 1
            shift += 7

    def some() -> bytes:
        nonlocal position
        length = number()
        position += length
        if position > len(data):
            raise IndexError
        return data[position - length : position]

    try:
        headers = [(some().decode(), some()) for _ in range(number())]
    except IndexError:
        raise BrokenHeaders("the headers are cut off") from None
    if position != len(data):
        raise BrokenHeaders("the headers go on after their end")
    return headers


def murmur2(key: bytes) -> int:
    """The hash that Kafka's clients choose a partition by: 32-bit MurmurHash2 (Austin Appleby) with a fixed seed."""
    size = len(key)
    mixed = _MURMUR_SEED ^ size
    whole = size >> 2
    for word in struct.unpack_from(f"<{whole}I", key):
        word = word * _MURMUR_M & _MASK
        mixed = (mixed * _MURMUR_M ^ (word ^ word >> 24) * _MURMUR_M) & _MASK
    if tail := key[whole << 2 :]:
        mixed = (mixed ^ int.from_bytes(tail, "little")) * _MURMUR_M & _MASK
    mixed = (mixed ^ mixed >> 13) * _MURMUR_M & _MASK
    return mixed ^ mixed >> 15


class RecordBatch:
    """Records of one partition, in order. ``marks`` are what the caller gave with each, to know them again.

    To aiokafka it looks like its own ``BatchBuilder``: what follows ``add`` and ``finish`` is what its sender calls.
    """

    __slots__ = (
        "_body",
        "_codec",
        "_data",
        "_parts",
        "_state",
        "marks",
        "partition",
        "refusal",
        "size",
        "topic",
    )

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        """Its name on the brokers."""
        self.partition = partition
        self.marks: list[Any] = []
        self.size = 0
        """Bytes of the records so far, not compressed."""
        self.refusal: Exception | None = None
        """Why no broker would take it: then it is refused here and not sent."""
        self._parts: list[bytes] = []
        self._body = b""
        self._codec = 0
        self._state: tuple[int, int, int] = _NO_PRODUCER
        self._data: bytearray | None = None

    def add(self, mark: Any, key: bytes, value: bytes, headers: bytes) -> None:
        """Append a record; ``headers`` come from ``encode_headers``."""
        varints = _VARINTS
        record = b"".join(
            (
                _BEFORE_OFFSET,
                varints[len(self.marks)],
                varints[len(key)],
                key,
                varints[len(value)],
                value,
                headers,
            )
        )
        length = len(record)
        self._parts += (varints[length], record)
        self.size += length + 5
        self.marks.append(mark)

    def finish(self) -> None:
        """Compress: nothing can be added any more. Done ahead of handing over, while another batch is under way."""
        body = b"".join(self._parts)
        self._parts = []
        # Brokers take frames of blocks that stand alone only (KIP-57).
        compressor = cramjam.lz4.Compressor(level=LZ4_LEVEL, content_checksum=False, block_linked=False)
        compressor.compress(body)
        compressed = bytes(compressor.finish())
        self._body, self._codec = (compressed, _LZ4) if len(compressed) < len(body) else (body, 0)

    @property
    def wire_size(self) -> int:
        """Bytes on the wire of a finished batch."""
        return _HEADER.size + len(self._body)

    # --- what aiokafka's accumulator and sender ask of a BatchBuilder ---

    def record_count(self) -> int:
        return len(self.marks)

    def closed(self) -> bool:
        return True  # nothing to linger for

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._state = (producer_id, producer_epoch, base_sequence)

    def _build(self) -> bytearray:
        if self._data is None:
            count = len(self.marks)
            now_ms = int(time.time() * 1000)
            length = self.wire_size - _AFTER_LENGTH
            data = bytearray(self.wire_size)
            _HEADER.pack_into(
                data, 0, 0, length, -1, _MAGIC, 0, self._codec, count - 1, now_ms, now_ms, *self._state, count
            )
            data[_HEADER.size :] = self._body
            _CHECKSUM.pack_into(data, _AFTER_CRC - _CHECKSUM.size, calc_crc32c(data[_AFTER_CRC:]))
            self._data = data
        return self._data


class BatchSender:
    """Sends through one producer. It waits for nothing but the brokers: deadlines are the caller's."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._partitions: dict[str, int] = {}
        self.hash = lru_cache(KNOWN_KEYS)(murmur2)
        """Without its sign, and modulo the number of partitions, it is the partition of a key."""

    def knows(self, topic: str) -> bool:
        """Whether ``partitions`` has found this topic before, and so answers at once."""
        return topic in self._partitions

    async def partitions(self, topic: str) -> int:
        """The number of partitions of a topic; asked once, for a topic that is in use keeps its number.

        Raises:
            KafkaError: the brokers do not know it, or keep it from us.
        """
        if topic not in self._partitions:
            self._partitions[topic] = len(await self._producer.partitions_for(topic))
        return self._partitions[topic]

    async def send(self, batch: RecordBatch) -> Acknowledgement:
        """Hand a finished batch over; the answer is done once Kafka acknowledged all of it, or refused it.

        One that no broker would take is refused here and not sent: a broker might hang up on it.

        Raises:
            KafkaError: the producer is closed, or its last batch for this partition is still under way.
        """
        refusal = batch.refusal
        if refusal is None and batch.wire_size > MAX_REQUEST_BYTES:
            refusal = MessageSizeTooLargeError(f"{batch.wire_size} bytes")
        if refusal is not None:
            refused: Acknowledgement = asyncio.get_running_loop().create_future()
            refused.set_exception(refusal)
            return refused
        acknowledgement: Acknowledgement = await self._producer.send_batch(
            batch, batch.topic, partition=batch.partition
        )
        return acknowledgement
