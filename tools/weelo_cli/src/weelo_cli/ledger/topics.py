"""Reads Kafka: the whole log of order events, and how far the consumer groups are.

It joins no group and commits nothing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from weelo_cli.ledger.facts import LoggedEvent
from weelo_common.events.envelope import MalformedEvent, decode
from weelo_common.events.orders import OrderEvent
from weelo_common.events.topics import ALL_TOPICS, ORDERS_EVENTS, Topic
from weelo_common.kafka import KafkaClients, KafkaUnavailable

POLL_MS = 200
Offsets = Mapping[TopicPartition, int]


class Topics:
    """One consumer without a group, and an admin client; open it as a context."""

    def __init__(self, kafka: KafkaClients) -> None:
        self._kafka = kafka
        self._consumer: AIOKafkaConsumer | None = None

    async def __aenter__(self) -> Topics:
        consumer = self._kafka.consumer(group=None)
        await self._kafka.start_consumer(consumer)
        self._consumer = consumer
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._consumer is not None:
            await self._kafka.stop_consumer(self._consumer)

    async def ends(self) -> Offsets:
        """The end of every partition that a group reads.

        What a group has committed exists, whatever the broker says of the end: Tansu 0.6 names the first record of the
        last batch plus one.

        Raises:
            KafkaUnavailable: no answer within the deadline.
        """
        pairs = [pair for topic in ALL_TOPICS if topic.groups for pair in self._partitions(topic)]
        ends = await self._ask("end_offsets", pairs)
        for offsets in (await self._committed()).values():
            for pair, offset in offsets.items():
                ends[pair] = max(ends[pair], offset)
        return ends

    async def lag(self, ends: Offsets) -> dict[str, int]:
        """Records before ``ends`` that a group has not committed yet, by ``group on topic``.

        Raises:
            KafkaUnavailable: no answer within the deadline.
        """
        starts = await self._ask("beginning_offsets", list(ends))
        return {
            f"{group} on {topic.name}": sum(
                ends[pair] - max(starts[pair], offsets.get(pair, 0)) for pair in self._partitions(topic)
            )
            for (group, topic), offsets in (await self._committed()).items()
        }

    async def _committed(self) -> dict[tuple[str, Topic], dict[TopicPartition, int]]:
        """The offsets that each group has committed on each of its topics; what it has not is left out."""
        committed: dict[tuple[str, Topic], dict[TopicPartition, int]] = {}
        async with self._kafka.admin() as admin:
            for topic in ALL_TOPICS:
                for group in topic.groups:
                    try:
                        answer = await asyncio.wait_for(
                            admin.list_consumer_group_offsets(
                                self._kafka.group_name(group), partitions=self._partitions(topic)
                            ),
                            self._kafka.deadline_s,
                        )
                    except (KafkaError, OSError, TimeoutError) as error:
                        raise KafkaUnavailable(f"offsets of {group}: {error}") from error
                    committed[group, topic] = {pair: found.offset for pair, found in answer.items()}
        return committed

    async def order_events(
        self, ends: Offsets, deadline_s: float
    ) -> tuple[dict[str, list[LoggedEvent]], list[str]]:
        """All order events up to ``ends``, by order and in the log's order; and what could not be understood.

        Raises:
            KafkaUnavailable: the end was not reached within the deadline.
        """
        consumer, pairs = self._open(), self._partitions(ORDERS_EVENTS)
        starts = await self._ask("beginning_offsets", pairs)
        wanted = [pair for pair in pairs if ends[pair] > starts[pair]]
        events: dict[str, list[LoggedEvent]] = defaultdict(list)
        malformed: list[str] = []
        consumer.assign(pairs)
        for pair in pairs:
            consumer.seek(pair, starts[pair])
        position = dict(starts)
        try:
            async with asyncio.timeout(deadline_s):
                while any(position[pair] < ends[pair] for pair in wanted):
                    for pair, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                        for record in records:
                            position[pair] = record.offset + 1
                            if record.offset >= ends[pair]:
                                continue
                            try:
                                envelope = decode(ORDERS_EVENTS, record.key, record.headers, record.value)
                            except MalformedEvent as error:
                                malformed.append(f"record {pair.partition}/{record.offset}: {error}")
                                continue
                            if isinstance(envelope.event, OrderEvent):
                                order_id = envelope.event.order_id
                                events[order_id].append(LoggedEvent(envelope.id, envelope.event))
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaUnavailable(f"order events: {type(error).__name__}: {error}") from error
        return dict(events), malformed

    def _partitions(self, topic: Topic) -> list[TopicPartition]:
        name = self._kafka.topic_name(topic)
        return [TopicPartition(name, number) for number in range(topic.partitions)]

    def _open(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise KafkaUnavailable("the reader is not open")
        return self._consumer

    async def _ask(self, question: str, pairs: list[TopicPartition]) -> dict[TopicPartition, int]:
        try:
            answer: dict[TopicPartition, int] = await asyncio.wait_for(
                getattr(self._open(), question)(pairs), self._kafka.deadline_s
            )
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaUnavailable(f"{question}: {type(error).__name__}: {error}") from error
        return answer
