"""``make bench-intake``: creating orders over the whole path, beside PostgreSQL's own limit for the same rows.

The limit is pgbench with one prepared CTE statement that makes all the inserts of a create. Both run on the same
server in turns, each turn from empty tables. A create is of a new customer with his own RS256 token each time, with an
idempotency key, through HTTP, Redis, PostgreSQL and the outbox; the relay publishes to Kafka meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import asyncpg
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bench.cpu import cpu_seconds
from bench.phones import Plan, Result
from bench.report import FOLDER, Row, publish, spread
from deploy.local.services import ServiceProcess
from deploy.local.settings import PROJECT
from deploy.local.stack import LocalStack

CONNECTIONS = 64  # as the target has it
OPEN_LOOP_CONNECTIONS = 256  # an open loop must not run out of them while the service is slow for a moment
TOKEN_LIFETIME_S = 24 * 60 * 60
WARM_UP_S = 2.0
# The broker compiles itself while it works: the first 10,000 orders cost it 100 µs each, those after 30,000 only 20.
OUR_WARM_UP_S = 8.0
GROWN_ORDERS = 1_000_000
GROW_BATCH = 50_000  # orders in one statement, so that the server's own time-out is far away
SETTLE_S = 60.0  # for the relay to publish what a round left
END_SEARCHES = "UPDATE orders SET searching = false, search_end = 'time', status = 'expired' WHERE searching"
STATEMENT = Path(__file__).with_name("one_statement.sql")
GROW = Path(__file__).with_name("grow.sql")
EMPTY = (
    "TRUNCATE orders, truck_requests, idempotency_records, dispatch_progress, notified_transporters, outbox"
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of ours: what the phones saw, and CPU seconds of service, PostgreSQL, Redis and Kafka."""

    phones: Result
    service_s: list[float]
    postgres_s: float
    redis_s: float
    kafka_s: float

    @property
    def rate(self) -> float:
        return self.phones.created / self.phones.seconds


