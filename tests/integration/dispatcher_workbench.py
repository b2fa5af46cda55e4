"""The dispatcher's handlers as several replicas would run them, on one real database and without Kafka.

Events are handed over one by one, in whatever order and however often a test likes, through the same processor that
a consumer uses: inbox, transaction, retries. What is told stays in the outbox, to be looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import uuid4

from prometheus_client import CollectorRegistry

from dispatcher.consumers import handlers, is_relevant
from dispatcher.handlers.dispatch import Dispatch
from dispatcher.handlers.matching import Matcher
from dispatcher.handlers.order_events import OrderEvents
from dispatcher.live_fleet import LiveFleet
from dispatcher.main import SESSION
from dispatcher.metrics import DispatcherMetrics
from dispatcher.store.fleet import get_captain
from tests.integration.dispatcher_orders import PICKUP
from tests.integration.dispatcher_rig import METRE, Home
from weelo_common.clock import epoch_ms
from weelo_common.consumer import ConsumerMetrics
from weelo_common.dead_letters import DeadLetters
from weelo_common.delivery import Delivery
from weelo_common.events import Event, encode, seal
from weelo_common.events.positions import Position, captain_fingerprint
from weelo_common.events.topics import DISPATCHER
from weelo_common.ids import new_id
from weelo_common.kafka import KafkaClients
from weelo_common.offer_tokens import OfferTokenSigner
from weelo_common.outbox import Outbox
from weelo_common.parking import Record
from weelo_common.partition_worker import EventProcessor
from weelo_common.postgres import Database

PATIENCE_S = 30.0
INSERT_CAPTAINS = """
WITH transporter AS (
    INSERT INTO transporters (transporter_id, name, active, verified) VALUES ('t-good', 'T', true, true)
    ON CONFLICT DO NOTHING)
INSERT INTO captains (captain_id, transporter_id, name, vehicle_type, vehicle_subtype, vehicle_number, confirmed,
                      available)
SELECT id, 't-good', 'Test', 'TRUCK', $2, 'DL1', true, true FROM unnest($1::text[]) AS id
"""


@dataclass(frozen=True)
class Handed:
    """An event with its id: handed over twice it is a repeat."""

    event: Event
    event_id: str = field(default_factory=new_id)


@dataclass
class Hand:
    """One replica's handlers, with an index of its own."""

    database: Database
    processor: EventProcessor
    orders: OrderEvents
    fleet: LiveFleet
    registry: CollectorRegistry

    async def handle(self, handed: Handed) -> None:
        """Take an event to its end."""
        event = handed.event
        headers, value = encode(seal(event, source="test", time=datetime.now(UTC), event_id=handed.event_id))
        record = Record(
            event.TOPIC,
            partition=0,
            offset=0,
            key=event.key().encode(),
            headers=tuple(headers),
            value=value,
            received_at=datetime.now(UTC),
        )
        async with asyncio.timeout(PATIENCE_S):
            assert await self.processor.process(record, asyncio.Event())

    async def tries_again(self, handling: asyncio.Task[None]) -> bool:
        """Whether it had to try an event again; no more to be seen once the event has ended."""
        assert not handling.done() or self.count("retries")
        return self.count("retries") > 0

    def count(self, outcome: str) -> float:
        """How many events ended so with it."""
        name = f"weelo_consumer_{outcome}_total"
        return self.registry.get_sample_value(name, {"consumer": DISPATCHER}) or 0.0


@dataclass
class Workbench:
    """Replicas on one database, and a look into it."""

    hands: Sequence[Hand]
    subtype: str = field(default_factory=lambda: f"S_{uuid4().hex[:8]}")

    async def captains(self, count: int) -> list[str]:
        """Free captains near the pickup, a metre apart, whom every replica knows."""
        ids = [f"k-{uuid4().hex[:10]}" for _ in range(count)]
        database = self.hands[0].database
        async with database.transaction() as connection:
            await connection.execute(INSERT_CAPTAINS, ids, self.subtype)
            found = [await get_captain(connection, captain_id) for captain_id in ids]
        now_ms = epoch_ms(datetime.now(UTC))
        for hand, (number, captain) in itertools.product(self.hands, enumerate(found, 1)):
            assert captain is not None
            hand.fleet.apply_state(captain.state(), now_ms)
            fingerprint = captain_fingerprint(captain.captain_id)
            hand.fleet.apply_position(
                Position(fingerprint, PICKUP[0] + number * METRE, PICKUP[1], now_ms), now_ms
            )
        return ids

    async def hand_over(self, events: Sequence[Handed], dice: Random, *, at_once: int) -> None:
        """Give each event to one of the replicas, ``at_once`` at a time."""
        left = iter(events)

        async def work() -> None:
            for handed in left:
                await dice.choice(self.hands).handle(handed)

        await at_the_same_time(work() for _ in range(at_once))

    async def rows(self, sql: str, *arguments: Any) -> list[dict[str, Any]]:
        async with self.hands[0].database.connection() as connection:
            return [dict(row) for row in await connection.fetch(sql, *arguments)]

    def count(self, outcome: str) -> float:
        """How many events ended so, with all replicas."""
        return sum(hand.count(outcome) for hand in self.hands)


def delivery_of(event: Event) -> Delivery[Any]:
    """An event as a handler gets it."""
    now = datetime.now(UTC)
    return Delivery(seal(event, source="test", time=now), event, partition=0, offset=0, received_at=now)


async def at_the_same_time(work: Any) -> None:
    """Do all of it at once; the first failure ends it."""
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(_awaited(one))


async def _awaited(work: Awaitable[Any]) -> None:
    await work


@contextlib.asynccontextmanager
async def workbench(home: Home, *, replicas: int = 2) -> AsyncIterator[Workbench]:
    """So many replicas' handlers on the home's database."""
    keys = home.stack.keys
    signer = OfferTokenSigner(keys.offer_private.read_text(), keys.offer_key_id)
    dead_letters = DeadLetters(KafkaClients(home.settings(), client_id="test"), DISPATCHER)
    async with contextlib.AsyncExitStack() as stack:
        hands = []
        for number in range(replicas):
            database = await stack.enter_async_context(
                Database.open(home.settings(), application_name=f"test-{number}", session=SESSION)
            )
            registry, fleet = CollectorRegistry(), LiveFleet()
            metrics = DispatcherMetrics(registry)
            outbox = Outbox(DISPATCHER)
            orders = OrderEvents(Dispatch(Matcher(fleet, metrics), signer, outbox), outbox, fleet, metrics)
            processor = EventProcessor(
                DISPATCHER, handlers(orders), database, dead_letters, ConsumerMetrics(registry), is_relevant
            )
            hands.append(Hand(database, processor, orders, fleet, registry))
        yield Workbench(hands)
