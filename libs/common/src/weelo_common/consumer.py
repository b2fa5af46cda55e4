"""The consumer loop: poll → decode → handle → commit, with one serial worker a partition.

The inbox row, the effect and the outgoing events of one Kafka event share one transaction; the offset is committed
to Kafka afterwards, so a crash repeats an event and the inbox recognises it. The poll is never cancelled (aiokafka
would forget its poll interval), every talk with a broker has a deadline, and after a rebalance nothing of the
former epoch is committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from weelo_common.dead_letters import DeadLetters
from weelo_common.delivery import AtOnce, Handler, Outcome
from weelo_common.events import Event
from weelo_common.events.topics import Topic
from weelo_common.kafka import GOODBYE_S, KafkaClients, KafkaUnavailable
from weelo_common.partition_worker import EventProcessor, PartitionWorker
from weelo_common.postgres import Database
from weelo_common.replay import Replayer
from weelo_common.settings import KafkaSettings
from weelo_common.unsettled import MOST_COUNTED, Unsettled

log = logging.getLogger(__name__)

POLL_MS = 100  # how long one poll waits for records; also how often offsets are committed when idle
COMMIT_PERIOD_S = 0.1  # offsets are committed this often; a crash repeats at most what was handled since
RECONNECT_PAUSE_S = 1.0  # after the brokers refused or went away
_OUTCOMES = {
    "applied": "Events that took effect",
    "duplicate": "Events that the inbox knew: nothing happened again",
    "ignored": "Events that are for others, of unknown types, or overtaken by newer ones",
    "parked": "Events put aside with their key, because a handler failed on it",
    "dead": "Records that can never be handled, put aside as dead letters",
}
# Seconds. Within a tenth as a rule; minutes tell of a backlog, or of an event that was tried again and again.
AGE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600)


class ConsumerMetrics:
    """What every consumer tells; ``consumed`` is always the sum of the five outcomes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.consumed = Counter(
            "weelo_consumer_consumed",
            "Events taken from Kafka: the sum of applied, duplicate, ignored, parked and dead",
            ["consumer"],
            registry=registry,
        )
        self.outcomes = {
            outcome: Counter(f"weelo_consumer_{outcome}", about, ["consumer"], registry=registry)
            for outcome, about in _OUTCOMES.items()
        }
        self.retries = Counter(
            "weelo_consumer_retries", "Tries after the first", ["consumer"], registry=registry
        )
        self.replayed = Counter(
            "weelo_consumer_replayed",
            "Parked events that a replay applied; they counted as consumed when they were parked",
            ["consumer"],
            registry=registry,
        )
        self.lag = Gauge("weelo_consumer_lag", "Records not yet handled", ["consumer"], registry=registry)
        self.seconds = Histogram(
            "weelo_consumer_handle_seconds",
            "Time to handle one event",
            ["consumer", "type"],
            registry=registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self.age = Histogram(
            "weelo_consumer_event_age_seconds",
            "From an event's ce_time, at its owner's database, to its effect here",
            ["consumer", "type"],
            registry=registry,
            buckets=AGE_BUCKETS_S,
        )
        self.parked_keys = Gauge(
            "weelo_consumer_parked_keys",
            f"Keys that are parked now, counted up to {MOST_COUNTED}; NaN while unknown",
            ["consumer"],
            registry=registry,
        )
        self.parked_events = Gauge(
            "weelo_consumer_parked_events",
            f"Events that are parked now, counted up to {MOST_COUNTED}; NaN while unknown",
            ["consumer"],
            registry=registry,
        )
        self.dead_unsettled = Gauge(
            "weelo_consumer_dead_unsettled",
            f"Dead letters neither retried nor dropped, counted up to {MOST_COUNTED} a topic; NaN while unknown",
            ["consumer"],
            registry=registry,
        )
        self._series: dict[tuple[str, str], tuple[Histogram, Histogram]] = {}

    def announce(self, consumer: str) -> None:
        """Tell zeros before the first event, so that a consumer that takes nothing is seen, too."""
        for counter in (self.consumed, self.retries, self.replayed, *self.outcomes.values()):
            counter.labels(consumer)

    def count(self, consumer: str, outcome: Outcome) -> None:
        """One event ended."""
        self.consumed.labels(consumer).inc()
        self.outcomes[outcome.value].labels(consumer).inc()

    def handled(self, consumer: str, event_type: str, seconds: float) -> None:
        """One try at an event took so long."""
        self._of(consumer, event_type)[0].observe(seconds)

    def took_effect(self, consumer: str, event_type: str, age_s: float) -> None:
        """An event was applied, so long after it was made."""
        self._of(consumer, event_type)[1].observe(age_s)

    def _of(self, consumer: str, event_type: str) -> tuple[Histogram, Histogram]:
        """Consumers and types are few, so their series are kept at hand."""
        series = self._series.get((consumer, event_type))
        if series is None:
            series = (self.seconds.labels(consumer, event_type), self.age.labels(consumer, event_type))
            self._series[consumer, event_type] = series
        return series


class Consumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One consumer group's member. Topics follow from the handlers' event classes.

    ``relevant`` tells, before any transaction, whether an event concerns this service at all: the rest counts as
    ignored. ``at_once`` has the events that one statement can handle; each of them has its handler as well.
    ``on_assignment`` hears which (topic, partition) pairs this member owns now; it must only signal.
    """

    def __init__(
        self,
        *,
        group: str,
        handlers: Mapping[type[Event], Handler],
        database: Database,
        kafka: KafkaClients,
        settings: KafkaSettings,
        metrics: ConsumerMetrics,
        relevant: Callable[[Event], bool] = lambda event: True,
        at_once: Mapping[type[Event], AtOnce] = MappingProxyType({}),
        on_assignment: Callable[[frozenset[tuple[str, int]]], None] | None = None,
    ) -> None:
        self._group = group
        self._kafka = kafka
        self._settings = settings
        self._metrics = metrics
        metrics.announce(group)
        self._on_assignment = on_assignment
        self._dead_letters = DeadLetters(kafka, group)
        self._processor = EventProcessor(
            group, handlers, database, self._dead_letters, metrics, relevant, at_once
        )
        self._replayer = Replayer(group, handlers, database, self._dead_letters, metrics)
        self._beside: list[asyncio.Task[None]] = []
        declared: dict[str, Topic] = {event.TOPIC.name: event.TOPIC for event in handlers}
        self._unsettled = Unsettled(group, list(declared.values()), database, kafka, metrics)
        self._topics = {kafka.topic_name(topic): topic for topic in declared.values()}
        self._workers: dict[TopicPartition, PartitionWorker] = {}
        self._retired: set[PartitionWorker] = set()
        self._paused: set[TopicPartition] = set()
        self._assigned = False
        self._heard_at = time.monotonic()
        self._lag = 0
        self._commit_at = 0.0
        self._committing: asyncio.Task[None] | None = None

    # --- the rebalance listener: it only signals ---

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Everything of this epoch ends: its workers stop after the event in hand and commit nothing more."""
        for worker in self._workers.values():
            worker.revoke()
        self._retired.update(self._workers.values())
        self._workers.clear()
        self._paused.clear()
        self._assigned = False
        if self._on_assignment:
            self._on_assignment(frozenset())

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """A new epoch begins."""
        self._assigned = True
        self._heard_at = time.monotonic()
        if self._on_assignment:
            self._on_assignment(frozenset((self._topics[tp.topic].name, tp.partition) for tp in assigned))

    # --- readiness ---

    def trouble(self) -> str | None:
        """None while the brokers answer and the lag is small, else why this member is not ready."""
        silence_s = time.monotonic() - self._heard_at
        if not self._assigned:
            return f"consumer {self._group}: not in its group yet"
        if silence_s > self._settings.kafka_silence_ready_s:
            return f"consumer {self._group}: no word from a broker for {silence_s:.0f} s"
        if self._lag > self._settings.kafka_lag_ready_records:
            return f"consumer {self._group}: {self._lag} records behind"
        return None

    # --- the loop ---

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until stopped, through any absence of the brokers; replay parked keys that are asked for."""
        self._beside = [
            asyncio.create_task(self._replayer.run(stop), name=f"replay-{self._group}"),
            asyncio.create_task(self._unsettled.run(stop), name=f"unsettled-{self._group}"),
        ]
        try:
            while not stop.is_set():
                try:
                    await self._session(stop)
                except (KafkaError, KafkaUnavailable, OSError, TimeoutError) as error:
                    log.warning("Consumer reconnects", extra={"consumer": self._group, "reason": str(error)})
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), RECONNECT_PAUSE_S)
        finally:
            await self._end_beside(stop)
            await self._dead_letters.close()

    async def _end_beside(self, stop: asyncio.Event) -> None:
        """Wait for the replay in hand, and for the counting; break them off where the consumer itself failed."""
        if not stop.is_set():
            for task in self._beside:
                task.cancel()
        if self._beside:
            await asyncio.wait(self._beside)

    async def _session(self, stop: asyncio.Event) -> None:
        consumer = self._kafka.consumer(group=self._group)
        consumer.subscribe(list(self._topics), listener=self)
        if not await self._kafka.start_consumer_unless(stop, consumer):
            return
        try:
            while not stop.is_set():
                batches = await consumer.getmany(timeout_ms=POLL_MS)
                for tp, records in batches.items():
                    self._worker(tp).put(records)
                self._flow_control(consumer)
                self._observe(consumer)
                self._begin_commit(consumer)
                await self._reap()
            await self._drain()
            await self._end_commit()
            await self._commit(consumer, deadline_s=GOODBYE_S)
        finally:
            await asyncio.shield(self._abandon(consumer))

    def _worker(self, tp: TopicPartition) -> PartitionWorker:
        worker = self._workers.get(tp)
        if worker is None:
            worker = PartitionWorker(self._topics[tp.topic], tp.partition, self._processor)
            self._workers[tp] = worker
        return worker

    def _flow_control(self, consumer: AIOKafkaConsumer) -> None:
        """Pause a partition whose queue is full, and resume it when it is half empty."""
        limit = self._settings.kafka_partition_queue_records
        assigned = consumer.assignment()
        for tp, worker in self._workers.items():
            if tp not in assigned:
                continue
            if tp in self._paused:
                if len(worker) <= limit // 2:
                    consumer.resume(tp)
                    self._paused.discard(tp)
            elif len(worker) >= limit:
                consumer.pause(tp)
                self._paused.add(tp)

    def _observe(self, consumer: AIOKafkaConsumer) -> None:
        """Note when a broker last answered, and how far behind this member is."""
        lag = 0
        heard_ms = 0
        for tp in consumer.assignment():
            heard_ms = max(heard_ms, consumer.last_poll_timestamp(tp) or 0)
            highwater = consumer.highwater(tp)
            worker = self._workers.get(tp)
            if highwater is not None and worker is not None:
                lag += max(0, highwater - worker.position)
        if heard_ms:
            age_s = time.time() - heard_ms / 1000
            self._heard_at = max(self._heard_at, time.monotonic() - max(0.0, age_s))
        elif self._assigned and not consumer.assignment():
            self._heard_at = time.monotonic()  # more members than partitions: nothing to fetch is fine
        self._lag = lag
        self._metrics.lag.labels(self._group).set(lag)

    def _begin_commit(self, consumer: AIOKafkaConsumer) -> None:
        """Commit beside the poll, one commit at a time: what comes meanwhile need not wait for the brokers' word."""
        now = time.monotonic()
        if now >= self._commit_at and self._committing is None:
            self._commit_at = now + COMMIT_PERIOD_S
            self._committing = asyncio.create_task(self._commit(consumer), name=f"commit-{self._group}")

    async def _end_commit(self) -> None:
        """Wait for the commit under way, which has a deadline; raises what ended it."""
        committing, self._committing = self._committing, None
        if committing is not None:
            await committing

    async def _commit(self, consumer: AIOKafkaConsumer, deadline_s: float | None = None) -> None:
        """Commit, per partition, the last contiguous finished offset + 1."""
        assigned = consumer.assignment()
        positions = {
            tp: worker.position
            for tp, worker in self._workers.items()
            if tp in assigned and worker.position > worker.committed
        }
        if not positions:
            return
        committing = {tp: self._workers[tp] for tp in positions}
        try:
            await self._kafka.commit(consumer, positions, deadline_s)
        except (KafkaError, TimeoutError) as error:
            # The events are handled; if they come again the inbox knows them.
            log.warning("Offsets not committed", extra={"consumer": self._group, "reason": repr(error)})
            return
        for tp, worker in committing.items():
            worker.committed = max(worker.committed, positions[tp])

    async def _reap(self) -> None:
        """Let go of revoked workers that have ended, and pass on what ended a living one, or a loop beside them."""
        for task in self._beside:
            if task.done():
                await task
        if self._committing is not None and self._committing.done():
            await self._end_commit()
        for worker in [worker for worker in self._retired if worker.task.done()]:
            self._retired.discard(worker)
            await worker.task
        for worker in self._workers.values():
            if worker.task.done():
                await worker.task

    async def _drain(self) -> None:
        """Stop all workers after the event in hand."""
        workers = [*self._workers.values(), *self._retired]
        for worker in workers:
            worker.revoke()
        if workers:
            await asyncio.wait([worker.task for worker in workers])

    async def _abandon(self, consumer: AIOKafkaConsumer) -> None:
        await self._drain()
        try:
            await self._end_commit()
        finally:
            self._workers.clear()
            self._retired.clear()
            self._paused.clear()
            self._assigned = False
            await self._kafka.stop_consumer(consumer)
