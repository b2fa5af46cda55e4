"""The whole system for end-to-end tests: four services as processes, and people with phones.

Each test works in a corner of its own: ids and a vehicle subtype nobody else uses, so that tests share the services
without seeing one another.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from deploy.local.gateway import LocalGateway
from deploy.local.provision import SERVICES
from deploy.local.services import MODULES, ServiceProcess
from deploy.local.stack import LocalStack
from tools.demo.phone import API, Answer, Phone
from tools.weelo_client.notifications import Notification, NotificationStream
from weelo_cli.ledger import LedgerConfig, LedgerReport, verify
from weelo_cli.reading import open_reader
from weelo_cli.tokens import make_token
from weelo_common.clock import SystemClock, format_time
from weelo_common.events.topics import ORDERS_EVENTS, declared_topics
from weelo_common.kafka import KafkaClients
from weelo_common.migrate import migrate
from weelo_common.parking import Record
from weelo_common.postgres import Database
from weelo_common.settings import KafkaSettings, ServiceSettings
from weelo_common.topics import create_topics

PATIENCE_S = 20.0
DELHI = (28.6139, 77.2090)


@dataclass
class City:
    """The running services, and how to reach them."""

    stack: LocalStack
    services: Mapping[str, ServiceProcess]
    client: httpx.AsyncClient
    env: Mapping[str, str]
    created: set[str] = field(default_factory=set)
    """Every order that a client was told of with a 201: the ledger must know them."""
    gateway: LocalGateway | None = None
    """What calls and sockets go through; without one they go to the replicas in turn."""
    spares: Mapping[str, Sequence[ServiceProcess]] = field(default_factory=dict)
    """Further replicas, by service; calls go to all in turn, as through a load balancer that knows nothing."""
    _turn: Iterator[int] = field(default_factory=itertools.count)

    def replicas(self, service: str) -> list[ServiceProcess]:
        """Every replica of a service."""
        return [self.services[service], *self.spares.get(service, ())]

    def next_replica(self, service: str) -> ServiceProcess:
        """The replica whose turn it is."""
        replicas = self.replicas(service)
        return replicas[next(self._turn) % len(replicas)]

    def phone(self, role: str, person_id: str) -> Phone:
        """A phone with a fresh token."""
        key = self.stack.keys.user_key
        token = make_token(key, role, person_id, name="Test", phone="+910000000000")
        return Phone(self.client, person_id, token)

    def customer(self) -> Customer:
        """A customer nobody else is."""
        return Customer(self, self.phone("customer", f"c-{uuid4().hex[:12]}"))

    @contextlib.asynccontextmanager
    async def captain(self, subtype: str, at: tuple[float, float] = DELHI) -> AsyncIterator[Captain]:
        """A captain who is registered, free, at a place, and listens on his socket."""
        captain = Captain(self, self.phone("captain", f"k-{uuid4().hex[:12]}"), subtype, at)
        await captain.register()
        async with listening(self, captain.phone) as captain.inbox:
            yield captain

    def url(self, service: str, path: str) -> str:
        """``/orders`` → the whole URL."""
        base_url = self.gateway.base_url if self.gateway else self.next_replica(service).base_url
        return f"{base_url}{API}{path}"

    def ws_url(self) -> str:
        """Where a socket is opened."""
        return self.gateway.ws_url if self.gateway else self.next_replica("notifier").ws_url

    def kafka(self) -> KafkaClients:
        """Clients of the broker, for the city's topics."""
        return kafka_of(self.env)

    async def order_events(self, order_id: str, count: int) -> list[Record]:
        """All records of an order's events, in Kafka's order, once there are so many."""
        found: list[Record] = []
        async with asyncio.timeout(PATIENCE_S), open_reader(self.kafka()) as reader:
            pairs = [reader.partition_of(ORDERS_EVENTS, order_id)]
            starts = await reader.beginnings(pairs)
            while len(found) < count:
                records = reader.between(ORDERS_EVENTS, starts, await reader.ends(pairs))
                found = [record async for record in records if record.key == order_id.encode()]
        return found

    async def ledger(self) -> LedgerReport:
        """The ledger's word over all that happened so far."""
        urls = {
            f"WEELO_{service.replace('-', '_').upper()}_URL": ",".join(
                replica.base_url for replica in self.replicas(service)
            )
            for service in SERVICES
        }
        return await verify(LedgerConfig.from_env({**self.env, **urls}, self.created))


