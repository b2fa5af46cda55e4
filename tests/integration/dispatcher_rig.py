"""What the dispatcher's tests share: the service in this process on real servers, its callers, and a view inside.

A ``Home`` (database, topics, keys) lasts for a module; a ``Rig`` (running replicas) for one test. Each test has a
vehicle subtype of its own, so that captains of other tests are no candidates.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import jwt
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic

from deploy.local.stack import LocalStack
from dispatcher.main import build
from dispatcher.settings import Settings
from weelo_common.clock import format_time
from weelo_common.events import (
    Envelope,
    Event,
    OrderCancelled,
    OrderCreated,
    OrderExpired,
    OrderFullyFilled,
    Place,
    RequestedTruck,
    TruckAssigned,
    TruckReleased,
    decode,
    encode,
    seal,
)
from weelo_common.events.topics import (
    CAPTAINS_LOCATIONS,
    CAPTAINS_STATE,
    DISPATCH_OFFERS,
    ORDERS_EVENTS,
    TIMERS_COMMANDS,
    TIMERS_FIRED,
    Topic,
)
from weelo_common.ids import new_id
from weelo_common.kafka import KafkaClients
from weelo_common.lifecycle import Lifecycle, running
from weelo_common.migrate import migrate
from weelo_common.postgres import Database

PATIENCE_S = 20.0
TOPICS = (ORDERS_EVENTS, TIMERS_COMMANDS, TIMERS_FIRED, DISPATCH_OFFERS, CAPTAINS_STATE, CAPTAINS_LOCATIONS)
PICKUP = (28.6139, 77.2090)
METRE = 1 / 111_195  # of latitude, in degrees

T = TypeVar("T")


@dataclass(frozen=True)
class Home:
    """Where a module's dispatchers live."""

    stack: LocalStack
    values: dict[str, Any]

    def settings(self, **changes: Any) -> Settings:
        return Settings.model_validate(self.values | changes)


@contextlib.contextmanager
def dispatcher_home(stack: LocalStack) -> Iterator[Home]:
    """A migrated database and the topics the dispatcher touches, removed at the end."""
    prefix = f"di{uuid4().hex[:6]}_"
    dsns = stack.provision(prefix)
    home = Home(
        stack,
        {
            "postgres_dsn": dsns["dispatcher"],
            "redis_url": stack.servers.redis_url,
            "kafka_bootstrap_servers": stack.servers.kafka_bootstrap,
            "kafka_producer_idempotence": stack.servers.kafka_idempotence,
            "kafka_topic_prefix": prefix.replace("_", "."),
            "kafka_session_timeout_s": 6,
            "jwt_public_key_file": stack.keys.jwt_public,
            "offer_token_private_key_file": stack.keys.offer_private,
            "offer_token_key_id": stack.keys.offer_key_id,
            "http_port": 0,
        },
    )
    try:
        asyncio.run(_prepare(home.settings()))
        yield home
    finally:
        stack.remove(prefix)


async def _prepare(settings: Settings) -> None:
    kafka = KafkaClients(settings, client_id="test")
    async with kafka.admin() as admin:
        await admin.create_topics(
            [NewTopic(kafka.topic_name(topic), topic.partitions, 1) for topic in TOPICS]
        )
    async with (
        Database.open(settings, application_name="test") as database,
        database.connection() as connection,
    ):
        await migrate(connection, ["weelo_common", "dispatcher"])


@dataclass
class Replica:
    """One running dispatcher."""

    life: Lifecycle
    http: httpx.AsyncClient


@dataclass
class Caller:
    """One person's phone."""

    http: httpx.AsyncClient
    user_id: str
    token: str

    async def call(self, method: str, path: str, content: Any = None) -> httpx.Response:
        return await self.http.request(
            method, f"/api/v1{path}", headers={"Authorization": f"Bearer {self.token}"}, json=content
        )

    async def position(self, latitude: float, longitude: float, at: datetime | None = None) -> httpx.Response:
        place = {
            "latitude": latitude,
            "longitude": longitude,
            "recordedAt": format_time(at or datetime.now(UTC)),
        }
        return await self.call("POST", "/captains/me/locations", {"locations": [place]})

    async def offers(self) -> list[dict[str, Any]]:
        answer = await self.call("GET", "/offers")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]["offers"]
        return found

    async def decline(self, offer_id: str, reason: str = "NOT_AVAILABLE") -> httpx.Response:
        return await self.call("POST", f"/offers/{offer_id}/decline", {"reason": reason})


