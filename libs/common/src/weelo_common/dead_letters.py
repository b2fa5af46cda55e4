"""Dead letters: what could never be handled, with where, why and how often, on ``<topic>.<group>.dlq``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.parking import Record

REASON_LENGTH = 500  # characters of the error that are kept
# A record may be small on the wire and larger, unpacked, than a producer may send. What is cut off can be read where
# the headers say, as long as the topic keeps it; a dead letter that cannot be written would stop its partition.
KEPT_VALUE_BYTES = 512 * 1024
KEPT_HEADERS_BYTES = 64 * 1024
KEPT_KEY_BYTES = 4 * 1024
# A letter is settled by a second record behind it, of an operator (``weelo dlq retry``, ``drop``), with these headers.
RESOLUTION = "dlq-resolution"
RESOLVES = "dlq-resolves"  # the letter's offset


class DeadLetters:
    """Writes dead letters for one consumer group; connects at the first one."""

    def __init__(self, kafka: KafkaClients, group: str) -> None:
        self._kafka = kafka
        self._group = group
        self._producer: AIOKafkaProducer | None = None
        self._lock = asyncio.Lock()  # partitions share the producer

    async def write(self, record: Record, *, reason: str, attempts: int) -> None:
        """Write one dead letter and wait for the brokers' word.

        Raises:
            KafkaUnavailable: it is not written; do not commit the event.
        """
        kept = _kept_headers(record.headers)
        value = (record.value or b"")[:KEPT_VALUE_BYTES]
        key = None if record.key is None else record.key[:KEPT_KEY_BYTES]
        headers = [
            *kept,
            ("dlq-topic", record.topic.name.encode()),
            ("dlq-partition", str(record.partition).encode()),
            ("dlq-offset", str(record.offset).encode()),
            ("dlq-group", self._group.encode()),
            ("dlq-reason", reason[:REASON_LENGTH].encode(errors="replace")),
            ("dlq-attempts", str(attempts).encode()),
        ]
        if (len(kept), value, key) != (len(record.headers), record.value or b"", record.key):
            headers.append(("dlq-truncated", b"true"))
        topic = self._kafka.topic_name(record.topic.dlq(self._group))
        async with self._lock:
            if self._producer is None:
                self._producer = await self._kafka.start_producer()
            try:
                await asyncio.wait_for(
                    self._producer.send_and_wait(topic, value, key=key, headers=headers),
                    self._kafka.deadline_s,
                )
            except (KafkaError, OSError, TimeoutError) as error:
                producer, self._producer = self._producer, None
                await self._kafka.drop_producer(producer)
                raise KafkaUnavailable(f"dead letter not written: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close the connection, if there is one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._kafka.stop_producer(producer)


def _kept_headers(headers: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The headers from the first on, as far as they fit."""
    kept: list[tuple[str, bytes]] = []
    left = KEPT_HEADERS_BYTES
    for name, value in headers:
        left -= len(name.encode()) + len(value) + 10  # and their lengths
        if left >= 0:
            kept.append((name, value))
    return kept
