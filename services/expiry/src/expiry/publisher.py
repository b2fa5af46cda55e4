"""Sends TimerFired to Kafka and says which timers the brokers did not acknowledge.

It never retries and never flushes: after any trouble the producer is thrown away, and whoever asked keeps what was not
acknowledged and asks again. An idempotent producer whose batch expired would be refused for good.
"""

from __future__ import annotations

import asyncio
import logging

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from expiry.domain import ClaimedTimer, Firing
from expiry.records import FiredRecords
from weelo_common.events.topics import TIMERS_FIRED
from weelo_common.kafka import KafkaClients
from weelo_common.record_batches import Acknowledgement, BatchSender, RecordBatch

log = logging.getLogger(__name__)


class Publisher:
    """One producer, made when first needed and after each trouble. Several firings may be on their way at once."""

    def __init__(self, kafka: KafkaClients) -> None:
        self._kafka = kafka
        self._records = FiredRecords(kafka.topic_name(TIMERS_FIRED))
        self._producer: AIOKafkaProducer | None = None
        self._sender: BatchSender  # made with each producer
        self._turn = asyncio.Lock()  # first asked, first sent: a lock of asyncio is a queue
        self._awaited: set[Acknowledgement] = set()

    async def publish(self, firing: Firing) -> list[ClaimedTimer]:
        """Send the events of a firing, in order; returns the timers NOT acknowledged within the deadline.

        Raises:
            KafkaUnavailable: no broker could be reached; nothing was sent.
        """
        answers: dict[Acknowledgement, RecordBatch] = {}
        producer: AIOKafkaProducer | None = None
        try:
            async with asyncio.timeout(self._kafka.deadline_s):
                async with self._turn:
                    producer, sender = await self._connected()
                    for batch in await self._records.lay_out(firing, sender):
                        answers[await sender.send(batch)] = batch
                await self._wait(set(answers))
        except (TimeoutError, KafkaError, OSError) as error:
            log.warning("Timers were not all sent", extra={"reason": f"{type(error).__name__}: {error}"})
        except asyncio.CancelledError:
            await asyncio.shield(self.close())
            raise
        sent = [batch for answer, batch in answers.items() if _is_acknowledged(answer)]
        left = len(firing.timers) - sum(len(batch.marks) for batch in sent)
        if left == 0:
            return []
        if producer is not None and producer is self._producer:  # else it was thrown away already
            await self.close()
        done = {timer.id for batch in sent for timer in batch.marks}
        return [timer for timer in firing.timers if timer.id not in done]

    async def connect(self) -> None:
        """Make the producer ahead of the first firing.

        Raises:
            KafkaUnavailable: no broker could be reached.
        """
        async with self._turn:
            await self._connected()

    async def _connected(self) -> tuple[AIOKafkaProducer, BatchSender]:
        if self._producer is None:
            self._producer = await self._kafka.start_producer()
            self._sender = BatchSender(self._producer)
        return self._producer, self._sender

    async def close(self) -> None:
        """Throw the producer away, with what it still holds; who waits for it is told at once."""
        producer, self._producer = self._producer, None
        awaited, self._awaited = self._awaited, set()
        for future in awaited:
            future.cancel()
        if producer is not None:
            await self._kafka.drop_producer(producer)

    async def _wait(self, futures: set[Acknowledgement]) -> None:
        if not futures:
            return
        self._awaited |= futures
        try:
            await asyncio.wait(futures)
        finally:
            self._awaited -= futures


def _is_acknowledged(future: Acknowledgement) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
