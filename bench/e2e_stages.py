"""Where an order's time goes on its way to the captain: from what Kafka has of it, at no cost to the services.

``ce_time`` is the database's clock inside the transaction; a record's timestamp is when the relay handed it to its
producer. All clocks are one machine's, and both count in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition

from bench.e2e_phones import Journey
from weelo_common.clock import parse_time
from weelo_common.events import OffersMade, OrderCreated
from weelo_common.events.topics import DISPATCH_OFFERS, ORDERS_EVENTS, Topic
from weelo_common.kafka import KafkaClients

READ_DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Published:
    """An event's two moments, in seconds of the wall clock."""

    event_at: float
    produced_at: float


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the way, and how long each order took for it, in ms."""

    name: str
    took_ms: list[float]


async def first_published(kafka: KafkaClients) -> tuple[dict[str, Published], dict[str, Published]]:
    """``OrderCreated`` and the first ``OffersMade`` that has offers, by order id."""
    created, offered = await asyncio.gather(
        _first(kafka, ORDERS_EVENTS, OrderCreated.TYPE), _first(kafka, DISPATCH_OFFERS, OffersMade.TYPE)
    )
    return created, offered


def stages(
    journeys: Mapping[str, Journey], created: Mapping[str, Published], offered: Mapping[str, Published]
) -> list[Stage]:
    """The parts of the whole way, one after the other; then the answer, which comes beside them."""
    whole = [
        (journey, created[order_id], offered[order_id])
        for order_id, journey in journeys.items()
        if journey.first_offer and order_id in created and order_id in offered
    ]

    def stage(name: str, moments: Iterator[tuple[float, float]]) -> Stage:
        return Stage(name, [(end - start) * 1000 for start, end in moments])

    return [
        stage("booking due, to its order's event in PostgreSQL", ((j.due, c.event_at) for j, c, _ in whole)),
        stage("commit, and outbox to Kafka", ((c.event_at, c.produced_at) for _, c, _ in whole)),
        stage("Kafka, to the dispatcher's transaction", ((c.produced_at, o.event_at) for _, c, o in whole)),
        stage("match, commit, and outbox to Kafka", ((o.event_at, o.produced_at) for _, _, o in whole)),
        stage("Kafka, notifier, to the socket", ((o.produced_at, j.first_offer) for j, _, o in whole)),
        stage("beside it: booking due, to the customer's answer", ((j.due, j.answered) for j, _, _ in whole)),
    ]


async def _first(kafka: KafkaClients, topic: Topic, event_type: str) -> dict[str, Published]:
    consumer = kafka.consumer(group=None)
    await kafka.start_consumer(consumer)
    try:
        pairs = [TopicPartition(kafka.topic_name(topic), number) for number in range(topic.partitions)]
        consumer.assign(pairs)
        await consumer.seek_to_beginning(*pairs)
        ends = await consumer.end_offsets(pairs)
        found: dict[str, Published] = {}
        async with asyncio.timeout(READ_DEADLINE_S):
            while any([await consumer.position(pair) < ends[pair] for pair in pairs]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    _note(records, event_type, found)
        return found
    finally:
        await kafka.stop_consumer(consumer)


def _note(records: Sequence[Any], event_type: str, found: dict[str, Published]) -> None:
    for record in records:
        headers = dict(record.headers)
        order_id = record.key.decode()
        if headers["ce_type"].decode() != event_type or order_id in found:
            continue
        if event_type == OffersMade.TYPE and not json.loads(record.value)["offers"]:
            continue
        event_at = parse_time(headers["ce_time"].decode()).timestamp()
        found[order_id] = Published(event_at, record.timestamp / 1000)
