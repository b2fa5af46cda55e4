"""Reads topics without a group: it commits nothing, moves nobody and writes nothing.

Everything here raises ``KafkaUnavailable`` where the brokers do not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from weelo_common.events.topics import Topic
from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.parking import Record

POLL_MS = 200
FETCH_WAIT_MS = 20  # a fetch that a broker holds keeps the next question on its connection waiting
QUIET_DEADLINE_S = 30.0  # brokers that give no record for so long, though there are some, are away

Offsets = Mapping[TopicPartition, int]


class TopicReader:
    """Reads any of the declared topics; make it with ``open_reader``."""

    def __init__(self, kafka: KafkaClients, consumer: AIOKafkaConsumer) -> None:
        self._kafka = kafka
        self._consumer = consumer

    def partitions(self, topic: Topic) -> list[TopicPartition]:
        """All partitions of a topic, by its name on these brokers."""
        name = self._kafka.topic_name(topic)
        return [TopicPartition(name, number) for number in range(topic.partitions)]

    def partition_of(self, topic: Topic, key: str) -> TopicPartition:
        """Where the events of a key stand, as every producer of ours places them."""
        pairs = self.partitions(topic)
        numbers = [pair.partition for pair in pairs]
        return pairs[DefaultPartitioner()(key.encode(), numbers, numbers)]

    async def beginnings(self, pairs: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offsets that are still kept."""
        found: dict[TopicPartition, int] = await self._ask(self._consumer.beginning_offsets(list(pairs)))
        return found

    async def ends(self, pairs: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets that the next records will have."""
        found: dict[TopicPartition, int] = await self._ask(self._consumer.end_offsets(list(pairs)))
        return found

    async def offsets_at(
        self, pairs: Iterable[TopicPartition], moment: datetime
    ) -> dict[TopicPartition, int]:
        """The offset of each partition's first record from a moment on; its end where there is none."""
        wanted = list(pairs)
        ends = await self.ends(wanted)
        found = await self._ask(
            self._consumer.offsets_for_times({pair: int(moment.timestamp() * 1000) for pair in wanted})
        )
        return {pair: ends[pair] if found.get(pair) is None else found[pair].offset for pair in wanted}

    async def between(self, topic: Topic, start: Offsets, end: Offsets) -> AsyncIterator[Record]:
        """Every record from ``start`` up to ``end``; in order within each partition."""
        position = {pair: offset for pair, offset in start.items() if offset < end[pair]}
        if not position:
            return
        self._begin(position)
        quiet_since = time.monotonic()
        while any(position[pair] < end[pair] for pair in position):
            batches = await self._ask(self._consumer.getmany(timeout_ms=POLL_MS))
            for pair, records in batches.items():
                quiet_since = time.monotonic()
                for raw in records:
                    position[pair] = raw.offset + 1
                    if raw.offset < end[pair]:
                        yield record_of(topic, raw)
            if not batches:
                # A partition may end in control records, which are never handed out: its position tells.
                for pair in position:
                    position[pair] = max(position[pair], await self._ask(self._consumer.position(pair)))
            if time.monotonic() - quiet_since > QUIET_DEADLINE_S:
                raise KafkaUnavailable(f"{topic.name}: no record for {QUIET_DEADLINE_S:.0f} s")

    async def follow(self, topics: Mapping[str, Topic], start: Offsets) -> AsyncIterator[Record]:
        """Every record from ``start`` on, for ever."""
        self._begin(start)
        while True:
            for pair, records in (await self._ask(self._consumer.getmany(timeout_ms=POLL_MS))).items():
                for raw in records:
                    yield record_of(topics[pair.topic], raw)

    def _begin(self, start: Offsets) -> None:
        self._consumer.assign(list(start))
        for pair, offset in start.items():
            self._consumer.seek(pair, offset)

    async def _ask(self, question: Any) -> Any:
        try:
            return await asyncio.wait_for(question, self._kafka.join_deadline_s)
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaUnavailable(f"{type(error).__name__}: {error}") from error


@contextlib.asynccontextmanager
async def open_reader(kafka: KafkaClients) -> AsyncIterator[TopicReader]:
    """A reader that is connected; closed at the end."""
    consumer = kafka.consumer(group=None, fetch_max_wait_ms=FETCH_WAIT_MS)
    await kafka.start_consumer(consumer)
    try:
        yield TopicReader(kafka, consumer)
    finally:
        await kafka.stop_consumer(consumer)


def record_of(topic: Topic, raw: Any) -> Record:
    """A record of aiokafka as the services see it."""
    return Record(
        topic=topic,
        partition=raw.partition,
        offset=raw.offset,
        key=raw.key,
        headers=tuple((name, value or b"") for name, value in raw.headers),
        value=raw.value,
        received_at=moment(raw.timestamp),
    )


def moment(timestamp_ms: int) -> datetime:
    """A record's timestamp; the epoch where a producer wrote one that no calendar has."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