@dataclass
class Order:
    """An order as order-api would tell of it; each event raises its version."""

    subtype: str
    trucks: int = 1
    lifetime_s: float = 60.0
    created_ago_s: float = 0.0
    order_id: str = field(default_factory=new_id)
    customer_id: str = field(default_factory=lambda: f"c-{uuid4().hex[:8]}")
    version: int = 0
    won: dict[str, str] = field(default_factory=dict)
    truck_ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.truck_ids = [new_id() for _ in range(self.trucks)]

    def created(self) -> OrderCreated:
        made_at = datetime.now(UTC) - timedelta(seconds=self.created_ago_s)
        return OrderCreated(
            **self._common("active", searching=True),
            pickup=Place(latitude=PICKUP[0], longitude=PICKUP[1], address="Connaught Place"),
            drop=Place(latitude=28.5355, longitude=77.3910, address="Noida"),
            distance_km=25,
            total_amount=500 * self.trucks,
            expires_at=made_at + timedelta(seconds=self.lifetime_s),
            truck_requests=tuple(
                RequestedTruck(
                    id=truck, vehicle_type="TRUCK", vehicle_subtype=self.subtype, price_per_truck=500
                )
                for truck in self.truck_ids
            ),
        ).model_copy(update={"occurred_at": made_at})

    def assigned(self, captain_id: str, offer_id: str) -> list[Event]:
        """``TruckAssigned`` for the next open truck, and ``OrderFullyFilled`` with the last."""
        truck = next(truck for truck in self.truck_ids if truck not in self.won)
        self.won[truck] = captain_id
        full = len(self.won) == self.trucks
        status = "fully_filled" if full else "partially_filled"
        told: list[Event] = [
            TruckAssigned(
                **self._common(status, searching=not full),
                truck_request_id=truck,
                captain_id=captain_id,
                transporter_id="t-1",
                vehicle_type="TRUCK",
                vehicle_subtype=self.subtype,
                vehicle_number="DL1AB1234",
                offer_id=offer_id,
                pickup=Place(latitude=PICKUP[0], longitude=PICKUP[1], address="Connaught Place"),
                drop=Place(latitude=28.5355, longitude=77.3910, address="Noida"),
            )
        ]
        if full:
            told.append(OrderFullyFilled(**self._common(status, searching=False)))
        return told

    def released(self, captain_id: str, *, searching: bool) -> TruckReleased:
        truck = next(truck for truck, holder in self.won.items() if holder == captain_id)
        del self.won[truck]
        return TruckReleased(
            **self._common("active" if searching else "partially_filled", searching=searching),
            truck_request_id=truck,
            captain_id=captain_id,
            reason="released",
            truck_request_status="searching" if searching else "cancelled",
        )

    def cancelled(self) -> OrderCancelled:
        return OrderCancelled(**self._common("cancelled", searching=False), reason="customer")

    def expired(self) -> OrderExpired:
        return OrderExpired(
            **self._common("expired", searching=False), expired_truck_request_ids=tuple(self.truck_ids)
        )

    def _common(self, status: str, *, searching: bool) -> dict[str, Any]:
        self.version += 1
        return {
            "order_id": self.order_id,
            "order_version": self.version,
            "customer_id": self.customer_id,
            "status": status,
            "searching": searching,
            "trucks_filled": len(self.won),
            "total_trucks": self.trucks,
            "occurred_at": datetime.now(UTC),
        }


