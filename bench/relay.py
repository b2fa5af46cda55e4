"""``make bench-relay``: how fast the outbox drains into Kafka, and what it adds to an event's way.

Beside it runs what the relay replaces: reading one row, ``send_and_wait``, deleting it, again and again. Both drain the
same backlog on the same servers in turns, while a writer goes on writing. Then the relay's cost an event in ordinary
work, where each pass finds some rows only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from prometheus_client import CollectorRegistry

from bench.relay_writer import event_of
from bench.report import FOLDER, Row, publish, spread
from deploy.local.settings import PROJECT
from deploy.local.stack import LocalStack
from order_api.settings import Settings
from weelo_common.events.topics import ORDER_API, ORDERS_EVENTS, Topic
from weelo_common.ids import new_id
from weelo_common.kafka import KafkaClients
from weelo_common.outbox import INSERT_EVENTS, Outbox
from weelo_common.postgres import Database
from weelo_common.record_batches import decode_headers
from weelo_common.relay import Relay
from weelo_common.relay_metrics import RelayMetrics

WRITE_BATCH = 1000  # events in one transaction of the backlog
BACKGROUND_RATE = 200  # events a second that a writer adds during a drain
LATENCY_RATE = 1000  # events a second, as the target has it
STEADY_ORDERS = 3000  # a second, two events each
ONE_BY_ONE = "SELECT id, topic, key, headers, payload FROM outbox ORDER BY id LIMIT 1"
DELETE_ONE = "DELETE FROM outbox WHERE id = $1"
PATIENCE_S = 120.0


class Arena:
    """One database and the real topics, with all that a drain needs."""

    def __init__(
        self, database: Database, relay_database: Database, kafka: KafkaClients, settings: Settings
    ) -> None:
        self.database = database
        self.relay_database = relay_database
        self.kafka = kafka
        self.settings = settings
        self.outbox = Outbox(ORDER_API)

    async def write(self, count: int) -> None:
        """Append events, each of its own order."""
        now = datetime.now(UTC)
        for start in range(0, count, WRITE_BATCH):
            async with self.database.transaction() as connection:
                events = [event_of(new_id(), now) for _ in range(min(WRITE_BATCH, count - start))]
                await self.outbox.append(connection, events, at=now)

    async def depth(self) -> int:
        async with self.database.connection() as connection:
            found: int = await connection.fetchval("SELECT count(*) FROM outbox")
            return found

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """A writer in the background, at ``BACKGROUND_RATE``."""
        stop = asyncio.Event()

        async def go_on() -> None:
            while not stop.is_set():
                await self.write(BACKGROUND_RATE // 20)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.05)

        writer = asyncio.create_task(go_on())
        try:
            yield
        finally:
            stop.set()
            await writer


async def drain_by_relay(arena: Arena, backlog: int) -> tuple[float, float]:
    """Events a second of the relay over the whole backlog, and CPU µs of this process for each."""
    relay = Relay(arena.relay_database, arena.kafka, arena.settings, RelayMetrics(CollectorRegistry()))
    await arena.write(1)
    await relay.run_once()  # the lease and the producer are there before the clock starts
    await arena.write(backlog)
    sent = 0
    async with arena.writing(), asyncio.timeout(PATIENCE_S):
        began, used = time.perf_counter(), time.process_time()
        while sent < backlog:
            sent += await relay.run_once()
        took, used = time.perf_counter() - began, time.process_time() - used
        stop = asyncio.Event()
        running = asyncio.create_task(relay.run(stop))
    async with asyncio.timeout(PATIENCE_S):
        while await arena.depth():
            await asyncio.wait([running], timeout=0.05)
    stop.set()
    await running
    return sent / took, used / sent * 1e6


async def drain_one_by_one(arena: Arena, seconds: float) -> float:
    """Events a second of what the relay replaces: the same producer settings, one row at a time."""
    producer = await arena.kafka.start_producer()
    try:
        await arena.write(int(seconds * 3000))
        sent = 0
        async with arena.writing(), arena.database.connection() as connection:
            began = time.perf_counter()
            while time.perf_counter() - began < seconds:
                row = await connection.fetchrow(ONE_BY_ONE)
                if row is None:
                    break
                await _one(producer, row["topic"], row["key"], row["headers"], row["payload"])
                await connection.execute(DELETE_ONE, row["id"])
                sent += 1
            took = time.perf_counter() - began
        async with arena.database.connection() as connection:
            await connection.execute("TRUNCATE outbox")
        return sent / took
    finally:
        await arena.kafka.stop_producer(producer)


async def _one(producer: AIOKafkaProducer, topic: str, key: str, headers: bytes, payload: bytes) -> None:
    told = decode_headers(headers)
    await asyncio.wait_for(producer.send_and_wait(topic, payload, key=key.encode(), headers=told), PATIENCE_S)


async def steady_us(arena: Arena, seconds: float, gather_s: float) -> tuple[float, float]:
    """CPU µs of this process for an event, and rows of a pass, at ``STEADY_ORDERS`` written by another process."""
    settings = arena.settings.model_copy(update={"relay_gather_s": gather_s})
    relay = CountingRelay(arena.relay_database, arena.kafka, settings, RelayMetrics(CollectorRegistry()))
    await arena.write(1)
    await relay.run_once()
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.relay_writer", arena.settings.postgres_dsn.get_secret_value(),
        str(STEADY_ORDERS), str(seconds), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert writer.stdout is not None  # noqa: S101 - it was asked for
    commits = writer.stdout
    await commits.read(1)
    stop = asyncio.Event()
    used = time.process_time()
    relay.passes.clear()
    running = asyncio.create_task(relay.run(stop))
    async with asyncio.timeout(PATIENCE_S):
        while await commits.read(4096):
            relay.wake()
        await writer.wait()
        while await arena.depth():
            await asyncio.wait([running], timeout=0.05)
    used = time.process_time() - used
    stop.set()
    await running
    return used / sum(relay.passes) * 1e6, statistics.mean(rows for rows in relay.passes if rows)


class CountingRelay(Relay):
    """Notes how many rows each pass had."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.passes: list[int] = []

    async def run_once(self) -> int:
        rows = await super().run_once()
        self.passes.append(rows)
        return rows