def new_subtype() -> str:
    """A vehicle subtype of a test's own."""
    return f"S_{uuid4().hex[:10]}"


def order_body(subtype: str, *, trucks: int = 1, at: tuple[float, float] = DELHI) -> dict[str, Any]:
    """The contract's example with another subtype."""
    return {
        "pickup": {"latitude": at[0], "longitude": at[1], "address": "Connaught Place"},
        "drop": {"latitude": 28.5355, "longitude": 77.3910, "address": "Noida"},
        "distanceKm": 25,
        "vehicleRequirements": [
            {"vehicleType": "TRUCK", "vehicleSubtype": subtype, "quantity": trucks, "pricePerTruck": 500}
        ],
    }


@dataclass
class Customer:
    """Books, asks and cancels."""

    city: City
    phone: Phone

    async def create(self, body: Mapping[str, Any], key: str | None = None) -> Answer:
        answer = await self.phone.call(
            "POST", self.city.url("order-api", "/orders"), body, idempotency_key=key
        )
        if answer.status == 201:
            self.city.created.add(answer.data["orderId"])
        return answer

    async def cancel(self, order_id: str) -> Answer:
        url = self.city.url("order-api", f"/orders/{order_id}/cancel")
        return await self.phone.call("POST", url, {"reason": "a test"})

    async def read(self, order_id: str, tail: str = "") -> Answer:
        return await self.phone.call("GET", self.city.url("order-api", f"/orders/{order_id}{tail}"))


@dataclass
class Inbox:
    """The frames of one socket, to be waited for."""

    stream: NotificationStream
    frames: list[Notification] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def wait_for(self, event: str, **fields: object) -> Notification:
        """The first frame of that name whose data has these fields, as soon as it is there."""

        def found() -> Notification | None:
            for frame in self.frames:
                if frame.event == event and all(frame.data.get(k) == v for k, v in fields.items()):
                    return frame
            return None

        async with asyncio.timeout(PATIENCE_S), self.arrived:
            await self.arrived.wait_for(lambda: found() is not None)
        frame = found()
        assert frame is not None
        return frame


@contextlib.asynccontextmanager
async def listening(city: City, phone: Phone) -> AsyncIterator[Inbox]:
    """A socket that stays open, and what came on it."""
    stream = NotificationStream(city.ws_url, lambda: phone.token)
    inbox = Inbox(stream)

    async def listen() -> None:
        async for message in stream:
            assert isinstance(message, Notification)
            async with inbox.arrived:
                inbox.frames.append(message)
                inbox.arrived.notify_all()

    task = asyncio.create_task(listen())
    try:
        await asyncio.wait_for(stream.ready.wait(), PATIENCE_S)
        yield inbox
    finally:
        task.cancel()
        await asyncio.wait([task])


@dataclass
class Captain:
    """Takes offers, or does not."""

    city: City
    phone: Phone
    subtype: str
    at: tuple[float, float]
    inbox: Inbox = field(init=False)

    @property
    def person_id(self) -> str:
        return self.phone.person_id

    async def register(self) -> None:
        transporter_id = f"t-{self.person_id}"
        ops = self.city.phone("ops", "ops-1")
        me = {
            "transporterId": transporter_id,
            "name": "Test",
            "vehicleType": "TRUCK",
            "vehicleSubtype": self.subtype,
            "vehicleNumber": "DL 1 AB 1",
        }
        transporter = {"name": "Test", "active": True, "verified": True}
        steps: list[tuple[Phone, str, str, dict[str, Any]]] = [
            (ops, "PUT", f"/transporters/{transporter_id}", transporter),
            (self.phone, "PUT", "/captains/me", me),
            (ops, "PUT", f"/transporters/{transporter_id}/captains/{self.person_id}", {"confirmed": True}),
            (self.phone, "PUT", "/captains/me/availability", {"available": True}),
        ]
        for phone, method, path, body in steps:
            answer = await phone.call(method, self.city.url("dispatcher", path), body)
            assert answer.ok, f"{method} {path}: {answer.status} {answer.body!r}"
        await self.send_position()

    async def send_position(self) -> None:
        location = {
            "latitude": self.at[0],
            "longitude": self.at[1],
            "recordedAt": format_time(SystemClock().now()),
        }
        answer = await self.phone.call(
            "POST", self.city.url("dispatcher", "/captains/me/locations"), {"locations": [location]}
        )
        assert answer.status == 202, answer.body

    async def offer(self, order_id: str) -> Notification:
        """The offer of an order on his phone."""
        return await self.inbox.wait_for("new_broadcast", orderId=order_id)

    async def accept(self, order_id: str, offer: Notification) -> Answer:
        url = self.city.url("order-api", f"/orders/{order_id}/accept")
        return await self.phone.call("POST", url, {"offerToken": offer.data["offerToken"]})

    async def decline(self, offer: Notification, reason: str = "NOT_AVAILABLE") -> Answer:
        url = self.city.url("dispatcher", f"/offers/{offer.data['offerId']}/decline")
        return await self.phone.call("POST", url, {"reason": reason})


