"""A few customers and captains at one real order-api, for tests that let anything happen in any order.

Every answer is judged on the spot: it must be one that the contract allows, and what was answered once must stay so.
What the database and Kafka hold afterwards is judged by the ledger's own statements, over order-api's slice of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
from aiokafka import TopicPartition
from redis.asyncio import Redis

from order_api.model import TruckStatus, status_of
from tests.integration.order_api_process_rig import OrderApiProcess
from tests.integration.order_api_rig import PATIENCE_S, Home, body, signed_offer, token_of
from weelo_cli.connections import Surroundings
from weelo_cli.ledger.facts import Facts, LoggedEvent
from weelo_cli.ledger.statements import judge
from weelo_cli.ledger.tables import Tables
from weelo_cli.ledger.topics import Topics
from weelo_common.events import TruckAssigned, TruckReleased
from weelo_common.events.topics import ORDERS_EVENTS
from weelo_common.kafka import KafkaClients
from weelo_common.postgres import Connection, Database

CUSTOMERS = 2
CAPTAINS = 3
LATEST = 4  # orders and trucks that people still care about
LOST = {"ORDER_CANCELLED", "ORDER_EXPIRED", "TRUCK_REQUEST_TAKEN", "CAPTAIN_BUSY"}
MAKE_OVERDUE = (
    "UPDATE orders SET expires_at = clock_timestamp() - interval '1 ms' WHERE id = $1 AND searching"
)
# So that no order of a run before this one comes to its end between the wait for rest and the look at the ledger.
PUT_OFF_THE_REST = (
    "UPDATE orders SET expires_at = clock_timestamp() + interval '1 h' "
    "WHERE searching AND expires_at > clock_timestamp()"
)
SELECT_STATES = """
SELECT o.id::text, o.status, o.searching, o.cancel_kind IS NOT NULL AS cancelled, array_agg(t.status) AS trucks
  FROM orders o JOIN truck_requests t ON t.order_id = o.id GROUP BY o.id
