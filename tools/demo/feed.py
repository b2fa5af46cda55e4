"""The evening as other teams see it: the public events, read from Kafka without a consumer group.

It counts what no phone can know: offers made and withdrawn, waves, trucks won, how searches ended. It must never write
to Kafka, and it counts only what belongs to this evening's people.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from tools.demo.tally import Tally
from weelo_common.events import (
    DispatchExhausted,
    Event,
    MalformedEvent,
    OfferDeclined,
    OffersMade,
    OffersWithdrawn,
    OrderCancelled,
    OrderCreated,
    OrderExpired,
    OrderFullyFilled,
    TruckAssigned,
    decode,
)
from weelo_common.events.orders import OrderEvent
from weelo_common.events.topics import DISPATCH_OFFERS, ORDERS_EVENTS
from weelo_common.kafka import KafkaClients, KafkaUnavailable

POLL_MS = 200  # how soon a stop is seen
FINISH_DEADLINE_S = 15.0  # for what is still in the topics when the evening is over


class EventCounts:
    """Events into counts, each event once by its id. Pure."""

    def __init__(self, tally: Tally, people_prefix: str) -> None:
        self._tally = tally
        self._prefix = people_prefix
        self._seen: set[str] = set()  # bounded by the evening: some ten thousand ids
        self._searching: set[str] = set()
        self._waves: dict[str, int] = {}  # the last wave of each of our orders
        self._early: dict[str, list[OffersMade | DispatchExhausted]] = {}  # two topics keep no common order

    def add(self, event_id: str, event: Event) -> None:
        """Count one event; repeats and other evenings' events change nothing."""
        if event_id in self._seen:
            return
        self._seen.add(event_id)
        if isinstance(event, OrderEvent):
            if event.customer_id.startswith(self._prefix):
                self._tally.events_read += 1
                self._order(event)
        elif isinstance(event, OffersMade):
            self._tally.offers.made += self._ours(offer.captain_id for offer in event.offers)
            self._round(event)
        elif isinstance(event, DispatchExhausted):
            self._round(event)
        elif isinstance(event, OffersWithdrawn):
            ours = self._ours(offer.captain_id for offer in event.offers)
            self._tally.offers.withdrawn += ours
            self._tally.dispatch.withdrawn[event.reason] += ours
        elif isinstance(event, OfferDeclined):
            self._tally.offers.declined += self._ours([event.captain_id])

    def _round(self, event: OffersMade | DispatchExhausted) -> None:
        """A wave, replacements (they carry the wave they come in), or the word that nobody is left to ask."""
        last = self._waves.get(event.order_id)
        dispatch = self._tally.dispatch
        if last is None:
            self._early.setdefault(event.order_id, []).append(event)
        elif isinstance(event, DispatchExhausted):
            dispatch.exhausted += 1
            self._tally.say(f"order {_short(event)}: {event.waves} waves, and nobody is left to ask")
        elif event.wave > last:
            self._waves[event.order_id] = event.wave
            dispatch.wave(event.order_id, event.wave, event.radius_m, len(event.offers))
            if event.wave > 1 and event.offers:
                self._tally.say(
                    f"order {_short(event)}: wave {event.wave} reaches {event.radius_m / 1000:g} km,"
                    f" {len(event.offers)} more captains are asked"
                )
        else:
            dispatch.replacements += len(event.offers)

    def _ours(self, captain_ids: Iterable[str]) -> int:
        return sum(captain_id.startswith(self._prefix) for captain_id in captain_ids)

    def _order(self, event: OrderEvent) -> None:
        orders = self._tally.orders
        if isinstance(event, TruckAssigned):
            self._tally.offers.accepted += 1
        elif isinstance(event, OrderFullyFilled):
            orders.fully_filled += 1
        elif isinstance(event, OrderCancelled):
            orders.cancelled += 1
        elif isinstance(event, OrderExpired) and event.trucks_filled:
            orders.partially_filled += 1
        elif isinstance(event, OrderExpired):
            orders.expired += 1
        elif isinstance(event, OrderCreated):
            self._searching.add(event.order_id)
            self._waves[event.order_id] = 0
            for early in self._early.pop(event.order_id, ()):
                self._round(early)
        # Events of one order come in order: its creation is read before its search ends.
        if not event.searching:
            self._searching.discard(event.order_id)
        self._tally.open_searches = len(self._searching)


def _short(event: OffersMade | DispatchExhausted) -> str:
    return event.order_id[-6:]


class Feed:
    """Reads both topics from where they stand at the start; after `finish()` up to their ends."""

    def __init__(self, consumer: AIOKafkaConsumer, counts: EventCounts, tally: Tally) -> None:
        self._consumer = consumer
        self._counts = counts
        self._tally = tally
        self._finishing = False

    async def run(self) -> None:
        """Count events until `finish()` was called and everything written by then is read."""
        ends: dict[TopicPartition, int] | None = None
        while True:
            # getmany returns after POLL_MS at the latest; it is never cancelled in an orderly evening.
            batches = await self._consumer.getmany(timeout_ms=POLL_MS)
            for records in batches.values():
                for record in records:
                    self._count(record)
            if self._finishing:
                if ends is None:
                    ends = await self._ends()
                positions = [(await self._consumer.position(tp), end) for tp, end in ends.items()]
                # An empty poll, too: Tansu 0.6 names an end that is short of a last batch of several events.
                if not batches and all(position >= end for position, end in positions):
                    return

    async def _ends(self) -> dict[TopicPartition, int]:
        try:
            ends: dict[TopicPartition, int] = await asyncio.wait_for(
                self._consumer.end_offsets(self._consumer.assignment()), FINISH_DEADLINE_S
            )
        except (KafkaError, TimeoutError) as error:
            raise KafkaUnavailable(f"ends of the topics: {type(error).__name__}") from error
        return ends

    def finish(self) -> None:
        """Let `run()` end once it has read what is there now."""
        self._finishing = True

    def _count(self, record: ConsumerRecord) -> None:
        topic = ORDERS_EVENTS if record.topic.endswith(ORDERS_EVENTS.name) else DISPATCH_OFFERS
        try:
            envelope = decode(topic, record.key, record.headers, record.value)
        except MalformedEvent as error:
            self._tally.surprise(f"{record.topic}: {error}")
            return
        if envelope.event is not None:
            self._counts.add(envelope.id, envelope.event)


@contextlib.asynccontextmanager
async def open_feed(kafka: KafkaClients, tally: Tally, people_prefix: str) -> AsyncIterator[Feed]:
    """A feed that stands at the ends of both topics.

    Raises:
        KafkaUnavailable: no broker answered within the deadline.
    """
    consumer = kafka.consumer(group=None)
    try:
        await kafka.start_consumer(consumer)
        consumer.assign(
            [
                TopicPartition(kafka.topic_name(topic), partition)
                for topic in (ORDERS_EVENTS, DISPATCH_OFFERS)
                for partition in range(topic.partitions)
            ]
        )
        try:
            await asyncio.wait_for(consumer.seek_to_end(), kafka.deadline_s)
        except (KafkaError, TimeoutError) as error:
            raise KafkaUnavailable(f"ends of the topics: {type(error).__name__}") from error
        yield Feed(consumer, EventCounts(tally, people_prefix), tally)
    finally:
        await kafka.stop_consumer(consumer)
