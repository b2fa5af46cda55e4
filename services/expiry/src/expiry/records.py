"""TimerFired as Kafka records: many thousands a second, so they are written straight from the table's row.

What stands in them is the contract's: the headers that never change are taken from the contract's own encoder, and a
test holds every record beside what that encoder makes of the same timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import orjson
from opentelemetry.trace import SpanKind

from expiry.domain import EPOCH, ClaimedTimer, Firing, fired_event
from weelo_common.clock import format_time
from weelo_common.events.envelope import encode, seal
from weelo_common.events.timers import firing_id
from weelo_common.events.topics import EXPIRY
from weelo_common.record_batches import MAX_BATCH_BYTES, BatchSender, RecordBatch, encode_headers, murmur2
from weelo_common.telemetry import current_traceparent, is_recorded, span

_VARYING = {"ce_id", "ce_subject", "ce_time", "traceparent"}
_SAMPLE = ClaimedTimer(0, "sample:1", 1, 0, "sample", 0, "{}", None, None)
SECONDS_KEPT = 1000  # whose text is remembered
TIMERS_A_TURN = 64  # laid out before others of this process have their turn: half a millisecond


class FiredRecords:
    """Lays firings out as batches; ``topic`` is the name on the brokers."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        sample = seal(fired_event(_SAMPLE, EPOCH), source=EXPIRY, time=EPOCH)
        self._headers = [header for header in encode(sample)[0] if header[0] not in _VARYING]
        self._seconds: dict[int, str] = {}

    async def lay_out(self, firing: Firing, sender: BatchSender) -> list[RecordBatch]:
        """Finished batches whose marks are the timers; those of a partition in order.

        Raises:
            KafkaError: the brokers do not know the topic.
        """
        partitions = await sender.partitions(self._topic)
        fired_at = format_time(firing.fired_at)
        headers = [*self._headers, ("ce_time", fired_at.encode())]
        batches: list[RecordBatch] = []
        open_batches: dict[int, RecordBatch] = {}
        for number, timer in enumerate(firing.timers):
            if number % TIMERS_A_TURN == 0:
                await asyncio.sleep(0)  # the next claim is sent while this one is laid out
            key = (timer.order_id or timer.key).encode()
            value = self._body(timer, fired_at)
            partition = (murmur2(key) & 0x7FFFFFFF) % partitions
            batch = open_batches.get(partition)
            if batch is None or batch.size + len(value) > MAX_BATCH_BYTES:
                batch = open_batches[partition] = RecordBatch(self._topic, partition)
                batches.append(batch)
            batch.add(timer, key, value, encode_headers(_with_own(headers, timer)))
        for batch in batches:
            batch.finish()
        return batches

    def _body(self, timer: ClaimedTimer, fired_at: str) -> bytes:
        body: dict[str, object] = {"timerKey": timer.key, "version": timer.version}
        if timer.order_id is not None:
            body["orderId"] = timer.order_id
        body["owner"] = timer.owner
        body["dueAt"] = self._time(timer.due_ms)
        body["firedAt"] = fired_at
        body["payload"] = orjson.Fragment(timer.payload)
        return orjson.dumps(body)

    def _time(self, ms: int) -> str:
        """As ``format_time``; the text of a second is made once."""
        second, rest = divmod(ms, 1000)
        text = self._seconds.get(second)
        if text is None:
            if len(self._seconds) >= SECONDS_KEPT:
                self._seconds.clear()
            text = self._seconds[second] = format_time(EPOCH + timedelta(seconds=second))[:-4]
        return f"{text}{rest:03d}Z"


def _with_own(headers: Sequence[tuple[str, bytes]], timer: ClaimedTimer) -> list[tuple[str, bytes]]:
    own = [
        *headers,
        ("ce_id", firing_id(timer.key, timer.version).encode()),
        ("ce_subject", timer.key.encode()),
    ]
    if timer.traceparent:
        own.append(("traceparent", _trace_on(timer, timer.traceparent).encode()))
    return own


def _trace_on(timer: ClaimedTimer, traceparent: str) -> str:
    """The trace of whoever scheduled the timer goes on with its firing, where anybody records it."""
    if not is_recorded(traceparent):
        return traceparent
    with span(
        "fire timer",
        kind=SpanKind.PRODUCER,
        parent=traceparent,
        attributes={"weelo.timer.key": timer.key, "weelo.timer.version": timer.version},
    ):
        return current_traceparent() or traceparent
