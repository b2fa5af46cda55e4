"""What the notifier's tests share: replicas in this process, on fresh databases and topics of the run's servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import jwt
from aiokafka import AIOKafkaProducer
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from deploy.local.stack import LocalStack
from notifier.main import assemble
from notifier.settings import Settings
from notifier.socket_server import SocketServer
from weelo_common.events import Event, encode, seal
from weelo_common.ids import new_id
from weelo_common.kafka import KafkaClients
from weelo_common.lifecycle import Lifecycle, running
from weelo_common.migrate import migrate
from weelo_common.postgres import Database
from weelo_common.topics import create_topics

PATIENCE_S = 20.0
SECRET = "a secret of the tests, long enough for HS256"


@dataclass(frozen=True)
class Ground:
    """Servers, databases and topics that a module's tests share."""

    env: dict[str, Any]

    def settings(self, **changed: Any) -> Settings:
        """The settings of one replica."""
        return Settings.model_validate(self.env | changed)


@dataclass
class Replica:
    """A notifier that runs in this process."""

    life: Lifecycle
    sockets: SocketServer

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.sockets.port}/ws"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.life.http_port}"

    def metric(self, name: str, **labels: str) -> float:
        return self.life.registry.get_sample_value(name, labels) or 0.0


@contextlib.contextmanager
def ground(stack: LocalStack) -> Iterator[Ground]:
    """A fresh database and fresh topics."""
    prefix = f"nt{uuid4().hex[:6]}_"
    dsn = stack.provision(prefix)["notifier"]
    env: dict[str, Any] = {
        "postgres_dsn": dsn,
        "postgres_pool_max": 8,
        "kafka_bootstrap_servers": stack.servers.kafka_bootstrap,
        "kafka_topic_prefix": prefix.replace("_", "."),
        "kafka_session_timeout_s": 6,
        "redis_url": stack.servers.redis_url,
        "redis_deadline_s": 1.0,
        "http_port": 0,
        "ws_port": 0,
        "ws_drain_spread_s": 0,
        "heads_check_s": 0.5,
        "jwt_algorithm": "HS256",
        "jwt_secret": SECRET,
    }
    settings = Settings.model_validate(env)

    async def prepare() -> None:
        await create_topics(KafkaClients(settings, client_id="test"), replication_factor=1)
        async with (
            Database.open(settings, application_name="test") as database,
            database.connection() as connection,
        ):
            await migrate(connection, ["weelo_common", "notifier"])

    asyncio.run(prepare())
    try:
        yield Ground(env)
    finally:
        stack.remove(prefix)


@contextlib.asynccontextmanager
async def replica(settings: Settings) -> AsyncIterator[Replica]:
    """A notifier that is ready: its consumer is in the group and it hears Redis, unless that is away."""
    servers: list[SocketServer] = []

    async def build(settings: Settings, life: Lifecycle) -> None:
        servers.append(await assemble(settings, life))

    async with running(build, settings) as life:
        await until(lambda: not life.health.not_ready(), "ready")
        yield Replica(life, servers[0])


@contextlib.asynccontextmanager
async def publisher(settings: Settings) -> AsyncIterator[Callable[..., Any]]:
    """``await publish(event, …)`` puts events on Kafka as their services do, and returns their ids."""
    kafka = KafkaClients(settings, client_id="test")
    producer: AIOKafkaProducer = await kafka.start_producer()

    async def publish(*events: Event, traceparent: str | None = None) -> list[str]:
        envelopes = [seal(event, source="order-api", time=datetime.now(UTC)) for event in events]
        for envelope in envelopes:
            headers, value = encode(envelope, traceparent)
            await producer.send_and_wait(
                kafka.topic_name(envelope.topic), value, key=envelope.key.encode(), headers=headers
            )
        return [envelope.id for envelope in envelopes]

    try:
        yield publish
    finally:
        await kafka.stop_producer(producer)


def token(user_id: str, role: str = "captain", *, lifetime_s: float = 600, **changed: Any) -> str:
    """A bearer token of the tests' own issuer."""
    claims = {
        "sub": user_id,
        "role": role,
        "iss": "weelo",
        "aud": "weelo-apps",
        "exp": int(time.time() + lifetime_s),
    }
    return jwt.encode(claims | changed, SECRET, algorithm="HS256")


def user(kind: str = "d") -> str:
    """A user nobody has used."""
    return f"{kind}-{uuid4().hex[:10]}"


def order_id() -> str:
    """An order nobody has made."""
    return new_id()


class Phone:
    """A raw client of ``/ws``: says what it is told, and reads frame by frame."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, frame: dict[str, Any] | str | bytes) -> None:
        await self.connection.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def hear(self) -> dict[str, Any]:
        """The next frame."""
        async with asyncio.timeout(PATIENCE_S):
            frame: dict[str, Any] = json.loads(await self.connection.recv())
        return frame

    async def hear_upto(self, offset: int) -> list[dict[str, Any]]:
        """Frames up to the one that accounts for ``offset``."""
        heard: list[dict[str, Any]] = []
        reached = 0
        while reached < offset:
            heard.append(await self.hear())
            reached = heard[-1].get("to") or heard[-1].get("offset") or 0
        return heard

    async def enter(self, user_id: str, role: str = "captain", **auth: Any) -> dict[str, Any]:
        """Authenticate and return ``ready``."""
        await self.say({"type": "auth", "token": token(user_id, role)} | auth)
        ready = await self.hear()
        assert ready["type"] == "ready", ready
        return ready

    async def close_code(self) -> int:
        """Read to the end and return the code that closed it."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    await self.connection.recv()
        except ConnectionClosed:
            return self.connection.close_code or 0


@contextlib.asynccontextmanager
async def phone(replica: Replica, **options: Any) -> AsyncIterator[Phone]:
    """A connection that has said nothing yet."""
    async with connect(
        replica.ws_url, compression=None, proxy=None, close_timeout=1, **options
    ) as connection:
        yield Phone(connection)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition of this process holds; fails with ``what`` after a while."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"never came: {what}")
        await asyncio.sleep(0.01)


def events_of(frames: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the event frames, in order."""
    return [frame["event"] for frame in frames if frame["type"] == "event"]


def soon(seconds: float) -> datetime:
    """A moment from now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)