"""


def running_trips(events: Mapping[str, Sequence[LoggedEvent]]) -> set[tuple[str, str]]:
    """Truck request and captain of each trip that was given and not given back, as a reader of the events knows it."""
    running: set[tuple[str, str]] = set()
    for log in events.values():
        for event in sorted((one.event for one in log), key=lambda event: event.order_version):
            match event:
                case TruckAssigned():
                    running.add((event.truck_request_id, event.captain_id))
                case TruckReleased():
                    running.discard((event.truck_request_id, event.captain_id))
    return running


@dataclass
class Town:
    """One run: people nobody else is, at a service that may be killed."""

    home: Home
    service: OrderApiProcess
    http: httpx.AsyncClient
    database: Database
    redis: Redis
    kafka: KafkaClients
    surprises: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    customers: list[str] = field(default_factory=lambda: [f"c-{uuid4()}" for _ in range(CUSTOMERS)])
    captains: list[str] = field(default_factory=lambda: [f"k-{uuid4()}" for _ in range(CAPTAINS)])
    orders: list[tuple[str, str]] = field(default_factory=list)
    """Customer and id of each order that somebody was told of."""
    trucks: list[tuple[str, str]] = field(default_factory=list)
    """Captain and id of each truck request that somebody won."""
    overdue: set[str] = field(default_factory=set)
    """Orders whose time is over; they must block nobody."""
    kept: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    """By customer and key: the trucks that were asked for, and the 201 that was answered."""

    async def create(self, customer: int, key: str | None, trucks: int) -> None:
        """Book; under a key that was answered before, the same answer must come, byte for byte."""
        who = self.customers[customer]
        before, overdue = (self.kept.get((who, key)) if key else None), set(self.overdue)
        answer = await self._send(
            who, "customer", "/orders", body(trucks), {} if key is None else {"Idempotency-Key": key}
        )
        if answer is None:
            return
        said = self._said("create", answer)
        if before is not None:
            expected = (201, before[1]) if before[0] == trucks else (422, answer.content)
            if (answer.status_code, answer.content) != expected:
                self.surprises.append(f"a retry of an answered create got {said}")
        elif said not in {
            "201",
            "409 CONCURRENT_REQUEST",
            "409 ACTIVE_ORDER_EXISTS",
            "422 IDEMPOTENCY_KEY_REUSED",
        }:
            self.surprises.append(f"a create got {said}")
        elif said == "409 ACTIVE_ORDER_EXISTS" and answer.json()["error"]["data"]["activeOrderId"] in overdue:
            self.surprises.append("an order whose time is over blocked a create")
        if answer.status_code != 201:
            return
        if key:
            kept = self.kept.setdefault((who, key), (trucks, answer.content))
            if kept != (trucks, answer.content):
                self.surprises.append("two creates under one key got two answers")
        if (who, made := answer.json()["data"]["orderId"]) not in self.orders:
            self.orders.append((who, made))

    async def cancel(self, pick: int) -> None:
        for who, order_id in self._one(self.orders, pick):
            await self._post(
                "cancel", who, "customer", f"/orders/{order_id}/cancel", {}, "ORDER_NOT_CANCELLABLE"
            )

    async def accept(self, captain: int, pick: int) -> None:
        who = self.captains[captain]
        for _, order_id in self._one(self.orders, pick):
            offer = {"offerToken": signed_offer(self.home, order_id, who)}
            won = await self._post("accept", who, "captain", f"/orders/{order_id}/accept", offer, *LOST)
            if won is not None:
                truck = won.json()["data"]["truckRequest"]
                if truck["captainId"] != who:
                    self.surprises.append("an accept gave somebody else's truck")
                self.trucks.append((who, truck["id"]))

    async def step(self, step: str, pick: int) -> None:
        """``start``, ``complete`` or ``release`` by the truck's captain, or ``ops`` releases it."""
        for captain, truck_id in self._one(self.trucks, pick):
            who, role = ("ops-1", "ops") if step == "ops" else (captain, "captain")
            name = "release" if step == "ops" else step
            content = {"reason": "a test"} if name == "release" else None
            path = f"/truck-requests/{truck_id}/{name}"
            await self._post(step, who, role, path, content, "INVALID_TRANSITION", "NOT_FOUND")

    async def whole_trip(self) -> None:
        """Somebody new books and somebody new drives: whatever happened before, that must go through."""
        self.customers.append(f"c-{uuid4()}")
        self.captains.append(f"k-{uuid4()}")
        await self.create(len(self.customers) - 1, None, 1)
        await self.accept(len(self.captains) - 1, -1)  # of all orders the last
        await self.step("start", -1)
        await self.step("complete", -1)

    async def end_by_time(self, pick: int) -> None:
        """The order's time is over; who ends its search is whoever comes first."""
        for _, order_id in self._one(self.orders, pick):
            async with self.database.connection() as connection:
                await connection.execute(MAKE_OVERDUE, order_id)
            self.overdue.add(order_id)

    async def read(self, pick: int) -> None:
        for who, order_id in self._one(self.orders, pick):
            answer = await self._send(who, "customer", f"/orders/{order_id}/status", None, {}, method="GET")
            if answer is not None and answer.status_code != 200:
                self.surprises.append(f"a read got {self._said('read', answer)}")

    async def forget(self) -> None:
        """Redis loses all it had of this service."""
        await self.redis.flushdb()

    async def restart(self) -> None:
        """``kill -9`` and a new start."""
        await asyncio.to_thread(self.service.kill)
        await asyncio.to_thread(self.service.start)

    async def against(self) -> list[str]:
        """What speaks against the run, once everything has come to rest: nothing, or it failed."""
        for (who, key), (trucks, _) in self.kept.items():
            await self.create(self.customers.index(who), key, trucks)
        await asyncio.gather(
            *(self.read(pick) for pick in range(LATEST))
        )  # what is overdue ends; the sweep does the rest
        async with self.database.connection() as connection:
            await connection.execute(PUT_OFF_THE_REST)
        async with asyncio.timeout(PATIENCE_S):
            while not await self._rested():  # noqa: ASYNC110 - PostgreSQL sends no signal
                await asyncio.sleep(0.05)
        return [*self.surprises, *await self._ledger(), *await self._states()]

    async def _rested(self) -> bool:
        async with self.database.connection() as connection:
            waiting = await connection.fetchval(
                "SELECT (SELECT count(*) FROM outbox) + "
                "(SELECT count(*) FROM orders WHERE searching AND expires_at <= clock_timestamp())"
            )
        return bool(waiting == 0)

    async def _ledger(self) -> list[str]:
        """The ledger's statements. Other services have no part here: what they would say is left empty."""
        surroundings = Surroundings({"POSTGRES_LEDGER_DSN_ORDER_API": self.home.values["postgres_dsn"]})
        tables = await Tables(surroundings).order_tables()
        name = self.kafka.topic_name(ORDERS_EVENTS)
        pairs = [TopicPartition(name, number) for number in range(ORDERS_EVENTS.partitions)]
        async with Topics(self.kafka) as topics:
            consumer = self.kafka.consumer(group=None)
            await self.kafka.start_consumer(consumer)
            try:
                ends = await consumer.end_offsets(pairs)
            finally:
                await self.kafka.stop_consumer(consumer)
            events, malformed = await topics.order_events(ends, PATIENCE_S)
        report = judge(
            Facts(
                answered_201=frozenset(order_id for _, order_id in self.orders),
                orders=tables.orders,
                trucks=tables.trucks,
                answers=tables.answers,
                dispatcher_orders=frozenset(tables.orders),
                events=events,
                streams=(),
                waiting={},
                lag={},
                consumers=(),
            )
        )
        held = {
            (truck.id, truck.captain_id)
            for truck in tables.trucks
            if truck.status in (TruckStatus.ASSIGNED, TruckStatus.IN_PROGRESS)
        }
        if held != (told := running_trips(events)):
            malformed.append(f"by their events the running trips are {told}, by the rows {held}")
        searching = Counter(order.customer_id for order in tables.orders.values() if order.searching)
        several = [f"{who} has {count} searching orders" for who, count in searching.items() if count > 1]
        return [*malformed, *several, *(line for lines in report.evidence.values() for line in lines)]

    async def _states(self) -> list[str]:
        """Orders whose status is not what the state table makes of their truck requests."""
        connection: Connection
        async with self.database.connection() as connection:
            rows = await connection.fetch(SELECT_STATES)
        return [
            f"order {row['id']} is {row['status']}"
            for row in rows
            if row["status"]
            != status_of(
                map(TruckStatus, row["trucks"]), searching=row["searching"], cancelled=row["cancelled"]
            )
        ]

    def _one(self, known: list[tuple[str, str]], pick: int) -> list[tuple[str, str]]:
        latest = known[-LATEST:]
        return [latest[pick % len(latest)]] if latest else []

    async def _post(
        self, what: str, who: str, role: str, path: str, content: Any, *refusals: str
    ) -> httpx.Response | None:
        """The 200; None where it was refused as it may be, or not answered at all."""
        answer = await self._send(who, role, path, content, {})
        if answer is None:
            return None
        said = self._said(what, answer)
        if answer.status_code == 200:
            return answer
        if said.partition(" ")[2] not in refusals:
            self.surprises.append(f"{what} got {said}")
        return None

    async def _send(
        self, who: str, role: str, path: str, content: Any, headers: dict[str, str], method: str = "POST"
    ) -> httpx.Response | None:
        """The answer; None where the process died before it gave one."""
        token = token_of(self.home, who, role, {})
        sent = {"Authorization": f"Bearer {token}"} | headers
        url = f"{self.service.base_url}/api/v1{path}"
        with contextlib.suppress(httpx.TransportError):
            return await self.http.request(method, url, headers=sent, json=content)
        self.answers["unanswered"] += 1
        return None

    def _said(self, what: str, answer: httpx.Response) -> str:
        said = str(answer.status_code)
        if answer.status_code >= 400:
            said += f" {answer.json()['error']['code']}"
        self.answers[f"{what} {said}"] += 1
        return said
