"""``make bench-timers``: a million pending timers; how late, how many a second, and how soon after a start they fire.

expiry runs as a process of its own on the real servers. In turns with it run the pollers of ``bench.timer_peers``, with
as many pending and as many due. Theirs is late by the moment at which the poller holds the timer; ours by the moment at
which a consumer of ``timers.fired.v1`` holds the event, so the way through Kafka is in it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import asyncpg
import httpx
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.cpu import cpu_seconds
from bench.report import FOLDER, Row, publish, spread
from bench.timer_peers import FAR_S, POSTGRES_POLL_S, PostgresPoller, RedisPoller
from deploy.local.services import ServiceProcess
from deploy.local.settings import PROJECT
from deploy.local.stack import LocalStack
from weelo_common.events.topics import EXPIRY, TIMERS_FIRED
from weelo_common.kafka import KafkaClients
from weelo_common.settings import KafkaSettings

DUE_RATE = 2000  # timers a second, as the target has it
STEP_S = 1 / DUE_RATE
LEAD_S = 4.0  # for expiry to start in, before the first timer is due
WARM_UP_S = 3.0  # of timers that come due before those that count: the broker's code is compiled as it runs
GAP_S = 1.5  # between two turns: what the one left goes to its end
PATIENCE_S = 60.0
LOOK_S = 0.05
RESTART_FLOW_S = 20.0  # timers come due this long around a restart
ON_TIME_S = 0.05  # a start is over once nothing is overdue by more than this

# $1 timers, the first due at $2, one each $3 s, spread over the partitions. An order's id is a UUIDv7, of the time at
# which it was made: as in life, timers of one delay come due in the order of their keys.
FILL = """
INSERT INTO timers (timer_key, version, partition, state, owner, due_at, payload, order_id)
SELECT 'order-expiry:' || order_id, 1, number % 12, 'pending', 'order-api', due_at, '{}', order_id
FROM (SELECT number, due_at,
             overlay(lpad(to_hex((date_part('epoch', due_at) * 1000)::bigint), 12, '0') placing '-' from 9 for 0)
             || '-7' || substr(random, 1, 3) || '-8' || substr(random, 4, 3) || '-' || substr(random, 7, 12) AS order_id
      FROM (SELECT number, $2::timestamptz + number * ($3::float8 * interval '1 second') AS due_at,
                   md5($4::integer || '/' || number) AS random
            FROM generate_series(0, $1::integer - 1) AS number) AS due) AS made
"""
OVERDUE = """
SELECT count(*) FROM timers
WHERE state = 'pending' AND partition = ANY ($2::integer[])
  AND due_at <= (SELECT clock_timestamp() - $1 * interval '1 second')
"""
PARTITIONS = list(range(12))


class Table:
    """expiry's table, filled past its consumer: how a timer comes in is not what is measured."""

    def __init__(self, conn: asyncpg.Connection[asyncpg.Record]) -> None:
        self._conn = conn
        self._series = 0

    async def fill(self, count: int, first_due_s: float, step_s: float) -> None:
        """``count`` timers in one transaction."""
        self._series += 1
        first = datetime.fromtimestamp(first_due_s, UTC)
        await self._conn.execute(FILL, count, first, step_s, self._series)

    async def settle(self) -> None:
        """As autovacuum leaves a table that has been in use for a while."""
        await self._conn.execute("VACUUM (ANALYZE) timers")

    async def empty(self) -> None:
        await self._conn.execute("TRUNCATE timers, firings")

    async def overdue(self, by_s: float) -> int:
        count: int = await self._conn.fetchval(OVERDUE, by_s, PARTITIONS)
        return count


