"""Dead letters: what could never be handled, with where, why and how often, on ``<topic>.<group>.dlq``."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.parking import Record

REASON_LENGTH = 500  # characters of the error that are kept


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
        headers = [
            *record.headers,
            ("dlq-topic", record.topic.name.encode()),
            ("dlq-partition", str(record.partition).encode()),
            ("dlq-offset", str(record.offset).encode()),
            ("dlq-group", self._group.encode()),
            ("dlq-reason", reason[:REASON_LENGTH].encode()),
            ("dlq-attempts", str(attempts).encode()),
        ]
        topic = self._kafka.topic_name(record.topic.dlq(self._group))
        async with self._lock:
            if self._producer is None:
                self._producer = await self._kafka.start_producer()
            try:
                await asyncio.wait_for(
                    self._producer.send_and_wait(topic, record.value, key=record.key, headers=headers),
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