@dataclass
class Rig:
    """Running dispatchers, and the other services' side of Kafka."""

    home: Home
    replicas: Sequence[Replica]
    database: Database
    kafka: KafkaClients
    producer: AIOKafkaProducer
    subtype: str = field(default_factory=lambda: f"S_{uuid4().hex[:8]}")

    @property
    def life(self) -> Lifecycle:
        return self.replicas[0].life

    def caller(self, role: str, user_id: str | None = None) -> Caller:
        user_id = user_id or f"{role[0]}-{uuid4().hex[:10]}"
        claims = {"sub": user_id, "role": role, "iss": "weelo", "aud": "weelo-apps", "exp": time.time() + 600}
        token = jwt.encode(claims, self.home.stack.keys.jwt_private.read_text(), algorithm="RS256")
        return Caller(self.replicas[0].http, user_id, token)

    def order(self, **fields: Any) -> Order:
        return Order(self.subtype, **fields)

    async def captain(self, north_m: float, *, transporter_id: str = "t-good", ready: bool = True) -> Caller:
        """A captain so many metres north of the pickup, whom the index has; ``ready``: he may get offers."""
        captain = self.caller("captain")
        ops = self.caller("ops", "ops-1")
        me = {
            "transporterId": transporter_id,
            "name": "Test",
            "vehicleType": "TRUCK",
            "vehicleSubtype": self.subtype,
            "vehicleNumber": "DL1AB1234",
        }
        steps: list[tuple[Caller, str, str, dict[str, Any]]] = [(captain, "PUT", "/captains/me", me)]
        if ready:
            steps += [
                (
                    ops,
                    "PUT",
                    f"/transporters/{transporter_id}",
                    {"name": "T", "active": True, "verified": True},
                ),
                (
                    ops,
                    "PUT",
                    f"/transporters/{transporter_id}/captains/{captain.user_id}",
                    {"confirmed": True},
                ),
                (captain, "PUT", "/captains/me/availability", {"available": True}),
            ]
        for caller, method, path, body in steps:
            answer = await caller.call(method, path, body)
            assert answer.status_code == 200, answer.text
        await self.place(captain, north_m)
        return captain

    async def place(self, captain: Caller, north_m: float) -> None:
        """Send a position and wait until every replica's index has it."""
        before = [
            self.metric("weelo_dispatcher_positions_total", replica, outcome="indexed")
            for replica in self.replicas
        ]
        answer = await captain.position(PICKUP[0] + north_m * METRE, PICKUP[1])
        assert answer.status_code == 202, answer.text
        await until(
            lambda: all(
                self.metric("weelo_dispatcher_positions_total", replica, outcome="indexed") > count
                for replica, count in zip(self.replicas, before, strict=True)
            ),
            "the position in the index",
        )

    async def place_again(self, captain_id: str, north_m: float) -> None:
        """A position of a captain whom an earlier rig registered."""
        await self.place(self.caller("captain", captain_id), north_m)

    def metric(self, name: str, replica: Replica | None = None, **labels: str) -> float:
        registry = (replica or self.replicas[0]).life.registry
        return registry.get_sample_value(name, labels) or 0.0

    async def publish(self, *events: Event, event_id: str | None = None) -> None:
        """Let the other services say something."""
        for event in events:
            envelope = seal(event, source="test", time=datetime.now(UTC), event_id=event_id)
            headers, value = encode(envelope)
            await self.producer.send_and_wait(
                self.kafka.topic_name(event.TOPIC), value, key=envelope.key.encode(), headers=headers
            )

    async def rows(self, sql: str, *arguments: Any) -> list[dict[str, Any]]:
        async with self.database.connection() as connection:
            return [dict(row) for row in await connection.fetch(sql, *arguments)]

    async def offers(self, order: Order, status: str = "live") -> dict[str, str]:
        """Offers of an order in a status: captain → offer id."""
        rows = await self.rows(
            "SELECT captain_id, offer_id FROM offers WHERE order_id = $1 AND status = $2",
            order.order_id,
            status,
        )
        return {row["captain_id"]: row["offer_id"] for row in rows}

    async def live(self, order: Order, count: int) -> dict[str, str]:
        """The order's live offers, once there are so many."""
        return await self.eventually(lambda: self.offers(order), lambda offers: len(offers) == count)

    async def eventually(self, look: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
        """What ``look`` sees, once it is good."""
        deadline = time.monotonic() + PATIENCE_S
        while not good(seen := await look()):
            if time.monotonic() > deadline:
                raise AssertionError(f"never came; last seen: {seen!r}")
            await asyncio.sleep(0.01)
        return seen

    async def consumed(self, count: int, outcome: str | None = None) -> None:
        """Wait until the order consumers have ended so many events."""
        name = f"weelo_consumer_{outcome or 'consumed'}_total"
        await until(
            lambda: (
                sum(self.metric(name, replica, consumer="dispatcher") for replica in self.replicas) >= count
            ),
            f"{count} events {outcome or 'consumed'}",
        )

    async def told(self, topic: Topic, key: str, last: Callable[[Event], bool]) -> list[Envelope]:
        """The events of a key on a topic, in order, up to the first for which ``last`` holds."""
        consumer = self.kafka.consumer(group=None)
        await self.kafka.start_consumer(consumer)
        found: list[Envelope] = []
        try:
            name = self.kafka.topic_name(topic)
            partitions = [TopicPartition(name, number) for number in range(topic.partitions)]
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            async with asyncio.timeout(PATIENCE_S):
                while not any(envelope.event and last(envelope.event) for envelope in found):
                    for batch in (await consumer.getmany(timeout_ms=50)).values():
                        for record in batch:
                            envelope = decode(topic, record.key, record.headers, record.value)
                            if envelope.key == key:
                                found.append(envelope)
            return found
        except TimeoutError:
            raise AssertionError(f"never came; seen: {[type(e.event).__name__ for e in found]}") from None
        finally:
            await self.kafka.stop_consumer(consumer)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition of this process holds; fails with ``what`` after a while."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never came: {what}")
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def dispatcher(home: Home, *, replicas: int = 1, **changes: Any) -> AsyncIterator[Rig]:
    """Dispatchers, ready; stopped at the end. ``changes`` override their settings."""
    settings = home.settings(**changes)
    inside = home.settings()
    kafka = KafkaClients(inside, client_id="test")
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(inside, application_name="test"))
        producer = await kafka.start_producer()
        stack.push_async_callback(kafka.stop_producer, producer)
        started = [await start(stack, settings) for _ in range(replicas)]
        yield Rig(home, started, database, kafka, producer)


async def start(stack: contextlib.AsyncExitStack, settings: Settings) -> Replica:
    """One more replica, ready for orders; it stops with ``stack``."""
    life = await stack.enter_async_context(running(build, settings))
    http = await stack.enter_async_context(
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{life.http_port}", timeout=PATIENCE_S)
    )
    await until(lambda: not life.health.not_ready(), f"ready: {life.health.not_ready()}")
    return Replica(life, http)
