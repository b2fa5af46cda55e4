"""Positions on their way to Kafka: gathered over some milliseconds across requests, packed, many a record.

A position is worth nothing after a minute, so nothing here is durable: while Kafka is away the newest ones wait in
bounded memory, and what has grown too old is dropped and counted. It must never hold a request longer than its
deadline: Kafka's absence is no reason to refuse a phone's positions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from dispatcher.live_fleet import FRESH_FOR_MS
from dispatcher.metrics import DispatcherMetrics
from weelo_common.clock import Clock, epoch_ms
from weelo_common.events.positions import POSITION_BYTES, Position, pack_bytes, record_of
from weelo_common.events.topics import CAPTAINS_LOCATIONS
from weelo_common.kafka import KafkaClients, KafkaUnavailable

log = logging.getLogger(__name__)

RECORD_POSITIONS = 256  # 8 KiB a record: measured to read at 1.3 million positions a second
RECORD_BYTES = RECORD_POSITIONS * POSITION_BYTES
BATCH_POSITIONS = 64 * RECORD_POSITIONS  # of one send; more wait for the next
WAITING_POSITIONS = 500_000  # 16 MiB, as they wait packed: ten seconds of the largest fleet thought of
SAME_RECEIPT_MS = (
    100  # positions of one batch count as received together; while Kafka is away batches wait long
)
RETRY_PAUSE_S = 0.5


@dataclass(slots=True)
class _Batch:
    received_at_ms: int
    packed: bytearray = field(default_factory=bytearray)
    sent: asyncio.Event = field(default_factory=asyncio.Event)

    def __len__(self) -> int:
        return len(self.packed) // POSITION_BYTES


class PositionSender:
    """Takes positions from requests and sends them to all dispatchers."""

    def __init__(
        self,
        kafka: KafkaClients,
        clock: Clock,
        metrics: DispatcherMetrics,
        *,
        batch_s: float,
        ack_deadline_s: float,
    ) -> None:
        self._kafka = kafka
        self._clock = clock
        self._metrics = metrics
        self._batch_s = batch_s
        self._ack_deadline_s = ack_deadline_s
        self._waiting: deque[_Batch] = deque()
        self._waiting_positions = 0
        self._filled = asyncio.Event()
        self._producer: AIOKafkaProducer | None = None

    async def send(self, positions: Sequence[Position]) -> bool:
        """Hand positions over. True once Kafka has them, False where it has not within the deadline.

        In that case they are sent when it is back, unless they have grown too old by then.
        """
        batch = self._batch(len(positions))
        batch.packed += pack_bytes(positions)
        self._waiting_positions += len(positions)
        while self._waiting_positions > WAITING_POSITIONS:
            self._drop_oldest()
        self._filled.set()
        try:
            await asyncio.wait_for(batch.sent.wait(), self._ack_deadline_s)
        except TimeoutError:
            return False
        return True

    async def run(self, stop: asyncio.Event) -> None:
        """Send until stopped; what is waiting then is tried once more."""
        stopping = asyncio.create_task(stop.wait())
        told = False  # of an outage, once
        try:
            while not stop.is_set():
                filling = asyncio.create_task(self._filled.wait())
                await asyncio.wait([filling, stopping], return_when=asyncio.FIRST_COMPLETED)
                filling.cancel()
                if stop.is_set():
                    break
                await asyncio.wait([stopping], timeout=self._batch_s)
                try:
                    await self.run_once()
                except KafkaUnavailable as error:
                    if not told:
                        log.warning("Positions wait", extra={"reason": str(error)})
                    told = True
                    await asyncio.wait([stopping], timeout=RETRY_PAUSE_S)
                else:
                    if told:
                        log.warning("Positions go on")
                    told = False
            with contextlib.suppress(KafkaUnavailable):  # they would be stale before anybody sends them again
                await self.run_once()
        finally:
            stopping.cancel()
            if self._producer is not None:
                await asyncio.shield(self._kafka.stop_producer(self._producer))

    async def run_once(self) -> int:
        """Send what waits and return how many positions that was.

        Raises:
            KafkaUnavailable: what was not acknowledged waits on.
        """
        self._filled.clear()
        oldest_ms = epoch_ms(self._clock.now()) - FRESH_FOR_MS
        sent = 0
        while self._waiting:
            batch = self._waiting[0]
            if batch.received_at_ms < oldest_ms:
                self._drop_oldest()
                continue
            # Out of the queue while it is sent, so that no request adds to it.
            self._waiting.popleft()
            self._waiting_positions -= len(batch)
            try:
                await self._produce(batch)
            except KafkaUnavailable:
                self._waiting.appendleft(batch)
                self._waiting_positions += len(batch)
                self._filled.set()
                raise
            batch.sent.set()
            sent += len(batch)
        self._metrics.positions.labels("sent").inc(sent)
        return sent

    def _batch(self, positions: int) -> _Batch:
        """The batch for so many positions that come now."""
        now_ms = epoch_ms(self._clock.now())
        if self._waiting:
            last = self._waiting[-1]
            if now_ms < last.received_at_ms + SAME_RECEIPT_MS and len(last) + positions <= BATCH_POSITIONS:
                return last
        self._waiting.append(_Batch(now_ms))
        return self._waiting[-1]

    async def _produce(self, batch: _Batch) -> None:
        if self._producer is None:
            self._producer = await self._kafka.start_producer()
        topic = self._kafka.topic_name(CAPTAINS_LOCATIONS)
        try:
            async with asyncio.timeout(self._kafka.deadline_s):
                acknowledged = [
                    await self._producer.send(
                        topic,
                        record_of(bytes(batch.packed[start : start + RECORD_BYTES])),
                        timestamp_ms=batch.received_at_ms,  # the time of receipt, which is what counts as fresh
                    )
                    for start in range(0, len(batch.packed), RECORD_BYTES)
                ]
                await asyncio.gather(*acknowledged)
        except (KafkaError, OSError, TimeoutError) as error:
            producer, self._producer = self._producer, None
            await self._kafka.drop_producer(producer)
            raise KafkaUnavailable(f"{type(error).__name__}: {error}") from error

    def _drop_oldest(self) -> None:
        batch = self._waiting.popleft()
        self._waiting_positions -= len(batch)
        self._metrics.positions.labels("dropped").inc(len(batch))