class Arena:
    """The stack with order-api alone, and what a round needs of it."""

    def __init__(self, stack: LocalStack, replicas: int, tokens: Path) -> None:
        self._stack = stack
        self._tokens = tokens
        dsns = stack.provision()
        self._dsn = dsns["order-api"]
        stack.create_topics()
        stack.migrate(["order-api"])
        # The limit writes into tables of its own, so that no relay works on its rows.
        self._limit_dsn = stack.provision("limit_")["order-api"]
        stack.migrate(["order-api"], {"POSTGRES_DSN": self._limit_dsn})
        # One customer comes once a round, so the rate limit is never met; it is checked all the same.
        self.services: list[ServiceProcess] = [stack.start_service("order-api") for _ in range(replicas)]
        for service in self.services:
            service.wait_ready()

    def empty(self) -> None:
        """Wait until the relay has published everything, then empty the tables of both."""
        asyncio.run(self._drain())
        for dsn in (self._dsn, self._limit_dsn):
            asyncio.run(_execute(dsn, EMPTY))

    def end_searches(self) -> None:
        """Let the customers order again; old orders stay."""
        asyncio.run(self._drain())
        asyncio.run(_execute(self._dsn, END_SEARCHES))

    def grow(self, orders: int) -> None:
        """Insert old orders with their answers, by SQL."""
        asyncio.run(_grow(self._dsn, orders))

    def limit(self, seconds: float) -> tuple[float, float]:
        """pgbench: statements a second, and CPU µs of PostgreSQL for each."""
        before = cpu_seconds(self._stack.server("postgres").pid, with_children=True)
        done = subprocess.run(
            ["pgbench", "-n", "-M", "prepared", "-f", str(STATEMENT), "-c", str(CONNECTIONS), "-j", "2",
             "-T", str(int(seconds)), "-D", "n=0", "-D", f"run={secrets.randbelow(10**9)}", self._limit_dsn],
            capture_output=True, text=True, timeout=seconds + 60, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            sys.exit(f"pgbench failed: {done.stderr[-2000:]}")
        rate = next(float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("tps"))
        count = next(
            int(line.split(":")[1].split("/")[0])
            for line in done.stdout.splitlines()
            if line.startswith("number of transactions actually")
        )
        after = cpu_seconds(self._stack.server("postgres").pid, with_children=True)
        return rate, (after - before) / count * 1e6

    def ours(self, seconds: float, *, rate: float = 0.0, skip: int = 0) -> Measured:
        """One round of creates."""
        plan = Plan(
            ports=[service.ports.http for service in self.services],
            connections=CONNECTIONS if rate == 0 else OPEN_LOOP_CONNECTIONS,
            seconds=seconds,
            rate=rate,
            tokens_file=str(self._tokens),
            skip=skip,
            run=secrets.token_hex(4),
        )
        before = self._cpu()
        done = subprocess.run(
            [sys.executable, "-m", "bench.phones"],
            input=json.dumps(asdict(plan)), capture_output=True, text=True, timeout=seconds + 120,
            cwd=PROJECT, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            sys.exit(f"the phones failed: {done.stderr[-2000:]}")
        result = Result(**json.loads(done.stdout))
        if result.failed:
            print(f"  {result.failed} creates failed: {result.statuses}", file=sys.stderr)
        after = self._cpu()
        used = [b - a for a, b in zip(before, after, strict=True)]
        return Measured(result, used[3:], used[0], used[1], used[2])

    def _cpu(self) -> list[float]:
        return [
            cpu_seconds(self._stack.server("postgres").pid, with_children=True),
            cpu_seconds(self._stack.server("redis").pid),
            cpu_seconds(self._stack.server("kafka").pid),
            *(cpu_seconds(service.pid) for service in self.services),
        ]

    async def _drain(self) -> None:
        connection = await asyncpg.connect(self._dsn)
        try:
            async with asyncio.timeout(SETTLE_S):
                while await connection.fetchval("SELECT EXISTS (SELECT FROM outbox)"):
                    await connection.execute("SELECT pg_sleep(0.05)")
        finally:
            await connection.close()


async def _execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql, timeout=SETTLE_S)
    finally:
        await connection.close()


async def _grow(dsn: str, orders: int) -> None:
    connection = await asyncpg.connect(dsn, server_settings={"statement_timeout": "0"})
    try:
        for start in range(0, orders, GROW_BATCH):
            await connection.execute(
                GROW.read_text(), start, min(start + GROW_BATCH, orders), timeout=SETTLE_S * 5
            )
        await connection.execute("VACUUM ANALYZE", timeout=SETTLE_S * 5)  # not what is measured
    finally:
        await connection.close()


def _signed(job: tuple[str, int, int]) -> list[str]:
    pem, first, last = job
    key = cast("RSAPrivateKey", load_pem_private_key(pem.encode(), password=None))
    until = int(time.time()) + TOKEN_LIFETIME_S
    return [
        jwt.encode(
            {"iss": "weelo", "aud": "weelo-apps", "sub": f"c-{number:08d}", "role": "customer", "exp": until,
             "name": f"Customer {number}", "phone": "+910000000000"},
            key, algorithm="RS256",
        )
        for number in range(first, last)
    ]  # fmt: skip


def make_tokens(stack: LocalStack, count: int) -> Path:
    """One token for each customer, in a file; signing takes the time of several checks, so it comes first."""
    pem = stack.keys.jwt_private.read_text()
    path = stack.run_dir / "tokens"
    step = 1000
    jobs = [(pem, first, min(first + step, count)) for first in range(0, count, step)]
    with ProcessPoolExecutor() as pool, path.open("w") as lines:
        for batch in pool.map(_signed, jobs):
            lines.writelines(f"{token}\n" for token in batch)
    return path


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round")
    parser.add_argument("--replicas", type=int, default=2, help="of order-api")
    parser.add_argument(
        "--grown", type=int, default=GROWN_ORDERS, help="orders to grow to; 0 leaves that out"
    )
    parser.add_argument("--customers", type=int, default=40_000, help="tokens made beforehand")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with LocalStack(PROJECT / FOLDER / "stack", None, env=os.environ) as stack:
        stack.start_servers()
        tokens = make_tokens(stack, options.customers)
        arena = Arena(stack, options.replicas, tokens)
        rows = measure(arena, options)
    publish("intake", rows)


def measure(arena: Arena, options: argparse.Namespace) -> list[Row]:
    """All rounds; returns the rows."""
    limits: list[float] = []
    limit_us: list[float] = []
    rounds: list[Measured] = []
    arena.limit(WARM_UP_S)
    arena.ours(OUR_WARM_UP_S)
    for number in range(options.rounds):
        arena.empty()
        rate, postgres_us = arena.limit(options.seconds)
        limits.append(rate)
        limit_us.append(postgres_us)
        arena.empty()
        one = arena.ours(options.seconds)
        rounds.append(one)
        print(
            f"  round {number + 1}: limit {rate:,.0f}/s, {postgres_us:.0f} us of PostgreSQL; ours {_told(one)}"
        )
    conditions = (
        f"2 cores shared by everything: phones, {options.replicas} order-api with its relay, PostgreSQL (fsync on), "
        f"Redis, Apache Kafka; RS256, a new customer and token and key each; warmed up for {OUR_WARM_UP_S:g} s, then "
        f"rounds of {options.seconds:g} s in turns with the limit, median of {options.rounds}; "
        f"load average before {os.getloadavg()[0]:.1f}"
    )
    ratio = statistics.median(one.rate / limit for one, limit in zip(rounds, limits, strict=True))
    rows = [
        Row("creates, closed loop", spread([one.rate for one in rounds]) + "/s", spread(limits) + "/s", ratio,
            "higher", 0.35, "of one statement", conditions),
        Row("of these by each order-api process", spread([one.rate / options.replicas for one in rounds]) + "/s",
            spread(limits) + "/s", ratio / options.replicas, "higher", None, "of one statement", conditions),
        *_cpu_rows("", rounds, statistics.median(limit_us), conditions),
    ]  # fmt: skip
    half = statistics.median([one.rate for one in rounds]) / 2
    arena.empty()
    calm = arena.ours(options.seconds * 2, rate=half).phones
    print(f"  open loop at {half:,.0f}/s: p50 {calm.p50_ms:.1f} ms, p99 {calm.p99_ms:.1f} ms")
    rows.append(
        Row("latency at half that rate, open loop, p99", f"p50 {calm.p50_ms:.1f} ms, max {calm.max_ms:.0f} ms",
            f"{calm.created / calm.seconds:,.0f}/s", calm.p99_ms, "lower", 50.0, "ms", conditions)
    )  # fmt: skip
    if options.grown:
        publish("intake", rows)  # what stands does not hang on what takes longest
        rows += _grown(arena, options, rounds, conditions)
    return rows


def _grown(arena: Arena, options: argparse.Namespace, empty: list[Measured], conditions: str) -> list[Row]:
    arena.empty()
    began = time.monotonic()
    arena.grow(options.grown)
    print(f"  {options.grown:,} orders made in {time.monotonic() - began:.0f} s")
    rounds: list[Measured] = []
    for number in range(max(1, options.rounds - 1)):
        arena.end_searches()
        rounds.append(arena.ours(options.seconds))
        print(f"  with {options.grown:,} orders, round {number + 1}: ours {_told(rounds[-1])}")
    before, after = (statistics.median(one.rate for one in some) for some in (empty, rounds))
    return [
        Row(f"creates with {options.grown:,} orders there", spread([one.rate for one in rounds]) + "/s",
            f"{before:,.0f}/s from empty", after / before, "higher", None, "of the rate from empty", conditions),
        *_cpu_rows(f", {options.grown:,} orders there", rounds, None, conditions),
    ]  # fmt: skip


def _cpu_rows(suffix: str, rounds: list[Measured], limit_us: float | None, conditions: str) -> list[Row]:
    def median_us(part: Callable[[Measured], float]) -> float:
        return statistics.median(part(one) / one.phones.created * 1e6 for one in rounds)

    parts: list[tuple[str, Callable[[Measured], float], float | str]] = [
        ("order-api", lambda one: sum(one.service_s), "-"),
        ("PostgreSQL", lambda one: one.postgres_s, f"{limit_us:.0f} us a statement" if limit_us else "-"),
        ("Redis", lambda one: one.redis_s, "-"),
        ("Kafka", lambda one: one.kafka_s, "-"),
        ("phones", lambda one: one.phones.cpu_s, "-"),
    ]
    return [
        Row(f"CPU of {name} an order{suffix}", f"{median_us(part):.0f} us", against, median_us(part), "lower", None,
            "us", conditions)
        for name, part, against in parts
    ]  # fmt: skip


def _told(one: Measured) -> str:
    created = one.phones.created
    service = "+".join(f"{used / created * 1e6:.0f}" for used in one.service_s)
    return (
        f"{one.rate:,.0f}/s, p50 {one.phones.p50_ms:.1f} p99 {one.phones.p99_ms:.1f} ms; us an order: "
        f"service {service}, "
        f"PostgreSQL {one.postgres_s / created * 1e6:.0f}, Redis {one.redis_s / created * 1e6:.0f}, "
        f"Kafka {one.kafka_s / created * 1e6:.0f}, phones {one.phones.cpu_s / created * 1e6:.0f}"
    )


if __name__ == "__main__":
    main()
