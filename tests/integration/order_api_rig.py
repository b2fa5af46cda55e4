"""What the tests of order-api share: the service in this process on real servers, its callers, and a view inside.

A ``Home`` (database, topics, keys) lasts for a module; a ``Rig`` (the running service) for one test.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
from aiokafka import TopicPartition
from prometheus_client import CollectorRegistry

from deploy.local.stack import LocalStack
from order_api.handlers import Orders
from order_api.main import build
from order_api.metrics import OrderMetrics
from order_api.settings import Settings
from tests.integration.events_rig import until
from tests.integration.openapi_conformance import Conformance
from tests.integration.service_rig import NO_TLS, ServiceHome, service_home
from weelo_common.events import Envelope, Event, OrderEvent, decode
from weelo_common.events.topics import (
    DISPATCH_OFFERS,
    ORDER_API,
    ORDERS_EVENTS,
    TIMERS_COMMANDS,
    TIMERS_FIRED,
    Topic,
)
from weelo_common.kafka import KafkaClients
from weelo_common.lifecycle import Lifecycle, running
from weelo_common.offer_tokens import OfferClaims, OfferTokenSigner, OfferTokenVerifier
from weelo_common.outbox import Outbox
from weelo_common.postgres import Database

PATIENCE_S = 30.0
# The sweep at the service's start ends overdue orders, too: those of a test are made after it.
SWEEP_LOCK = zlib.crc32(f"weelo-sweep:{ORDER_API}".encode())
AWAIT_SWEEP = "SELECT pg_advisory_unlock($1) FROM pg_advisory_lock($1)"
TOPICS = (ORDERS_EVENTS, TIMERS_COMMANDS, TIMERS_FIRED, DISPATCH_OFFERS)
BODY: dict[str, Any] = {
    "pickup": {"latitude": 28.5355, "longitude": 77.3910, "address": "Noida"},
    "drop": {"latitude": 28.6139, "longitude": 77.2090, "address": "Delhi"},
    "distanceKm": 25,
    "vehicleRequirements": [
        {"vehicleType": "TRUCK", "vehicleSubtype": "TATA_ACE", "quantity": 1, "pricePerTruck": 500}
    ],
}


def body(trucks: int = 1, **changes: Any) -> dict[str, Any]:
    """A good body for so many trucks of one kind."""
    line = BODY["vehicleRequirements"][0] | {"quantity": trucks}
    return BODY | {"vehicleRequirements": [line]} | changes


class Home(ServiceHome):
    """Where a module's order-api lives."""

    def settings(self, **changes: Any) -> Settings:
        return Settings.model_validate(self.values | changes)


@contextlib.contextmanager
def order_api_home(stack: LocalStack) -> Iterator[Home]:
    """A migrated database and the topics order-api touches, removed at the end."""
    with service_home(
        Home,
        stack,
        ORDER_API,
        TOPICS,
        offer_token_jwks_file=stack.keys.offer_jwks,
        creates_per_minute=10_000,
    ) as home:
        yield home


class Caller:
    """One person's phone: sends with his token, any number of times."""

    def __init__(self, http: httpx.AsyncClient, user_id: str, token: str) -> None:
        self.http = http
        self.user_id = user_id
        self.token = token
        self._headers = {"Authorization": f"Bearer {token}"}

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self.http.get(f"/api/v1{path}", headers=self._headers, params=params)

    async def post(
        self, path: str, content: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        sent = self._headers | dict(headers or {})
        return await self.http.post(f"/api/v1{path}", headers=sent, json=content)

    async def create(self, key: str | None = None, content: Any = None) -> httpx.Response:
        headers = {} if key is None else {"X-Idempotency-Key": key}
        return await self.post("/orders", BODY if content is None else content, headers)

    async def accept(self, order_id: str, offer_token: str) -> httpx.Response:
        return await self.post(f"/orders/{order_id}/accept", {"offerToken": offer_token})


@dataclass
class Rig:
    """A running order-api."""

    home: Home
    settings: Settings
    life: Lifecycle
    http: httpx.AsyncClient
    database: Database
    kafka: KafkaClients

    def customer(self, user_id: str | None = None, **claims: str) -> Caller:
        return self._caller(user_id or f"c-{uuid4()}", "customer", claims)

    def captain(self, user_id: str | None = None) -> Caller:
        return self._caller(user_id or f"k-{uuid4()}", "captain", {})

    def ops(self) -> Caller:
        return self._caller("ops-1", "ops", {})

    def _caller(self, user_id: str, role: str, claims: Mapping[str, str]) -> Caller:
        return Caller(self.http, user_id, token_of(self.home, user_id, role, claims))

    def offer(self, order_id: str, captain: Caller, subtype: str = "TATA_ACE") -> str:
        """An offer token as the dispatcher signs it."""
        return signed_offer(self.home, order_id, captain.user_id, subtype)

    async def win(self, order_id: str, captain: Caller) -> dict[str, Any]:
        """The captain accepts, and wins; returns his truck request."""
        answer = await captain.accept(order_id, self.offer(order_id, captain))
        assert answer.status_code == 200, answer.text
        truck: dict[str, Any] = answer.json()["data"]["truckRequest"]
        return truck

    async def make_overdue(self, order_id: str) -> None:
        """Move the order's end into the past, as if its time had passed with nobody there to end it."""
        async with self.database.connection() as connection:
            await connection.execute(
                "UPDATE orders SET expires_at = clock_timestamp() - interval '1 second' WHERE id = $1",
                order_id,
            )

    async def value(self, sql: str, *arguments: Any) -> Any:
        async with self.database.connection() as connection:
            return await connection.fetchval(sql, *arguments)

    async def publish(self, *events: Event) -> None:
        """Let another service say something, through this database's outbox."""
        async with self.database.transaction() as connection:
            await Outbox("test").append(connection, events, at=datetime.now(UTC))

    async def events(self, topic: Topic, order_id: str, last: str) -> list[Envelope]:
        """The events of an order on a topic, in their order, up to the first of the class named ``last``."""
        consumer = self.kafka.consumer(group=None)
        await self.kafka.start_consumer(consumer)
        found: list[Envelope] = []
        try:
            name = self.kafka.topic_name(topic)
            partitions = [TopicPartition(name, number) for number in range(topic.partitions)]
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            async with asyncio.timeout(PATIENCE_S):
                while not any(type(envelope.event).__name__ == last for envelope in found):
                    for batch in (await consumer.getmany(timeout_ms=100)).values():
                        for record in batch:
                            envelope = decode(topic, record.key, record.headers, record.value)
                            if envelope.key == order_id:
                                found.append(envelope)
            return found
        finally:
            await self.kafka.stop_consumer(consumer)


@contextlib.asynccontextmanager
async def order_api(home: Home, **changes: Any) -> AsyncIterator[Rig]:
    """The service, started and stopped in this process; ``changes`` override its settings."""
    settings = home.settings(**changes)
    inside = home.settings()
    async with (
        running(build, settings) as life,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{life.http_port}", timeout=PATIENCE_S, verify=NO_TLS
        ) as http,
        Database.open(inside, application_name="test") as database,
    ):
        document = Conformance((await http.get("/openapi.json")).json())

        async def as_documented(answer: httpx.Response) -> None:
            await answer.aread()
            assert not (problems := document.problems(answer)), f"{answer.text}: {problems}"

        http.event_hooks = {"response": [as_documented]}  # whatever a test asks for
        async with database.connection() as connection:
            await connection.execute(AWAIT_SWEEP, SWEEP_LOCK)
        yield Rig(home, settings, life, http, database, KafkaClients(inside, client_id="test"))


