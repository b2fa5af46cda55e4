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
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

import httpx
from aiokafka import AIOKafkaProducer, TopicPartition

from deploy.local.stack import LocalStack
from dispatcher.main import build
from dispatcher.settings import Settings
from tests.integration.dispatcher_orders import PICKUP, Order, fired
from tests.integration.openapi_conformance import Conformance
from tests.integration.service_rig import NO_TLS, ServiceHome, service_home
from weelo_common.clock import epoch_ms, format_time
from weelo_common.events import Envelope, Event, TimerFired, TimerScheduled, decode, encode, seal
from weelo_common.events.positions import Position, captain_fingerprint, pack
from weelo_common.events.topics import (
    CAPTAINS_LOCATIONS,
    CAPTAINS_STATE,
    DISPATCH_OFFERS,
    DISPATCHER,
    ORDERS_EVENTS,
    TIMERS_COMMANDS,
    TIMERS_FIRED,
    Topic,
)
from weelo_common.kafka import KafkaClients
from weelo_common.lifecycle import Lifecycle, running
from weelo_common.postgres import Database

PATIENCE_S = 30.0
SEND_AGAIN_S = 2.0  # after a position that no index has taken
TOPICS = (ORDERS_EVENTS, TIMERS_COMMANDS, TIMERS_FIRED, DISPATCH_OFFERS, CAPTAINS_STATE, CAPTAINS_LOCATIONS)
METRE = 1 / 111_195  # of latitude, in degrees
COUNT_LOCK_WAITS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""

T = TypeVar("T")


class Home(ServiceHome):
    """Where a module's dispatchers live."""

    def settings(self, **changes: Any) -> Settings:
        return Settings.model_validate(self.values | changes)


@contextlib.contextmanager
def dispatcher_home(stack: LocalStack) -> Iterator[Home]:
    """A migrated database and the topics the dispatcher touches, removed at the end."""
    keys = stack.keys
    with service_home(
        Home,
        stack,
        DISPATCHER,
        TOPICS,
        offer_token_private_key_file=keys.offer_private,
        offer_token_key_id=keys.offer_key_id,
        position_ack_deadline_s=15.0,  # as ``UNHURRIED``
    ) as home:
        yield home


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
        return Caller(self.replicas[0].http, user_id, self.home.token(role, user_id))

    def order(self, **fields: Any) -> Order:
        return Order(self.subtype, **fields)

    async def captain(
        self, north_m: float, *, transporter_id: str = "t-good", ready: bool = True, placed: bool = True
    ) -> Caller:
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
        if placed:
            await self.place(captain, north_m)
        return captain

    async def place(self, captain: Caller, north_m: float) -> None:
        """Send a position and wait until every replica's index has it.

        It may overtake the captain's state on its way to another replica, which then counts it as ignored and keeps
        it: so it is sent again where nobody counts it.
        """
        before = [self._indexed(replica) for replica in self.replicas]

        def taken() -> bool:
            return all(
                self._indexed(replica) > count for replica, count in zip(self.replicas, before, strict=True)
            )

        give_up_at = time.monotonic() + PATIENCE_S
        while not taken():
            assert time.monotonic() < give_up_at, "never came: the position in the index"
            answer = await captain.position(PICKUP[0] + north_m * METRE, PICKUP[1])
            assert answer.status_code == 202, answer.text
            with contextlib.suppress(AssertionError):
                await until(taken, "the position in the index", SEND_AGAIN_S)

    def _indexed(self, replica: Replica) -> float:
        return self.metric("weelo_dispatcher_positions_total", replica, outcome="indexed")

    async def tell_position(self, captain_id: str, north_m: float, at: datetime | None = None) -> None:
        """Put a position on its topic, as a dispatcher does that takes it from a phone; waits for no index."""
        at_ms = epoch_ms(at or datetime.now(UTC))
        position = Position(captain_fingerprint(captain_id), PICKUP[0] + north_m * METRE, PICKUP[1], at_ms)
        await self.producer.send_and_wait(
            self.kafka.topic_name(CAPTAINS_LOCATIONS), pack([position]), timestamp_ms=at_ms
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
        return await eventually(look, good)

    async def lock_wait(self) -> None:
        """Return once some transaction waits for another's lock."""
        await self.eventually(lambda: self.rows(COUNT_LOCK_WAITS), lambda rows: rows[0]["count"] > 0)

    async def consumed(self, count: int, outcome: str | None = None) -> None:
        """Wait until the order consumers have ended so many events."""
        name = f"weelo_consumer_{outcome or 'consumed'}_total"
        await until(
            lambda: (
                sum(self.metric(name, replica, consumer="dispatcher") for replica in self.replicas) >= count
            ),
            f"{count} events {outcome or 'consumed'}",
        )

    async def timer(self, order: Order, wave: int) -> TimerFired:
        """What expiry would say for the timer of a wave, once that is scheduled."""
        commands = await self.told(
            TIMERS_COMMANDS,
            order.order_id,
            lambda e: isinstance(e, TimerScheduled) and e.payload == {"wave": wave},
        )
        timer = commands[-1].event
        assert isinstance(timer, TimerScheduled)
        return fired(timer)

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


async def eventually(look: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
    """What ``look`` sees, once it is good."""
    deadline = time.monotonic() + PATIENCE_S
    while not good(seen := await look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"never came; last seen: {seen!r}")
        await asyncio.sleep(0.01)
    return seen


async def until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until a condition of this process holds; fails with ``what`` after a while."""
    deadline = time.monotonic() + patience_s
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
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{life.http_port}", timeout=PATIENCE_S, verify=NO_TLS)
    )
    await until(lambda: not life.health.not_ready(), f"ready: {life.health.not_ready()}")
    document = Conformance((await http.get("/openapi.json")).json())

    async def as_documented(answer: httpx.Response) -> None:
        await answer.aread()
        assert not (problems := document.problems(answer)), f"{answer.text}: {problems}"

    http.event_hooks = {"response": [as_documented]}  # whatever a test asks for
    return Replica(life, http)
