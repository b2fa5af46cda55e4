"""Replicas of expiry as processes, which can be killed and have wrong clocks; and a client that meets them on Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from deploy.local.processes import Child, Command, Nursery
from expiry.settings import Settings
from weelo_common.events.envelope import Event, decode, encode, seal
from weelo_common.events.timers import TimerFired
from weelo_common.events.topics import TIMERS_FIRED
from weelo_common.kafka import KafkaClients

START_DEADLINE_S = 60.0  # a busy machine takes long over the imports alone
SEND_DEADLINE_S = 20.0

FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
needs_faketime = pytest.mark.skipif(
    FAKETIME is None, reason="needs faketime (Debian: apt-get install faketime)"
)

Firing = tuple[str, int]
"""Key and version: what a firing is known by."""


class ExpiryProcess(Child):
    """One replica; its calendar is ahead by ``clock_s`` seconds, behind where that is negative."""

    def __init__(
        self, nursery: Nursery, name: str, settings: Settings, folder: Path, clock_s: float = 0.0
    ) -> None:
        given = settings.model_dump(exclude_defaults=True)
        env = {field.upper(): str(value) for field, value in given.items()}
        env |= {"PATH": os.environ["PATH"], "POSTGRES_DSN": settings.postgres_dsn.get_secret_value()}
        env |= {"HTTP_PORT": "0"}
        if clock_s:
            assert FAKETIME is not None
            # The monotonic clock has no offset that anybody could see.
            env |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME": f"{clock_s:+}s",
                "DONT_FAKE_MONOTONIC": "1",
            }
        argv = (sys.executable, "-m", "expiry")
        super().__init__(nursery, Command(name, argv, folder / f"{name}.log", env, cwd=folder))

    def started(self) -> None:
        """Start it, and return once it serves."""
        before = self.said("Service started")
        self.start()
        self.wait_until(lambda: self.said("Service started") > before, START_DEADLINE_S)

    def said(self, message: str) -> int:
        """How often it said this, over all its lives."""
        if not self.log_path.exists():
            return 0
        whole = self.log_path.read_text().rpartition("\n")[0]
        lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return sum(line["message"] == message for line in lines)


@contextlib.contextmanager
def replicas(settings: Settings, folder: Path, *clocks_s: float) -> Iterator[list[ExpiryProcess]]:
    """So many replicas, running; ended however it goes."""
    nursery = Nursery()
    processes = [
        ExpiryProcess(nursery, f"expiry-{number}", settings, folder, clock_s)
        for number, clock_s in enumerate(clocks_s)
    ]
    try:
        for process in processes:
            process.started()
        yield processes
    finally:
        for process in processes:
            process.stop()
        nursery.close()


class Client:
    """A service that has timers: it sends commands and notes every firing, whenever it comes."""

    def __init__(self, kafka: KafkaClients, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer) -> None:
        self._kafka = kafka
        self._producer = producer
        self._consumer = consumer
        self._came = asyncio.Condition()
        self.fired: defaultdict[Firing, list[TimerFired]] = defaultdict(list)
        """Every event that came, repeats too."""
        self.ids: defaultdict[Firing, set[str]] = defaultdict(set)
        """Their event ids."""

    async def send(self, *events: Event, event_id: str | None = None) -> None:
        """Send commands, those of a key in order."""
        waits = []
        for event in events:
            envelope = seal(event, source="order-api", time=datetime.now(UTC), event_id=event_id)
            headers, value = encode(envelope)
            name = self._kafka.topic_name(envelope.topic)
            waits.append(await self._producer.send(name, value, key=envelope.key.encode(), headers=headers))
        await asyncio.wait_for(asyncio.gather(*waits), SEND_DEADLINE_S)

    async def until(self, is_so: Callable[[], bool], what: str, deadline_s: float) -> None:
        """Wait until the firings that came make it so.

        Raises:
            AssertionError: they did not, in time.
        """
        try:
            async with asyncio.timeout(deadline_s), self._came:
                await self._came.wait_for(is_so)
        except TimeoutError:
            raise AssertionError(f"not within {deadline_s} s: {what}") from None

    async def read(self, stop: asyncio.Event) -> None:
        """Note what comes until stopped."""
        while not stop.is_set():
            batches = await self._consumer.getmany(timeout_ms=100)
            if not batches:
                continue
            async with self._came:
                for records in batches.values():
                    for record in records:
                        envelope = decode(TIMERS_FIRED, record.key, record.headers, record.value)
                        assert isinstance(envelope.event, TimerFired)
                        firing = envelope.event.timer_key, envelope.event.version
                        self.fired[firing].append(envelope.event)
                        self.ids[firing].add(envelope.id)
                self._came.notify_all()


@contextlib.asynccontextmanager
async def client_of(kafka: KafkaClients) -> AsyncIterator[Client]:
    """A client that reads the topic of firings from its beginning."""
    producer = await kafka.start_producer()
    consumer = kafka.consumer(group=None)
    await kafka.start_consumer(consumer)
    name = kafka.topic_name(TIMERS_FIRED)
    consumer.assign([TopicPartition(name, number) for number in range(TIMERS_FIRED.partitions)])
    client = Client(kafka, producer, consumer)
    stop = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.read(stop))
            try:
                yield client
            finally:
                stop.set()
    finally:
        await kafka.stop_consumer(consumer)
        await kafka.stop_producer(producer)