def data(answer: httpx.Response) -> dict[str, Any]:
    """The data of a success."""
    content = answer.json()
    assert content["success"] is True, answer.text
    found: dict[str, Any] = content["data"]
    return found


def code(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a failure."""
    content = answer.json()
    assert content["success"] is False, answer.text
    return answer.status_code, content["error"]["code"]


async def made(customer: Caller, trucks: int = 1) -> str:
    """The id of a new order."""
    order_id: str = data(await customer.create(content=body(trucks)))["orderId"]
    return order_id


def told(envelopes: Iterable[Envelope]) -> list[tuple[str, int, str]]:
    """Class, version and status of each order event."""
    return [
        (type(event).__name__, event.order_version, event.status)
        for event in (envelope.event for envelope in envelopes)
        if isinstance(event, OrderEvent)
    ]


async def settled(rig: Rig, *last: Event) -> None:
    """Publish events; wait until the service has consumed them all."""
    counted = rig.life.registry.get_sample_value
    before = counted("weelo_consumer_consumed_total", {"consumer": "order-api"}) or 0.0
    await rig.publish(*last)
    await until(
        lambda: (
            (counted("weelo_consumer_consumed_total", {"consumer": "order-api"}) or 0.0) >= before + len(last)
        ),
        "the events were consumed",
    )


@dataclass(frozen=True)
class Bench:
    """The commands on orders without a service around them; events stay in the outbox."""

    home: Home
    database: Database
    outbox: Outbox
    orders: Orders

    def offer(self, order_id: str, captain_id: str) -> str:
        """An offer token as the dispatcher signs it."""
        return signed_offer(self.home, order_id, captain_id)

    async def value(self, sql: str, *arguments: Any) -> Any:
        async with self.database.connection() as connection:
            return await connection.fetchval(sql, *arguments)


@contextlib.asynccontextmanager
async def order_api_bench(home: Home) -> AsyncIterator[Bench]:
    """Handlers on the home's database, and nothing else."""
    offer_tokens = OfferTokenVerifier(home.stack.keys.offer_jwks.read_text())
    outbox = Outbox(ORDER_API)
    async with Database.open(home.settings(), application_name="test") as database:
        orders = Orders(database, outbox, offer_tokens, OrderMetrics(CollectorRegistry()))
        yield Bench(home, database, outbox, orders)


def token_of(home: Home, user_id: str, role: str, claims: Mapping[str, str]) -> str:
    """A user's token, good for ten minutes."""
    return home.token(role, user_id, **claims)


def signed_offer(home: Home, order_id: str, captain_id: str, subtype: str = "TATA_ACE") -> str:
    """An offer token as the dispatcher signs it."""
    keys = home.stack.keys
    return OfferTokenSigner(keys.offer_private.read_text(), keys.offer_key_id).sign(
        OfferClaims(
            offer_id=str(uuid4()),
            captain_id=captain_id,
            order_id=order_id,
            transporter_id="t-1",
            vehicle_type="TRUCK",
            vehicle_subtype=subtype,
            vehicle_number="DL1AB1234",
            expires_at=datetime.now(UTC) + timedelta(seconds=60),
        )
    )
