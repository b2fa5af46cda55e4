"""Sends TimerFired to Kafka and says which timers the brokers acknowledged.

It never retries and never flushes: after any trouble the producer is thrown away, and the table, which still calls
these timers firing, is asked again. An idempotent producer whose batch expired would be refused for good.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from opentelemetry.trace import SpanKind

from expiry.domain import ClaimedTimer, fired_event
from weelo_common.events.envelope import encode, seal
from weelo_common.events.topics import EXPIRY, TIMERS_FIRED
from weelo_common.kafka import KafkaClients
from weelo_common.telemetry import current_traceparent, span

log = logging.getLogger(__name__)


class Publisher:
    """One producer, made when first needed and after each trouble."""

    def __init__(self, kafka: KafkaClients) -> None:
        self._kafka = kafka
        self._producer: AIOKafkaProducer | None = None

    async def publish(self, timers: Sequence[ClaimedTimer]) -> list[ClaimedTimer]:
        """Send the events of these timers, in order; returns those acknowledged within the deadline.

        Raises:
            KafkaUnavailable: no broker could be reached; nothing was sent.
        """
        if self._producer is None:
            self._producer = await self._kafka.start_producer()
        futures: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(self._kafka.deadline_s):
                for timer in timers:
                    futures.append(await self._send(self._producer, timer))
                await asyncio.wait(futures)
        except (TimeoutError, KafkaError, OSError) as error:
            log.warning("Timers were not all sent", extra={"reason": f"{type(error).__name__}: {error}"})
        except asyncio.CancelledError:
            await asyncio.shield(self.close())
            raise
        sent = [timer for timer, future in zip(timers, futures, strict=False) if _is_acknowledged(future)]
        if len(sent) < len(timers):
            await self.close()
        return sent

    async def close(self) -> None:
        """Throw the producer away, with what it still holds."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._kafka.drop_producer(producer)

    async def _send(self, producer: AIOKafkaProducer, timer: ClaimedTimer) -> asyncio.Future[Any]:
        event = fired_event(timer)
        envelope = seal(event, source=EXPIRY, time=timer.fired_at, event_id=event.event_id())
        # The trace of whoever scheduled the timer goes on with its firing.
        with span(
            "fire timer",
            kind=SpanKind.PRODUCER,
            parent=timer.traceparent,
            attributes={"weelo.timer.key": timer.key, "weelo.timer.version": timer.version},
        ):
            headers, value = encode(envelope, current_traceparent() or timer.traceparent)
        future: asyncio.Future[Any] = await producer.send(
            self._kafka.topic_name(TIMERS_FIRED), value, key=envelope.key.encode(), headers=headers
        )
        return future


def _is_acknowledged(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
