"""The three servers' addresses, and how each says that it answers and what it is.

Knows clients and addresses, never how a server is started.
"""

import asyncio
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
import redis
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

T = TypeVar("T")

CLIENT_ID = "weelo-local"
PROBE_TIMEOUT_S = 3.0  # one question to a server on this machine
CALL_TIMEOUT_S = 60.0  # a whole piece of work in `run_async`


@dataclass(frozen=True)
class Servers:
    """Where the servers are and what they are. `postgres_admin_dsn` may create databases and roles."""

    kafka_bootstrap: str
    postgres_admin_dsn: str
    redis_url: str
    kafka_name: str  # "Apache Kafka 4.3.1", "Tansu v0.6.0"
    postgres_name: str  # "PostgreSQL 15.18"
    redis_name: str  # "Redis 7.0.15", "Valkey 9.1.2"
    kafka_idempotence: bool  # whether the broker takes aiokafka's idempotent producer


def run_async(work: Coroutine[Any, Any, T], timeout_s: float = CALL_TIMEOUT_S) -> T:
    """Run a coroutine to its end from plain code, also where the caller's thread already runs a loop."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="stack-async") as thread:
        return thread.submit(asyncio.run, asyncio.wait_for(work, timeout_s)).result()


async def _postgres_version(dsn: str) -> str:
    connection = await asyncpg.connect(dsn, timeout=PROBE_TIMEOUT_S)
    try:
        return str(await connection.fetchval("SHOW server_version", timeout=PROBE_TIMEOUT_S))
    finally:
        await connection.close(timeout=PROBE_TIMEOUT_S)


def postgres_name(dsn: str) -> str | None:
    """What answers there, or None where nothing does yet."""
    try:
        version = run_async(_postgres_version(dsn))
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None
    return f"PostgreSQL {version.split()[0]}"


def redis_name(url: str) -> str | None:
    """What answers there, or None where nothing does yet."""
    client = redis.Redis.from_url(
        url, socket_timeout=PROBE_TIMEOUT_S, socket_connect_timeout=PROBE_TIMEOUT_S, decode_responses=True
    )
    try:
        facts: dict[str, Any] = client.info("server")
    except redis.RedisError:
        return None
    finally:
        client.close()
    if "valkey_version" in facts:
        return f"Valkey {facts['valkey_version']}"
    return f"Redis {facts['redis_version']}"


async def _kafka_brokers(bootstrap: str) -> int:
    admin = AIOKafkaAdminClient(
        bootstrap_servers=bootstrap, request_timeout_ms=int(PROBE_TIMEOUT_S * 1000), client_id=CLIENT_ID
    )
    try:
        await asyncio.wait_for(admin.start(), PROBE_TIMEOUT_S)
        cluster: dict[str, Any] = await asyncio.wait_for(admin.describe_cluster(), PROBE_TIMEOUT_S)
        # Asking makes the broker create its topic of offsets: else the first consumers would wait for that.
        await asyncio.wait_for(admin.find_coordinator(CLIENT_ID), PROBE_TIMEOUT_S)
        return len(cluster["brokers"])
    finally:
        await asyncio.wait_for(admin.close(), PROBE_TIMEOUT_S)


def kafka_answers(bootstrap: str) -> bool:
    """Whether a broker there takes requests, knows of itself, and takes consumer groups."""
    noise = logging.getLogger("aiokafka")
    level = noise.level
    noise.setLevel(logging.CRITICAL)  # a broker that is not there yet is what we are asking about
    try:
        return run_async(_kafka_brokers(bootstrap)) > 0
    except (OSError, TimeoutError, KafkaError):
        return False
    finally:
        noise.setLevel(level)