class Reader:
    """A consumer of ``timers.fired.v1``, from now on."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, kafka: KafkaClients) -> AsyncIterator[Reader]:
        consumer = kafka.consumer(group=None)
        await kafka.start_consumer(consumer)
        try:
            name = kafka.topic_name(TIMERS_FIRED)
            consumer.assign([TopicPartition(name, number) for number in range(TIMERS_FIRED.partitions)])
            yield cls(consumer)
        finally:
            await kafka.stop_consumer(consumer)

    async def lates_ms(self, from_s: float, until_s: float) -> tuple[list[float], list[float]]:
        """How late each event came whose timer was due between these moments, and how late each was claimed."""
        await self._consumer.seek_to_end(*self._consumer.assignment())
        for partition in self._consumer.assignment():
            await self._consumer.position(partition)
        lates: list[float] = []
        claims: list[float] = []
        while time.time() < until_s + GAP_S:
            batches = await self._consumer.getmany(timeout_ms=100, max_records=2000)
            held = time.time()
            for records in batches.values():
                for record in records:
                    body = orjson.loads(record.value)
                    due_s = datetime.fromisoformat(body["dueAt"]).timestamp()
                    if from_s - GAP_S / 2 < due_s < until_s + GAP_S / 2:  # turns are further apart
                        lates.append((held - due_s) * 1000)
                        claims.append((datetime.fromisoformat(body["firedAt"]).timestamp() - due_s) * 1000)
        return lates, claims

    async def ends(self) -> int:
        """How many events stand on the topic."""
        offsets = await self._consumer.end_offsets(self._consumer.assignment())
        return sum(offsets.values())


def at(values: list[float], share: float) -> float:
    """The value below which this share of them is."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def fired_so_far(client: httpx.AsyncClient, service: ServiceProcess) -> float:
    text = (await client.get(f"{service.base_url}/metrics")).text
    return next(
        float(line.split()[1]) for line in text.splitlines() if line.startswith("weelo_expiry_fired_total")
    )


async def drained_per_second(table: Table, service: ServiceProcess, reader: Reader, backlog: int) -> float:
    """Timers a second that expiry fires while a backlog lasts: from a tenth of it to nineteen twentieths."""
    events = await reader.ends()
    async with httpx.AsyncClient() as client, asyncio.timeout(PATIENCE_S):
        start = await fired_so_far(client, service)
        await table.fill(backlog, time.time() - 600, 0.001)
        marks: list[tuple[float, float]] = []
        done = 0.0
        while done < backlog:
            await asyncio.sleep(LOOK_S)
            done = await fired_so_far(client, service) - start
            marks.append((time.perf_counter(), done))
    counted = [mark for mark in marks if 0.1 * backlog <= mark[1] <= 0.95 * backlog]
    if await reader.ends() - events < backlog:
        raise RuntimeError("timers were counted as fired whose events are not there")
    (began, least), (ended, most) = counted[0], counted[-1]
    return (most - least) / (ended - began)


async def restarted_s(table: Table, service: ServiceProcess) -> float:
    """Seconds from the start of the process to the moment when every timer that is due has fired."""
    began = time.perf_counter()
    await asyncio.to_thread(service.start)
    async with asyncio.timeout(PATIENCE_S):
        while await table.overdue(ON_TIME_S):  # noqa: ASYNC110 - another process does the work
            await asyncio.sleep(LOOK_S)
    return time.perf_counter() - began


