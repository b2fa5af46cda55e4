"""Hands records to Kafka in whole batches, one for each partition: a tenth of the CPU of sending them one by one.

The partition is the standard partitioner's, so a record lands where any other client would put it. It must never let
records of one key overtake one another, and never wait for anything but the brokers: deadlines are the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder

Acknowledgement = asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class Record:
    """What is sent; ``topic`` is the name on the brokers."""

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass(slots=True)
class _Batch:
    """Records of one partition, and where in the caller's list each stands."""

    builder: BatchBuilder
    positions: list[int]


class BatchSender:
    """Sends through one producer."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._partitioner = DefaultPartitioner()
        self._known: set[str] = set()

    async def send(self, records: Sequence[Record], handed: dict[int, Acknowledgement]) -> None:
        """Hand over all records, those of a partition in order.

        ``handed`` gets, by a record's position, the future that is done once Kafka acknowledged its batch. Broken off
        or failing half-way it holds what was handed over until then. A topic that the brokers do not know holds up
        what comes after it, never what came before.

        Raises:
            KafkaError: a topic is unknown, or the producer is closed.
        """
        open_batches: dict[tuple[str, int], _Batch] = {}
        partitions: dict[str, list[int]] = {}
        for position, record in enumerate(records):
            topic = record.topic
            if topic not in partitions:
                if topic not in self._known:
                    await self._hand_over(open_batches, handed)
                partitions[topic] = sorted(await self._producer.partitions_for(topic))
                self._known.add(topic)
            partition = self._partitioner(record.key, partitions[topic], partitions[topic])
            batch = open_batches.get((topic, partition))
            if batch is None or not _added(batch, record, position):
                if batch is not None:  # full
                    await self._hand_over({(topic, partition): batch}, handed)
                batch = open_batches[topic, partition] = _Batch(self._producer.create_batch(), [])
                _added(batch, record, position)  # the first record of a batch always fits
        await self._hand_over(open_batches, handed)

    async def _hand_over(
        self, batches: dict[tuple[str, int], _Batch], handed: dict[int, Acknowledgement]
    ) -> None:
        for (topic, partition), batch in list(batches.items()):
            future: Acknowledgement = await self._producer.send_batch(
                batch.builder, topic, partition=partition
            )
            handed.update(dict.fromkeys(batch.positions, future))
            del batches[topic, partition]


def _added(batch: _Batch, record: Record, position: int) -> bool:
    added = batch.builder.append(timestamp=None, key=record.key, value=record.value, headers=record.headers)
    if added is None:
        return False
    batch.positions.append(position)
    return True
