"""What the notifier's tests share: replicas in this process, on fresh databases and topics of the run's servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from deploy.local.ports import free_block
from deploy.local.processes import Nursery
from deploy.local.stack import LocalStack
from notifier.hub import Hub
from notifier.main import Notifier, assemble
from notifier.settings import Settings
from notifier.socket_server import SocketServer
from tests.integration.service_process import RunningService
from tests.integration.service_rig import ServiceHome, service_home
from weelo_common.events import Event, encode, seal
from weelo_common.events.topics import NOTIFIER, declared_topics
from weelo_common.ids import new_id
from weelo_common.kafka import KafkaClients
from weelo_common.lifecycle import Lifecycle, running

PATIENCE_S = 30.0
NOBODY = "ws://127.0.0.1:9/ws"
SECRET = "a secret of the tests, long enough for HS256"

Publish = Callable[..., Any]
"""What ``publisher`` gives."""


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
    hub: Hub

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.sockets.port}/ws"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.life.http_port}"

    @property
    def hears_redis(self) -> bool:
        return self.life.health.report()["redis"] == "ok"

    def metric(self, name: str, **labels: str) -> float:
        return self.life.registry.get_sample_value(name, labels) or 0.0


@contextlib.contextmanager
def ground(stack: LocalStack) -> Iterator[Ground]:
    """A fresh database and fresh topics."""
    with service_home(
        ServiceHome,
        stack,
        NOTIFIER,
        declared_topics(),
        postgres_pool_max=8,
        ws_port=0,
        ws_auth_deadline_s=PATIENCE_S,
        ws_slow_deadline_s=PATIENCE_S,
        ws_read_wait_s=PATIENCE_S,
        ws_drain_spread_s=0,
        heads_check_s=0.5,
        jwt_algorithm="HS256",
        jwt_secret=SECRET,
    ) as home:
        yield Ground(home.values)


@contextlib.asynccontextmanager
async def replica(settings: Settings) -> AsyncIterator[Replica]:
    """A notifier that is ready: its consumer is in the group. Redis it may hear a little later."""
    built: list[Notifier] = []

    async def build(settings: Settings, life: Lifecycle) -> None:
        built.append(await assemble(settings, life))

    async with running(build, settings) as life:
        await until(lambda: not life.health.not_ready(), "ready")
        yield Replica(life, built[0].sockets, built[0].hub)


Pair = tuple[Replica, Replica]


@contextlib.asynccontextmanager
async def replicas(settings: Settings) -> AsyncIterator[Pair]:
    """Two that are ready, each with its share of the partitions."""
    async with replica(settings) as one, replica(settings) as two:
        await until(lambda: not one.life.health.not_ready() and not two.life.health.not_ready(), "both ready")
        yield one, two


class NotifierProcess(RunningService):
    """A notifier of its own process, for what kills it. It keeps its port for sockets over all its lives."""

    def __init__(self, nursery: Nursery, here: Ground, log_path: Path, ws_port: int, **changed: Any) -> None:
        self.ws_port = ws_port
        settings = here.env | changed | {"ws_port": ws_port}
        environment = {name.upper(): str(value) for name, value in settings.items()}
        super().__init__(nursery, "notifier", log_path, environment)

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.ws_port}/ws"

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        answer = httpx.get(f"{self.base_url}/metrics", trust_env=False, timeout=PATIENCE_S)
        lines = answer.text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def resident_bytes(self) -> int:
        """What it takes of the machine's memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024

    async def wait_ready(self) -> None:
        """Until it is in its group and hears Redis."""
        give_up_at = time.monotonic() + 2 * PATIENCE_S
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            while (answer := await http.get(f"{self.base_url}/health/ready")).status_code != 200:
                assert time.monotonic() < give_up_at, answer.text
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def processes(
    here: Ground, folder: Path, count: int, **changed: Any
) -> AsyncIterator[list[NotifierProcess]]:
    """Notifiers as processes, ready; a few at most."""
    nursery = Nursery()
    ws_ports = free_block()  # of those that no outgoing connection takes while a notifier is down
    started = [
        NotifierProcess(nursery, here, folder / f"notifier-{number}.log", ws_ports + number, **changed)
        for number in range(count)
    ]
    try:
        for one in started:
            await asyncio.to_thread(one.start)
        for one in started:
            await one.wait_ready()
        yield started
    finally:
        for one in started:
            await asyncio.to_thread(one.stop)
        nursery.close()


@contextlib.asynccontextmanager
async def publisher(settings: Settings) -> AsyncIterator[Publish]:
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


# Fixtures that a module takes by name: ``here = notifier_rig.here``.


@pytest.fixture(scope="module")
def here(stack: LocalStack) -> Iterator[Ground]:
    """The ground of a module's tests."""
    with ground(stack) as fresh:
        yield fresh


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def publish(here: Ground) -> AsyncIterator[Publish]:
    """Puts events on its topics."""
    async with publisher(here.settings()) as publish:
        yield publish


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
