"""A page of the outbox: rows laid out as record batches, for each partition its own, and sent in order.

It must never have two batches of one partition under way, and never send what stands behind a batch that was refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownError,
    UnsupportedForMessageFormatError,
)
from opentelemetry.trace import SpanKind

from weelo_common.record_batches import (
    Acknowledgement,
    BatchSender,
    BrokenHeaders,
    RecordBatch,
    decode_headers,
    encode_headers,
)
from weelo_common.telemetry import current_traceparent, is_recorded, span

ROWS_A_TURN = 500  # laid out before other work of the process has its turn: about a millisecond
# What a broker says of the records or their topic. Everything else tells of the brokers, or of nobody knows what.
REFUSALS = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    InvalidTopicError,
    TopicAuthorizationFailedError,
    PolicyViolationError,
    UnsupportedForMessageFormatError,
    BrokenHeaders,
)

_TRACEPARENT = b"traceparent"
_NOT_RECORDED = b"-00"  # as the traceparent ends, which is the last of the headers


@dataclass(slots=True)
class Page:
    """Rows laid out as batches, for each partition its own in order; and how they ended."""

    lanes: list[list[RecordBatch]] = field(default_factory=list)
    count: int = 0
    first_id: int = 0
    last_id: int = 0
    newest_id: int = 0
    """The highest id that could be seen when it was read."""
    payload_bytes: int = 0
    acknowledged: list[int] = field(default_factory=list)
    """The ids that Kafka took and that are not deleted yet."""
    published: Counts[str] = field(default_factory=Counts)
    """How many that were, by the topic's name on the brokers."""
    refused: list[tuple[RecordBatch, Exception]] = field(default_factory=list)
    trouble: str | None = None
    """Why nobody knows of the rest whether Kafka took it."""
    unexplained: bool = False
    """A broker answered what aiokafka has no name for; so brokers answer records that are broken."""

    async def send(self, sender: BatchSender, limit_s: float) -> None:
        """Send all batches; a partition's next one goes once its last is acknowledged.

        Returns after ``limit_s`` at the latest. Unless ``refused`` and ``trouble`` are empty then, the producer has to
        be dropped: nobody knows what it still holds.
        """
        handed: list[tuple[RecordBatch, Acknowledgement]] = []
        try:
            async with asyncio.timeout(limit_s):
                await self._send_in_waves(sender, handed)
        except (TimeoutError, KafkaError, OSError) as error:
            self.trouble = f"{type(error).__name__}: {error}"
            self.unexplained = isinstance(error, UnknownError)
        for batch, answer in handed:
            # Asking for the exception marks it as seen.
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self.acknowledged += batch.marks
                self.published[batch.topic] += len(batch.marks)

    async def _send_in_waves(
        self, sender: BatchSender, handed: list[tuple[RecordBatch, Acknowledgement]]
    ) -> None:
        stopped: set[int] = set()  # lanes with a refused batch
        for wave in zip_longest(*self.lanes):
            under_way: dict[int, Acknowledgement] = {}
            for lane, batch in enumerate(wave):
                if batch is not None and lane not in stopped:
                    under_way[lane] = await sender.send(batch)
                    handed.append((batch, under_way[lane]))
            if under_way:
                await asyncio.wait(under_way.values())
            for lane, answer in under_way.items():
                error = answer.exception()
                if isinstance(error, REFUSALS):
                    stopped.add(lane)
                    self.refused.append((wave[lane], error))
                elif error is not None:
                    raise error


async def lay_out(
    rows: Sequence[Any], sender: BatchSender, *, prefix: str, batch_bytes: int, closely: bool = False
) -> Page:
    """The rows (id, topic, key, headers, payload, newest_id) as a page, up to the first whose topic is not known.

    ``prefix`` is that of the topics' names on the brokers; a batch has up to ``batch_bytes``, or a single record. Only
    where a trace is recorded are a row's headers read, unless ``closely``. One whose headers cannot be read has a batch
    of its own, which is refused when it is sent.
    """
    page = Page()
    lanes: dict[tuple[str, int], list[RecordBatch]] = {}
    topics: dict[str, tuple[str, int]] = {}  # declared name → name on the brokers, partitions
    for row_id, topic, key, headers, payload, _ in rows:
        if topic not in topics:
            if not sender.knows(f"{prefix}{topic}"):
                break
            topics[topic] = f"{prefix}{topic}", await sender.partitions(f"{prefix}{topic}")
        name, partitions = topics[topic]
        key_bytes = key.encode()
        lane = name, (sender.hash(key_bytes) & 0x7FFFFFFF) % partitions
        batches = lanes.get(lane)
        if batches is None:
            batches = lanes[lane] = [RecordBatch(*lane)]
        refusal = None
        if closely or not (headers.endswith(_NOT_RECORDED) or _TRACEPARENT not in headers):
            try:
                headers = _with_our_span(topic, headers)
            except BrokenHeaders as error:
                refusal = error
        batch = batches[-1]
        if batch.marks and (
            batch.size + len(payload) + len(headers) > batch_bytes or refusal or batch.refusal
        ):
            batch = RecordBatch(*lane)
            batches.append(batch)
        if refusal:
            batch.refusal = refusal
        batch.add(row_id, key_bytes, payload, headers)
        page.count += 1
        page.payload_bytes += len(payload)
        if page.count % ROWS_A_TURN == 0:
            await asyncio.sleep(0)
    page.first_id, page.last_id = rows[0]["id"], rows[page.count - 1]["id"]
    page.newest_id = rows[0]["newest_id"]
    page.lanes = list(lanes.values())
    for batches in page.lanes:
        for batch in batches:
            batch.finish()
    return page


def _with_our_span(topic: str, headers: bytes) -> bytes:
    """The headers, continued by a span of the publishing where the writer's trace is recorded.

    Raises:
        BrokenHeaders: these are none.
    """
    try:
        told = dict(decode_headers(headers))
        traceparent, event_id = told["traceparent"].decode(), told["ce_id"].decode()
    except (UnicodeDecodeError, KeyError):
        return headers  # a record all the same: whoever reads it judges it
    if not is_recorded(traceparent):
        return headers
    with span(
        f"publish {topic}",
        kind=SpanKind.PRODUCER,
        parent=traceparent,
        attributes={"messaging.system": "kafka", "messaging.message.id": event_id},
    ):
        told["traceparent"] = (current_traceparent() or traceparent).encode()
    return encode_headers(told.items())