class Reader:
    """Reads the topic from now on and notes when each key came."""

    def __init__(self, kafka: KafkaClients, topic: Topic) -> None:
        self._kafka = kafka
        self._topic = topic
        self.came: dict[str, float] = {}
        self._more = asyncio.Event()

    async def has(self, keys: Set[str]) -> None:
        """Return once all keys came."""
        while not keys <= self.came.keys():
            self._more.clear()
            await self._more.wait()

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        consumer = self._kafka.consumer(group=None)
        await self._kafka.start_consumer(consumer)
        partitions = [
            TopicPartition(self._kafka.topic_name(self._topic), number)
            for number in range(self._topic.partitions)
        ]
        consumer.assign(partitions)
        await consumer.seek_to_end(*partitions)
        for partition in partitions:
            await consumer.position(partition)
        stop = asyncio.Event()

        async def read() -> None:
            while not stop.is_set():
                batches = await consumer.getmany(timeout_ms=100, max_records=2000)
                now = time.perf_counter()
                for records in batches.values():
                    for record in records:
                        self.came[(record.key or b"").decode()] = now
                self._more.set()

        task = asyncio.create_task(read())
        try:
            yield
        finally:
            stop.set()
            await task
            await self._kafka.stop_consumer(consumer)


async def latencies_ms(arena: Arena, seconds: float, emit: Callable[[str], Awaitable[object]]) -> list[float]:
    """Milliseconds from each event's start to its arrival at a consumer, at ``LATENCY_RATE``."""
    began_at: dict[str, float] = {}
    reader = Reader(arena.kafka, ORDERS_EVENTS)
    async with reader.reading(), asyncio.timeout(PATIENCE_S):
        started = time.perf_counter()
        tasks: set[asyncio.Task[object]] = set()

        async def one(key: str) -> object:
            return await emit(key)

        for number in range(int(seconds * LATENCY_RATE)):
            due = started + number / LATENCY_RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            key = new_id()
            began_at[key] = due
            task = asyncio.create_task(one(key))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks)
        await reader.has(began_at.keys())
    return sorted((reader.came[key] - began) * 1000 for key, began in began_at.items())


async def latency_of_broker(arena: Arena, seconds: float) -> list[float]:
    """The broker's own produce-to-consume time."""
    producer = await arena.kafka.start_producer()
    topic = arena.kafka.topic_name(ORDERS_EVENTS)
    payload = event_of(new_id(), datetime.now(UTC)).model_dump_json(by_alias=True).encode()
    try:
        return await latencies_ms(arena, seconds, lambda key: producer.send(topic, payload, key=key.encode()))
    finally:
        await arena.kafka.stop_producer(producer)


