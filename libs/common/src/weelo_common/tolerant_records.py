"""Reads on where a record's header has a name that is not UTF-8, as Kafka's own clients do.

Brokers take such a record. aiokafka's reader gives up on it, and on everything behind it, each time it is read: one
record would stop a consumer for ever. Here such a name is read with U+FFFD in place of what cannot be decoded; it
is no name that we know, so the header is ignored. It must never change a record that aiokafka can read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecord, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint

_LENGTH = struct.Struct(">q i")  # the base offset, and the length of what follows
_MAGIC_AT = 16
_OLDEST_WITH_HEADERS = 2


def install() -> None:
    """Have the consumers of this process read so. Doing it twice changes nothing."""
    fetcher.MemoryRecords = TolerantRecords


class TolerantRecords:
    """Stands for aiokafka's ``MemoryRecords``: the batches in the answer to a fetch."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records = MemoryRecords(data)
        self._at = 0

    def size_in_bytes(self) -> int:
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        if batch is None:
            return None
        start = self._at
        self._at += _LENGTH.size + _LENGTH.unpack_from(self._data, start)[1]
        if self._data[start + _MAGIC_AT] < _OLDEST_WITH_HEADERS:
            return batch
        return _TolerantBatch(batch, memoryview(self._data)[start : self._at])


class _TolerantBatch:
    """One batch: aiokafka's own, and where that gives up the slower reader from that record on."""

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            for record in self._batch:
                yield record
                read += 1
        except (CorruptRecordException, UnicodeDecodeError):
            yield from islice(_LenientBatch(bytes(self._data)), read, None)


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # it is final, and so is its way with names
    """aiokafka's reader in Python, except for the names of headers.

    Raises:
        CorruptRecordException: the records are broken in another way.
    """

    def _read_msg(self) -> DefaultRecord:
        buffer: bytearray = self._buffer
        position: int = self._pos  # type: ignore[has-type]

        def number() -> int:
            nonlocal position
            value, position = decode_varint(buffer, position)
            return int(value)

        def some() -> bytes | None:
            nonlocal position
            size = number()
            if size < 0:
                return None
            position += size
            return bytes(buffer[position - size : position])

        length = number()
        end = position + length
        number()  # attributes, of which there are none
        timestamp = self.first_timestamp + number()
        if self.timestamp_type == self.LOG_APPEND_TIME:
            timestamp = self.max_timestamp
        offset = self.base_offset + number()
        key, value = some(), some()
        headers = [((some() or b"").decode(errors="replace"), some()) for _ in range(number())]
        if position != end:
            raise CorruptRecordException(
                f"a record of {length} bytes ends {position - end} bytes behind its end"
            )
        self._pos = position
        return DefaultRecord(offset, timestamp, self.timestamp_type, key, value, headers)
