"""Keeps this replica's index: all captains from PostgreSQL, then every change from two topics, read in full.

Each replica reads ``captains.state.v1`` and ``captains.locations.v1`` without a consumer group, from 60 s back: an
older position is stale, and an older state is in the database that was loaded. What is malformed is logged, counted as
ignored, and passed over; nothing a topic holds may stop the reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from dispatcher.live_fleet import FRESH_FOR_MS, LiveFleet
from dispatcher.metrics import DispatcherMetrics
from dispatcher.store import fleet as fleet_store
from weelo_common.clock import Clock, epoch_ms
from weelo_common.consumer import ConsumerMetrics
from weelo_common.events import CaptainState, MalformedEvent, decode
from weelo_common.events.positions import MalformedPositions, unpack
from weelo_common.events.topics import CAPTAINS_LOCATIONS, CAPTAINS_STATE, Topic
from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.postgres import Database, DatabaseUnavailable
from weelo_common.settings import KafkaSettings

log = logging.getLogger(__name__)

CONSUMER = "dispatcher-index"  # its name in the metrics; it has no group
PAGE_CAPTAINS = 5_000  # loaded in one statement
POLL_MS = 100
POLL_RECORDS = 1_000
YIELD_POSITIONS = 4_000  # some ms of work; then the other tasks of this process have their turn
SET_ASIDE_AT_ONCE = 5_000
RETRY_PAUSE_S = 1.0
LOG_AGAIN_S = 60.0  # a topic full of rubbish must not fill the log


class Follower:
    """Reads the fleet's topics into the index."""

    def __init__(
        self,
        fleet: LiveFleet,
        database: Database,
        kafka: KafkaClients,
        settings: KafkaSettings,
        clock: Clock,
        consumer_metrics: ConsumerMetrics,
        metrics: DispatcherMetrics,
    ) -> None:
        self._fleet = fleet
        self._database = database
        self._kafka = kafka
        self._settings = settings
        self._clock = clock
        self._consumer_metrics = consumer_metrics
        self._metrics = metrics
        self._topics: dict[str, Topic] = {
            kafka.topic_name(topic): topic for topic in (CAPTAINS_STATE, CAPTAINS_LOCATIONS)
        }
        self._partitions = [
            TopicPartition(name, number)
            for name, topic in self._topics.items()
            for number in range(topic.partitions)
        ]
        self._next: dict[TopicPartition, int] = {}
        self._heard_at = time.monotonic()
        self._lag = 0
        self._logged_at: dict[str, float] = {}
        self.caught_up = asyncio.Event()
        """Set once all that was there at the start has been read; orders are consumed only then."""

    def trouble(self) -> str | None:
        """None while the index is whole and fresh, else why it is not."""
        if not self.caught_up.is_set():
            return f"index: not caught up yet, {len(self._fleet)} captains loaded"
        silence_s = time.monotonic() - self._heard_at
        if silence_s > self._settings.kafka_silence_ready_s:
            return f"index: no word from a broker for {silence_s:.0f} s"
        if self._lag > self._settings.kafka_lag_ready_records:
            return f"index: {self._lag} records behind"
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Load, then follow until stopped, through any absence of PostgreSQL or the brokers."""
        while not stop.is_set():
            try:
                loaded = await self.load()
                break
            except DatabaseUnavailable as error:
                log.warning("Index waits for PostgreSQL", extra={"reason": str(error)})
                await _wait(stop, RETRY_PAUSE_S)
        else:
            return
        log.info("Index loaded", extra={"captains": loaded})
        while not stop.is_set():
            try:
                await self._session(stop)
            except (KafkaError, KafkaUnavailable, OSError, TimeoutError) as error:
                log.warning("Index reader reconnects", extra={"reason": f"{type(error).__name__}: {error}"})
                await _wait(stop, RETRY_PAUSE_S)

    async def load(self) -> int:
        """Take all captains from PostgreSQL, a page at a time; returns how many.

        Raises:
            DatabaseUnavailable: try again; what was loaded stays.
        """
        after, loaded = "", 0
        while True:
            async with self._database.connection() as connection:
                page = await fleet_store.captains_page(connection, after=after, most=PAGE_CAPTAINS)
            for captain in page:
                idle_since_ms = epoch_ms(captain.idle_since)
                self._fleet.apply_state(captain.state(), idle_since_ms, idle_since_ms=idle_since_ms)
            loaded += len(page)
            if len(page) < PAGE_CAPTAINS:
                return loaded
            after = page[-1].captain_id

    async def _session(self, stop: asyncio.Event) -> None:
        consumer = self._kafka.consumer(group=None)
        if not await self._kafka.start_consumer_unless(stop, consumer):
            return
        try:
            consumer.assign(self._partitions)
            ends = await asyncio.wait_for(consumer.end_offsets(self._partitions), self._kafka.deadline_s)
            await self._seek(consumer, ends)
            while not stop.is_set():
                batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
                for tp, records in batches.items():
                    await self._take(tp, records)
                    self._next[tp] = records[-1].offset + 1
                self._observe(consumer)
                if not self.caught_up.is_set() and all(self._next[tp] >= end for tp, end in ends.items()):
                    log.info("Index caught up", extra={"captains": len(self._fleet)})
                    self.caught_up.set()
        finally:
            await asyncio.shield(self._kafka.stop_consumer(consumer))

    async def _seek(self, consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> None:
        """Go on where the last session ended; the first begins 60 s back."""
        missing = [tp for tp in self._partitions if tp not in self._next]
        if missing:
            since_ms = epoch_ms(self._clock.now()) - FRESH_FOR_MS
            found: dict[TopicPartition, Any] = await asyncio.wait_for(
                consumer.offsets_for_times(dict.fromkeys(missing, since_ms)), self._kafka.deadline_s
            )
            for tp in missing:
                self._next[tp] = found[tp].offset if found.get(tp) is not None else ends[tp]
        for tp in self._partitions:
            consumer.seek(tp, self._next[tp])

    async def _take(self, tp: TopicPartition, records: list[Any]) -> None:
        topic = self._topics[tp.topic]
        now_ms = epoch_ms(self._clock.now())
        outcomes: Counter[str] = Counter()
        since_yield = 0
        for record in records:
            at_ms = min(record.timestamp, now_ms) if record.timestamp > 0 else now_ms
            if topic is CAPTAINS_STATE:
                used, size = self._take_state(record), 1
            else:
                used, size = self._take_positions(record, at_ms)
            outcomes["applied" if used else "ignored"] += 1
            since_yield += size
            if since_yield >= YIELD_POSITIONS:
                since_yield = 0
                await asyncio.sleep(0)
        self._consumer_metrics.consumed.labels(CONSUMER).inc(len(records))
        for outcome, count in outcomes.items():
            self._consumer_metrics.outcomes[outcome].labels(CONSUMER).inc(count)

    def _take_state(self, record: Any) -> bool:
        try:
            envelope = decode(CAPTAINS_STATE, record.key, record.headers, record.value)
        except MalformedEvent as error:
            self._log_malformed(CAPTAINS_STATE, record, str(error))
            return False
        if not isinstance(envelope.event, CaptainState):
            self._log_malformed(CAPTAINS_STATE, record, f"no {CaptainState.TYPE}: {envelope.type}")
            return False
        return self._fleet.apply_state(envelope.event, epoch_ms(envelope.time))

    def _take_positions(self, record: Any, at_ms: int) -> tuple[bool, int]:
        try:
            positions = unpack(record.value or b"")
        except MalformedPositions as error:
            self._log_malformed(CAPTAINS_LOCATIONS, record, str(error))
            return False, 1
        taken = sum(self._fleet.apply_position(position, at_ms) for position in positions)
        self._metrics.positions.labels("indexed").inc(taken)
        self._metrics.positions.labels("ignored").inc(len(positions) - taken)
        return taken > 0, len(positions)

    def _observe(self, consumer: AIOKafkaConsumer) -> None:
        heard_ms = max((consumer.last_poll_timestamp(tp) or 0 for tp in self._partitions), default=0)
        if heard_ms:
            age_s = max(0.0, time.time() - heard_ms / 1000)
            self._heard_at = max(self._heard_at, time.monotonic() - age_s)
        lag = 0
        for tp in self._partitions:
            highwater = consumer.highwater(tp)
            if highwater is not None:
                lag += max(0, highwater - self._next[tp])
        self._lag = lag
        self._fleet.set_aside_silent(epoch_ms(self._clock.now()), most=SET_ASIDE_AT_ONCE)
        self._metrics.index_lag.set(lag)
        self._metrics.index_staleness.set(time.monotonic() - self._heard_at)
        self._metrics.index_captains.set(len(self._fleet))
        self._metrics.index_placed.set(self._fleet.placed)

    def _log_malformed(self, topic: Topic, record: Any, reason: str) -> None:
        now = time.monotonic()
        if now < self._logged_at.get(topic.name, float("-inf")) + LOG_AGAIN_S:
            return
        self._logged_at[topic.name] = now
        log.warning(
            "Malformed record ignored",
            extra={
                "topic": topic.name,
                "partition": record.partition,
                "offset": record.offset,
                "reason": reason[:300],
            },
        )


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
