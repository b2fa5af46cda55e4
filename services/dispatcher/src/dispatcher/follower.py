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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from dispatcher.live_fleet import FRESH_FOR_MS, LiveFleet
from dispatcher.metrics import DispatcherMetrics
from dispatcher.packed_positions import read
from dispatcher.store.live_captains import live_captains_page
from weelo_common.clock import Clock, epoch_ms
from weelo_common.consumer import ConsumerMetrics
from weelo_common.events import CaptainState, MalformedEvent, decode
from weelo_common.events.positions import POSITION_BYTES
from weelo_common.events.topics import CAPTAINS_LOCATIONS, CAPTAINS_STATE, Topic
from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.postgres import Database, DatabaseUnavailable
from weelo_common.settings import KafkaSettings

log = logging.getLogger(__name__)

CONSUMER = "dispatcher-index"  # its name in the metrics; it has no group
PAGE_CAPTAINS = 20_000  # loaded in one statement: some 50 ms
POLL_MS = 100
POLL_RECORDS = 1_000
POSITIONS_AT_ONCE = 8_192  # some ms of work; then the other tasks of this process have their turn
GATHER_S = (
    0.03  # after few positions: many together cost a fraction of as many one by one, and all are seconds old
)
STATES_AT_ONCE = 100  # the same
CHECK_SILENCE_OF = 20_000  # captains looked at after each poll
RETRY_PAUSE_S = 1.0
MAX_VERSION = 2**63 - 1  # a bigint's, and that of the index's columns
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
        self._follow_from_ms = 0
        self._heard_at = time.monotonic()
        self._lag = 0
        self._logged_at: dict[str, float] = {}
        self.caught_up = asyncio.Event()
        """Set once all that was there at the start has been read; orders are consumed only then."""
        metrics.index_staleness.set_function(self.staleness_s)

    def staleness_s(self) -> float:
        """Age of the brokers' last answer; before the first, of this reader."""
        return time.monotonic() - self._heard_at

    def trouble(self) -> str | None:
        """None while the index is whole and fresh, else why it is not."""
        if not self.caught_up.is_set():
            return f"index: not caught up yet, {len(self._fleet)} captains loaded"
        silence_s = self.staleness_s()
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
            except (KafkaError, KafkaUnavailable, DatabaseUnavailable, OSError, TimeoutError) as error:
                log.warning("Index reader reconnects", extra={"reason": f"{type(error).__name__}: {error}"})
                await _wait(stop, RETRY_PAUSE_S)

    async def load(self) -> int:
        """Take all captains from PostgreSQL, a page at a time; returns how many.

        The topics are then followed from before it began, so that no change falls between the two.

        Raises:
            DatabaseUnavailable: try again from the start.
        """
        self._follow_from_ms = epoch_ms(self._clock.now()) - FRESH_FOR_MS
        loaded = 0
        async with self._database.connection() as connection:
            page = await live_captains_page(connection, after="", most=PAGE_CAPTAINS)
            while page is not None:
                # PostgreSQL makes the next page while this process takes this one.
                reading = asyncio.ensure_future(
                    live_captains_page(connection, after=page.captain_ids[-1], most=PAGE_CAPTAINS)
                )
                try:
                    for _ in range(
                        2
                    ):  # in one turn of the loop the statement is written, at its end it leaves
                        await asyncio.sleep(0)
                    self._fleet.load(page)
                    loaded += len(page)
                finally:
                    page = await reading
        return loaded

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
                size = await self._take(batches)
                for tp, records in batches.items():
                    self._next[tp] = records[-1].offset + 1
                self._observe(consumer)
                if not self.caught_up.is_set() and all(self._next[tp] >= end for tp, end in ends.items()):
                    log.info("Index caught up", extra={"captains": len(self._fleet)})
                    self.caught_up.set()
                if 0 < size < POSITIONS_AT_ONCE * POSITION_BYTES:
                    await _wait(stop, GATHER_S)
        finally:
            await asyncio.shield(self._kafka.stop_consumer(consumer))

    async def _seek(self, consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> None:
        """Go on where the last session ended; the first begins 60 s before the load did.

        What retention took meanwhile will never be read: of the states PostgreSQL knows, so they are loaded again.
        """
        missing = [tp for tp in self._partitions if tp not in self._next]
        if missing:
            found: dict[TopicPartition, Any] = await asyncio.wait_for(
                consumer.offsets_for_times(dict.fromkeys(missing, self._follow_from_ms)),
                self._kafka.deadline_s,
            )
            for tp in missing:
                self._next[tp] = found[tp].offset if found.get(tp) is not None else ends[tp]
        firsts = await asyncio.wait_for(consumer.beginning_offsets(self._partitions), self._kafka.deadline_s)
        passed = [tp for tp in self._partitions if self._next[tp] < firsts[tp]]
        if any(self._topics[tp.topic] is CAPTAINS_STATE for tp in passed):
            log.warning(
                "Index loads again: states were deleted unread", extra={"captains": await self.load()}
            )
        for tp in passed:  # only now: where the load failed, the next session must try it again
            self._next[tp] = firsts[tp]
        for tp in self._partitions:
            consumer.seek(tp, self._next[tp])

    async def _take(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> int:
        """Take what a poll brought; states first, so that fewer positions come before their captain.

        Returns the bytes of positions.
        """
        states: list[Any] = []
        positions: list[Any] = []
        for tp, records in batches.items():
            (states if self._topics[tp.topic] is CAPTAINS_STATE else positions).extend(records)
        for start in range(0, len(states), STATES_AT_ONCE):
            some = states[start : start + STATES_AT_ONCE]
            applied = sum(map(self._take_state, some))
            self._count(applied=applied, ignored=len(some) - applied)
            await asyncio.sleep(0)
        for some in _shared_out(positions):
            self._take_positions(some)
            await asyncio.sleep(0)
        return sum(len(record.value or b"") for record in positions)

    def _count(self, *, applied: int, ignored: int) -> None:
        self._consumer_metrics.consumed.labels(CONSUMER).inc(applied + ignored)
        self._consumer_metrics.outcomes["applied"].labels(CONSUMER).inc(applied)
        self._consumer_metrics.outcomes["ignored"].labels(CONSUMER).inc(ignored)

    def _take_state(self, record: Any) -> bool:
        try:
            envelope = decode(CAPTAINS_STATE, record.key, record.headers, record.value)
        except MalformedEvent as error:
            self._log_malformed(CAPTAINS_STATE, record, str(error))
            return False
        if not isinstance(envelope.event, CaptainState):
            self._log_malformed(CAPTAINS_STATE, record, f"no {CaptainState.TYPE}: {envelope.type}")
            return False
        if abs(envelope.event.version) > MAX_VERSION:
            self._log_malformed(CAPTAINS_STATE, record, "a version that no captain's row can have")
            return False
        return self._fleet.apply_state(envelope.event, epoch_ms(envelope.time))

    def _take_positions(self, records: Sequence[Any]) -> None:
        now_ms = epoch_ms(self._clock.now())
        positions, malformed = read(
            [record.value or b"" for record in records],
            [min(record.timestamp, now_ms) if record.timestamp > 0 else now_ms for record in records],
        )
        for number, reason in malformed.items():
            self._log_malformed(CAPTAINS_LOCATIONS, records[number], reason)
        taken = self._fleet.apply_positions(positions)
        self._count(applied=len(records) - len(malformed), ignored=len(malformed))
        self._metrics.positions.labels("indexed").inc(taken)
        self._metrics.positions.labels("ignored").inc(len(positions) - taken)

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
        self._fleet.set_aside_silent(epoch_ms(self._clock.now()), most=CHECK_SILENCE_OF)
        self._metrics.index_lag.set(lag)
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


def _shared_out(records: Sequence[Any]) -> Iterator[list[Any]]:
    """Records of positions in shares of some ``POSITIONS_AT_ONCE``."""
    share: list[Any] = []
    size = 0
    for record in records:
        share.append(record)
        size += len(record.value or b"")
        if size >= POSITIONS_AT_ONCE * POSITION_BYTES:
            yield share
            share, size = [], 0
    if share:
        yield share


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