def resident_bytes(pid: int) -> int:
    """Memory of a process that is its own in RAM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no memory known of process {pid}")


class Run:
    """One run of all parts."""

    def __init__(self, stack: LocalStack, options: argparse.Namespace) -> None:
        self.stack = stack
        self.options = options
        self.rows: list[Row] = []
        self.conditions = (
            f"2 cores shared by everything: expiry, PostgreSQL (fsync on), Apache Kafka, Redis, the reader; "
            f"{options.pending:,} timers pending; in turns, {options.rounds} rounds, medians; "
            f"load average {os.getloadavg()[0]:.1f}"
        )

    def row(
        self,
        name: str,
        ours: str,
        against: str,
        value: float,
        unit: str,
        reach: float | None = None,
        better: Literal["higher", "lower"] = "lower",
    ) -> None:
        self.rows.append(Row(name, ours, against, value, better, reach, unit, self.conditions))

    async def go(self) -> list[Row]:
        """Everything, on servers that are up."""
        stack, options = self.stack, self.options
        dsn = stack.provision()[EXPIRY]
        await asyncio.to_thread(stack.create_topics)
        await asyncio.to_thread(stack.migrate, [EXPIRY])
        settings = KafkaSettings(kafka_bootstrap_servers=stack.servers.kafka_bootstrap)
        async with contextlib.AsyncExitStack() as parts:
            conn = await asyncpg.connect(
                dsn, command_timeout=PATIENCE_S, server_settings={"statement_timeout": "0"}
            )
            parts.push_async_callback(conn.close)
            reader = await parts.enter_async_context(Reader.open(KafkaClients(settings, client_id="bench")))
            table = Table(conn)

            service = await asyncio.to_thread(stack.start_service, EXPIRY, {"LOG_LEVEL": "WARNING"})
            await asyncio.to_thread(service.wait_ready)
            empty_bytes = resident_bytes(service.pid)
            await asyncio.to_thread(service.stop)

            peers = RedisPoller(stack.servers.redis_url), PostgresPoller(conn)
            await peers[0].fill(options.pending, time.time() + FAR_S, 0.001)
            await peers[1].prepare(options.pending)
            await table.fill(options.pending, time.time() + 600, STEP_S)
            await table.settle()
            print("  filled", flush=True)

            await self.lateness(table, reader, service, *peers)
            for peer in peers:
                await peer.close()
            await self.throughput(table, reader, service)
            await asyncio.to_thread(service.stop)
            await self.restart(table, empty_bytes)
        return self.rows

    async def lateness(
        self,
        table: Table,
        reader: Reader,
        service: ServiceProcess,
        by_redis: RedisPoller,
        by_postgres: PostgresPoller,
    ) -> None:
        """Ours and the two peers, in turns on one timeline."""
        seconds, rounds = self.options.seconds, self.options.rounds
        turn_s = seconds + GAP_S + 0.5
        count = int(seconds * DUE_RATE)
        # All of it is scheduled before expiry starts: what is put past its consumer it would learn of too late.
        began = time.time() + LEAD_S + WARM_UP_S + GAP_S + 3 * rounds * count / 25_000
        await table.fill(int(WARM_UP_S * DUE_RATE), began - WARM_UP_S - GAP_S, STEP_S)
        for number in range(rounds):
            first = began + 3 * number * turn_s
            await table.fill(count, first, STEP_S)
            await by_redis.fill(count, first + turn_s, STEP_S)
            await by_postgres.fill(count, first + 2 * turn_s, STEP_S)
        await asyncio.to_thread(service.start)
        await asyncio.to_thread(service.wait_ready)
        if time.time() > began - WARM_UP_S:
            raise RuntimeError("the machine was too slow to begin in time: choose fewer rounds or seconds")
        lates: dict[str, list[list[float]]] = {"ours": [], "redis": [], "postgres": []}
        claims: list[list[float]] = []
        cpu: list[float] = []
        for number in range(rounds):
            first = began + 3 * number * turn_s
            await asyncio.sleep(max(0.0, first - 0.5 - time.time()))
            before = cpu_seconds(service.pid)
            held, claimed = await reader.lates_ms(first, first + seconds)
            lates["ours"].append(held)
            claims.append(claimed)
            cpu.append((cpu_seconds(service.pid) - before) / seconds)
            await asyncio.sleep(max(0.0, first + turn_s - time.time()))
            lates["redis"].append(await by_redis.lates_ms(first + turn_s + seconds + 0.2))
            await asyncio.sleep(max(0.0, first + 2 * turn_s - time.time()))
            lates["postgres"].append(
                await by_postgres.lates_ms(first + 2 * turn_s + seconds + POSTGRES_POLL_S + 0.2)
            )
            print(
                f"  round {number + 1}: p99 late "
                + ", ".join(
                    f"{name} {at(of[-1], 0.99):.1f} ms ({len(of[-1])})" for name, of in lates.items()
                ),
                flush=True,
            )
        for share, name, reach in ((0.5, "p50", None), (0.99, "p99", 20.0), (0.999, "p99.9", None)):
            shown = {one: [at(values, share) for values in of] for one, of in lates.items()}
            claimed_ms = [at(values, share) for values in claims]
            self.row(
                f"late at {DUE_RATE:,} due a second, {name}",
                f"{spread_ms(shown['ours'])} at a consumer, {spread_ms(claimed_ms)} when claimed",
                f"{spread_ms(shown['redis'])} Redis 5 ms, {spread_ms(shown['postgres'])} PostgreSQL 1 s, in hand",
                statistics.median(shown["ours"]),
                "ms",
                reach,
            )
        expected, came = rounds * count, sum(len(values) for values in lates["ours"])
        if came != expected:
            raise RuntimeError(f"{came} events came of {expected} timers")
        self.row(
            f"CPU of expiry at {DUE_RATE:,} due a second",
            f"{statistics.median(cpu) / DUE_RATE * 1e6:.0f} us a timer",
            "-",
            statistics.median(cpu) * 100,
            "% of a core",
        )

    async def throughput(self, table: Table, reader: Reader, service: ServiceProcess) -> None:
        """A backlog appears at once and is drained, again and again."""
        rates: list[float] = []
        for number in range(self.options.rounds):
            rates.append(await drained_per_second(table, service, reader, self.options.backlog))
            print(f"  round {number + 1}: fired {rates[-1]:,.0f}/s", flush=True)
        self.row(
            "timers fired with their events",
            spread(rates) + "/s",
            "-",
            statistics.median(rates),
            "timers/s",
            40_000,
            "higher",
        )

    async def restart(self, table: Table, empty_bytes: int) -> None:
        """A start with everything pending held in memory, while timers come due."""
        took: list[float] = []
        held: list[float] = []
        service = await asyncio.to_thread(
            self.stack.start_service, EXPIRY, {"LOG_LEVEL": "WARNING", "HOLD_AHEAD_S": "3600"}
        )
        for _ in range(self.options.rounds):
            await asyncio.to_thread(service.stop)
            await table.fill(int(RESTART_FLOW_S * DUE_RATE), time.time(), STEP_S)
            took.append(await restarted_s(table, service))
            await asyncio.to_thread(service.wait_ready)
            held.append((resident_bytes(service.pid) - empty_bytes) / self.options.pending)
            print(f"  started in {took[-1]:.2f} s, {held[-1]:.0f} bytes a timer", flush=True)
        await asyncio.to_thread(service.stop)
        self.row(
            f"restart with {self.options.pending:,} pending, until all that is due has fired",
            f"{statistics.median(took):.2f} ({min(took):.2f} to {max(took):.2f}) s",
            "-",
            statistics.median(took),
            "s",
            5.0,
        )
        self.row(
            "memory a pending timer, all of them held",
            f"{statistics.median(held):.0f} bytes",
            "-",
            statistics.median(held),
            "bytes",
        )


def spread_ms(values: list[float]) -> str:
    """``median (least to most)`` with a tenth of a millisecond."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f}) ms"


def main() -> None:
    """Run the benchmark."""
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pending", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a turn of each at 2,000 due a second")
    parser.add_argument("--backlog", type=int, default=200_000, help="timers that a round of firing drains")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with LocalStack(PROJECT / FOLDER / "stack", None, env=os.environ) as stack:
        stack.start_servers()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rows = runner.run(Run(stack, options).go())
    publish("timers", rows)


if __name__ == "__main__":
    main()
