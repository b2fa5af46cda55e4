"""The whole way from Kafka to the socket, for the fan-out benchmark: a backlog's rate, and the time a frame takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition

from bench.fanout_frames import OFFERS_AN_EVENT, captain, event_of_offers
from bench.fanout_talker import Talker
from bench.report import Row
from weelo_common.events import encode, seal
from weelo_common.events.topics import DISPATCH_OFFERS, DISPATCHER
from weelo_common.ids import new_id
from weelo_common.kafka import KafkaClients

LATENCY_RATE = 100  # events a second
WARM_UP_EVENTS = 200
PATIENCE_S = 60.0


class WholeWay:
    """Publishes events, and asks the phones when their frames came."""

    def __init__(
        self, kafka: KafkaClients, cpu: Callable[[], dict[str, float]], readers: Talker, sockets: int
    ) -> None:
        """``cpu`` gives the CPU seconds so far of those who work for a frame, by name."""
        self._kafka = kafka
        self._cpu = cpu
        self._readers = readers
        self._sockets = sockets

    async def rows(self, events: int, seconds: float) -> list[Row]:
        """A backlog of so many events, then a steady rate for so many seconds."""
        producer = await self._kafka.start_producer()
        try:
            self._readers.say("hear")
            await self._send(producer, WARM_UP_EVENTS, rate=0)
            await self._heard(WARM_UP_EVENTS)
            return [*await self._backlog(producer, events), *await self._latency(producer, seconds)]
        finally:
            await self._kafka.stop_producer(producer)

    async def _send(self, producer: AIOKafkaProducer, count: int, *, rate: float) -> dict[str, float]:
        """Publish so many events, at a rate or at once; returns by order when each was due."""
        topic = self._kafka.topic_name(DISPATCH_OFFERS)
        sockets = self._sockets
        sent_at: dict[str, float] = {}
        acknowledged = []
        began = time.time()
        for number in range(count):
            due = began + number / rate if rate else time.time()
            await asyncio.sleep(max(0.0, due - time.time()))
            order_id = new_id()
            sent_at[order_id] = due
            now = datetime.now(UTC)
            captains = [
                captain((number * OFFERS_AN_EVENT + i) * 7919 % sockets) for i in range(OFFERS_AN_EVENT)
            ]
            event = event_of_offers(captains, now + timedelta(minutes=5), order_id)
            headers, value = encode(seal(event, source=DISPATCHER, time=now), None)
            acknowledged.append(await producer.send(topic, value, key=order_id.encode(), headers=headers))
        await asyncio.wait_for(asyncio.gather(*acknowledged), PATIENCE_S)
        return sent_at

    async def _heard(self, orders: int) -> dict[str, Any]:
        """Wait until the phones have heard of as many frames as were made; returns what they heard."""
        wanted = orders * OFFERS_AN_EVENT
        total: dict[str, Any] = {"frames": 0, "last_at": {}, "first_at": {}}
        give_up_at = time.monotonic() + PATIENCE_S
        while total["frames"] < wanted:
            if time.monotonic() > give_up_at:
                sys.exit(f"only {total['frames']} of {wanted} frames came")
            await asyncio.sleep(0.2)
            some = json.loads(await asyncio.to_thread(self._readers.ask, "enough"))
            total["frames"] += some["frames"]
            for order_id, at in some["first_at"].items():
                total["first_at"].setdefault(order_id, at)
            total["last_at"] |= some["last_at"]
            self._readers.say("hear")
        self._readers.ask("enough")
        return total

    async def _backlog(self, producer: AIOKafkaProducer, events: int) -> list[Row]:
        self._readers.say("hear")
        used = self._cpu()
        sent_at = await self._send(producer, events, rate=0)
        heard = await self._heard(events)
        after = self._cpu()
        took = max(heard["last_at"].values()) - min(sent_at.values())
        frames = events * OFFERS_AN_EVENT
        print(f"  from Kafka to the socket: {frames / took:,.0f} frames/s")
        conditions = (
            f"{events:,} events of {OFFERS_AN_EVENT} offers each at once, to {self._sockets:,} sockets; one "
            f"notifier, PostgreSQL (fsync on), Redis, Apache Kafka, producer and phones on the same 2 cores"
        )
        rows = [
            Row("from Kafka to the socket, a backlog", f"{frames / took:,.0f} frames/s",
                f"{events / took:,.0f} events/s", frames / took, "higher", None, "frames/s", conditions)
        ]  # fmt: skip
        for name in used:
            us = (after[name] - used[name]) / frames * 1e6
            rows.append(
                Row(f"CPU of {name} a frame", f"{us:.0f} us", "-", us, "lower", None, "us", conditions)
            )
        return rows

    async def _latency(self, producer: AIOKafkaProducer, seconds: float) -> list[Row]:
        events = int(seconds * LATENCY_RATE)
        async with reading(self._kafka) as read_at:
            self._readers.say("hear")
            sent_at = await self._send(producer, events, rate=LATENCY_RATE)
            heard = await self._heard(events)
        ours = sorted((heard["last_at"][order_id] - at) * 1000 for order_id, at in sent_at.items())
        broker = sorted(
            (read_at[order_id] - at) * 1000 for order_id, at in sent_at.items() if order_id in read_at
        )
        conditions = (
            f"{LATENCY_RATE} events/s of {OFFERS_AN_EVENT} offers for {seconds:g} s, to the last of an "
            f"event's sockets, of {self._sockets:,}; beside it a plain consumer reads the same events"
        )
        rows = []
        for name, at in (("p50", 0.5), ("p99", 0.99)):
            one, other = ours[int(len(ours) * at)], broker[int(len(broker) * at)]
            rows.append(
                Row(f"from Kafka to the last socket at {LATENCY_RATE} events/s, {name}", f"{one:.1f} ms",
                    f"{other:.1f} ms from Kafka to a plain consumer", one, "lower", None, "ms", conditions)
            )  # fmt: skip
        return rows


@contextlib.asynccontextmanager
async def reading(kafka: KafkaClients) -> AsyncIterator[dict[str, float]]:
    """A plain consumer from now on; gives when each key came, by the wall clock."""
    consumer = kafka.consumer(group=None)
    await kafka.start_consumer(consumer)
    topic = kafka.topic_name(DISPATCH_OFFERS)
    partitions = [TopicPartition(topic, number) for number in range(DISPATCH_OFFERS.partitions)]
    consumer.assign(partitions)
    await consumer.seek_to_end(*partitions)
    for partition in partitions:
        await consumer.position(partition)
    stop = asyncio.Event()
    read_at: dict[str, float] = {}

    async def read() -> None:
        while not stop.is_set():
            batches = await consumer.getmany(timeout_ms=100, max_records=2000)
            now = time.time()
            for records in batches.values():
                for record in records:
                    read_at[(record.key or b"").decode()] = now

    task = asyncio.create_task(read())
    try:
        yield read_at
    finally:
        stop.set()
        await task
        await kafka.stop_consumer(consumer)