def start_city(stack: LocalStack, env: Mapping[str, str]) -> dict[str, ServiceProcess]:
    """From the servers to four services that are ready."""
    stack.provision()
    stack.create_topics(env)
    stack.migrate(env=env)
    services = {name: stack.start_service(name, env) for name in SERVICES}
    for process in services.values():
        process.wait_ready()
    return services


@contextlib.contextmanager
def city_apart(
    stack: LocalStack, env: Mapping[str, str]
) -> Iterator[tuple[dict[str, ServiceProcess], Mapping[str, str]]]:
    """Four services that are ready, on databases and topics of their own, and what reaches those; gone at the end."""
    prefix = f"e{uuid4().hex[:6]}_"
    stack.provision()  # a service's environment is made with these DSNs, before ours take their place
    dsns, ledger_dsns = stack.provision(prefix), stack.ledger_dsns(prefix)
    reached = stack.command_env() | {"KAFKA_TOPIC_PREFIX": prefix.replace("_", ".")}
    for name in SERVICES:
        suffix = name.replace("-", "_").upper()
        reached |= {f"POSTGRES_DSN_{suffix}": dsns[name], f"POSTGRES_LEDGER_DSN_{suffix}": ledger_dsns[name]}
    started: dict[str, ServiceProcess] = {}
    try:
        asyncio.run(_lay_out(reached, dsns))
        own = {**env, "KAFKA_TOPIC_PREFIX": reached["KAFKA_TOPIC_PREFIX"]}
        for name in SERVICES:
            started[name] = stack.start_service(name, own | {"POSTGRES_DSN": dsns[name]})
        for process in started.values():
            process.wait_ready()
        yield started, reached
    finally:
        for process in started.values():
            process.stop()
        asyncio.run(_delete_topics(kafka_of(reached)))
        stack.remove(prefix)


def kafka_of(env: Mapping[str, str]) -> KafkaClients:
    """Clients of the broker that an environment names."""
    settings = KafkaSettings(
        kafka_bootstrap_servers=env["KAFKA_BOOTSTRAP_SERVERS"],
        kafka_topic_prefix=env.get("KAFKA_TOPIC_PREFIX", ""),
    )
    return KafkaClients(settings, client_id="test")


async def _lay_out(env: Mapping[str, str], dsns: Mapping[str, str]) -> None:
    """Topics and tables, in this process: the jobs that make them in production are started by ``start_city``."""
    await create_topics(kafka_of(env), replication_factor=1)
    for name in SERVICES:
        settings = ServiceSettings.model_validate(
            {
                "postgres_dsn": dsns[name],
                "kafka_bootstrap_servers": env["KAFKA_BOOTSTRAP_SERVERS"],
                "http_port": 0,
            }
        )
        async with (
            Database.open(settings, application_name="test") as database,
            database.connection() as connection,
        ):
            await migrate(connection, ["weelo_common", MODULES[name]])


async def _delete_topics(kafka: KafkaClients) -> None:
    """A broker that keeps thousands of partitions of tests runs out of memory."""
    async with kafka.admin() as admin:
        await admin.delete_topics([kafka.topic_name(topic) for topic in declared_topics()])
