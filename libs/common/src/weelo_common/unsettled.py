"""What waits for an operator: parked keys and dead letters that nobody has settled, told as they stand now.

The counters of the consumer say what happened; an alarm on them ends by itself. These gauges fall when the work is
done. Each replica looks for itself, by a clock of its own: a scrape asks neither PostgreSQL nor Kafka. Nothing here may
hold up the consuming: what cannot be counted is NaN, and all counting is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from aiokafka import TopicPartition

from weelo_common.dead_letters import RESOLUTION, RESOLVES
from weelo_common.events.topics import DLQ_RETENTION_MS, Topic
from weelo_common.kafka import KafkaClients
from weelo_common.postgres import Database, DatabaseUnavailable

log = logging.getLogger(__name__)

LOOK_PERIOD_S = 5.0  # how old a gauge may be; an alarm may well wait so long
CATCH_UP_PAUSE_S = 0.05  # between two polls while the dead letters of former days are read
MOST_COUNTED = 1000  # parked events, and dead letters of one topic: more need not be told apart
FETCH_WAIT_MS = 5000  # an idle fetch of the dead letters is held by the broker for so long
OFFSET_DIGITS = 19  # of the largest offset, a signed 64-bit number
RECONNECT_PAUSE_S = 30.0  # after the brokers did not answer, or have no such topic

DEAD_UNCOUNTED = "Dead letters are not counted"

COUNT_PARKED = """
SELECT (SELECT count(*) FROM (SELECT FROM parked_key WHERE consumer = $1 LIMIT $2) AS keys) AS keys,
       (SELECT count(*) FROM (SELECT FROM parked WHERE consumer = $1 LIMIT $2) AS events) AS events
"""


class UnsettledMetrics(Protocol):
    """The gauges that are kept true, each with the label ``consumer``."""

    parked_keys: Any
    parked_events: Any
    dead_unsettled: Any


class OpenLetters:
    """Which records of one dead-letter topic nobody has settled, by offset; the newest ``MOST_COUNTED`` of them."""

    def __init__(self) -> None:
        self._written_ms: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._written_ms)

    def take(self, offset: int, written_ms: int, headers: Sequence[tuple[str, bytes | None]]) -> None:
        """The next record: a letter, or the word that an earlier one is settled."""
        named = dict(headers)
        settled = (named.get(RESOLVES) or b"").decode(errors="replace")
        if named.get(RESOLUTION) and settled.isdecimal() and len(settled) <= OFFSET_DIGITS:
            self._written_ms.pop(int(settled), None)
            return
        self._written_ms[offset] = written_ms
        if len(self._written_ms) > MOST_COUNTED:
            self._written_ms.popitem(last=False)

    def forget_before(self, moment_ms: int) -> None:
        """Letters that are older have left their topic, or soon will."""
        for offset in [offset for offset, written_ms in self._written_ms.items() if written_ms < moment_ms]:
            del self._written_ms[offset]


class Unsettled:
    """Keeps the gauges of one consumer group true."""

    def __init__(
        self,
        group: str,
        topics: Sequence[Topic],
        database: Database,
        kafka: KafkaClients,
        metrics: UnsettledMetrics,
        *,
        look_period_s: float = LOOK_PERIOD_S,
    ) -> None:
        self._group = group
        self._look_period_s = look_period_s
        self._database = database
        self._kafka = kafka
        self._keys = metrics.parked_keys.labels(group)
        self._events = metrics.parked_events.labels(group)
        self._dead = metrics.dead_unsettled.labels(group)
        self._pairs = [TopicPartition(kafka.topic_name(topic.dlq(group)), 0) for topic in topics]
        self._told: set[str] = set()
        for gauge in (self._keys, self._events, self._dead):
            gauge.set(math.nan)  # unknown so far

    async def run(self, stop: asyncio.Event) -> None:
        """Look until stopped, through any absence of PostgreSQL or the brokers."""
        async with asyncio.TaskGroup() as looks:
            looks.create_task(self._watch_parked(stop))
            following = looks.create_task(self._watch_dead(stop))
            await stop.wait()
            following.cancel()  # brokers that are away, or know no such topic, must not hold up a shutdown

    async def _watch_parked(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            keys = events = math.nan
            try:
                async with self._database.connection() as connection:
                    keys, events = await connection.fetchrow(COUNT_PARKED, self._group, MOST_COUNTED) or (
                        keys,
                        events,
                    )
            except DatabaseUnavailable:
                pass  # told by the consumer, and by the watch
            except Exception as error:  # noqa: BLE001 - a missing right, say: no reason to end the consuming
                self._tell_once("Parked keys are not counted", error)
            self._keys.set(keys)
            self._events.set(events)
            await _wait(stop, self._look_period_s)

    async def _watch_dead(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._follow_dead(stop)
            except Exception as error:  # noqa: BLE001 - brokers that are away, or a defect: as above
                self._dead.set(math.nan)
                self._tell_once(DEAD_UNCOUNTED, error)
                await _wait(stop, RECONNECT_PAUSE_S)

    async def _follow_dead(self, stop: asyncio.Event) -> None:
        """Read what is there, then whatever comes."""
        consumer = self._kafka.consumer(group=None, fetch_max_wait_ms=FETCH_WAIT_MS)
        if not await self._kafka.start_consumer_unless(stop, consumer):
            return
        try:
            async with asyncio.timeout(self._kafka.deadline_s):
                firsts = await consumer.beginning_offsets(self._pairs)
                ends = await consumer.end_offsets(self._pairs)
            consumer.assign(self._pairs)
            following = dict(firsts)  # of all that is kept: what settles a letter may stand far behind it
            for pair, offset in following.items():
                consumer.seek(pair, offset)
            open_letters = {pair: OpenLetters() for pair in self._pairs}
            while not stop.is_set():
                batches = await consumer.getmany(timeout_ms=0)
                for pair, records in batches.items():
                    for record in records:
                        open_letters[pair].take(record.offset, record.timestamp, record.headers)
                    following[pair] = records[-1].offset + 1
                caught_up = all(following[pair] >= ends[pair] for pair in self._pairs)
                if caught_up:
                    self._tell(open_letters.values())
                await _wait(stop, self._look_period_s if caught_up else CATCH_UP_PAUSE_S)
        finally:
            await asyncio.shield(self._kafka.stop_consumer(consumer))

    def _tell_once(self, what: str, error: Exception) -> None:
        if what not in self._told:
            reason = f"{type(error).__name__}: {error}"
            log.warning(what, extra={"consumer": self._group, "reason": reason})
        self._told.add(what)

    def _tell(self, topics: Collection[OpenLetters]) -> None:
        gone_ms = int(time.time() * 1000) - DLQ_RETENTION_MS
        for letters in topics:
            letters.forget_before(gone_ms)
        self._dead.set(sum(len(letters) for letters in topics))
        self._told.discard(DEAD_UNCOUNTED)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