async def latency_of_relay(arena: Arena, seconds: float) -> list[float]:
    """From before the writing statement to the consumer, each event in a commit of its own."""
    relay = Relay(arena.relay_database, arena.kafka, arena.settings, RelayMetrics(CollectorRegistry()))
    arena.database.on_commit(relay.wake)
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))

    now = datetime.now(UTC)
    topics, _, ids, headers, payloads = arena.outbox.columns([event_of(new_id(), now)], at=now)

    async def emit(key: str) -> None:
        async with arena.database.single_statements() as connection:
            await connection.execute(INSERT_EVENTS, topics, [key], ids, headers, payloads)

    try:
        return await latencies_ms(arena, seconds, emit)
    finally:
        stop.set()
        await running


async def measure(arena: Arena, options: argparse.Namespace) -> list[Row]:
    """All rounds; returns the rows."""
    await drain_by_relay(arena, 2000)
    ours: list[float] = []
    singles: list[float] = []
    cpu_us: list[float] = []
    for number in range(options.rounds):
        singles.append(await drain_one_by_one(arena, options.seconds))
        rate, used_us = await drain_by_relay(arena, options.backlog)
        ours.append(rate)
        cpu_us.append(used_us)
        print(f"  round {number + 1}: relay {ours[-1]:,.0f}/s, one by one {singles[-1]:,.0f}/s")
    conditions = (
        f"2 cores shared by everything: this process (relay, writer), PostgreSQL (fsync on), Apache Kafka; "
        f"a writer adds {BACKGROUND_RATE} events/s meanwhile; backlog {options.backlog:,} events of some 250 bytes; "
        f"rounds in turns, median of {options.rounds}; load average {os.getloadavg()[0]:.1f}"
    )
    ratio = statistics.median(a / b for a, b in zip(ours, singles, strict=True))
    at_once_us, at_once = await steady_us(arena, options.seconds, 1e-6)
    gathered_us, gathered = await steady_us(arena, options.seconds, arena.settings.relay_gather_s)
    broker = await latency_of_broker(arena, options.seconds)
    relayed = await latency_of_relay(arena, options.seconds)
    rows = [
        Row("backlog drained into Kafka", spread(ours) + "/s", spread(singles) + "/s one by one", ratio, "higher",
            25.0, "times one by one", conditions),
        Row("CPU of the process an event, backlog", f"{statistics.median(cpu_us):.1f} us", "-",
            statistics.median(cpu_us), "lower", None, "us", conditions),
        Row(f"CPU of the process an event, at {2 * STEADY_ORDERS:,}/s", f"{gathered_us:.1f} us, {gathered:.0f} a pass",
            f"{at_once_us:.1f} us, {at_once:.0f} a pass, without gathering", gathered_us, "lower", None, "us",
            f"two events an order, {STEADY_ORDERS:,} orders/s from another process, the relay woken at each commit"),
    ]  # fmt: skip
    for name, at, reach in (("p50", 0.5, 10.0), ("p99", 0.99, None)):
        one, other = relayed[int(len(relayed) * at)], broker[int(len(broker) * at)]
        rows.append(
            Row(f"latency added at {LATENCY_RATE:,} events/s, {name}", f"{one:.1f} ms, commit included",
                f"{other:.1f} ms of the broker alone", one - other, "lower", reach, "ms",
                conditions)
        )  # fmt: skip
    return rows


async def run(stack: LocalStack, options: argparse.Namespace) -> list[Row]:
    """Everything, on servers that are up."""
    dsn = stack.provision()["order-api"]
    stack.create_topics()
    stack.migrate(["order-api"])
    settings = Settings.model_validate(
        {
            "postgres_dsn": dsn,
            "redis_url": stack.servers.redis_url,
            "kafka_bootstrap_servers": stack.servers.kafka_bootstrap,
            "kafka_producer_idempotence": stack.servers.kafka_idempotence,
            "jwt_public_key_file": stack.keys.jwt_public,
            "offer_token_jwks_file": stack.keys.offer_jwks,
            "http_port": 0,
        }
    )
    async with (
        Database.open(settings, application_name="bench") as database,
        Relay.database(settings, "bench") as relay_database,
    ):
        kafka = KafkaClients(settings, client_id="bench")
        return await measure(Arena(database, relay_database, kafka, settings), options)


def main() -> None:
    """Run the benchmark."""
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="of a round one by one, and of each latency"
    )
    parser.add_argument("--backlog", type=int, default=100_000, help="events that a round drains")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with LocalStack(PROJECT / FOLDER / "stack", None, env=os.environ) as stack:
        stack.start_servers()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rows = runner.run(run(stack, options))
    publish("relay", rows)


if __name__ == "__main__":
    main()
