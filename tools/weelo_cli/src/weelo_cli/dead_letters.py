"""The dead letters on the brokers: what lies there, and what became of each.

A Kafka topic forgets nothing on request, so whoever retries or drops a dead letter writes a second record behind it
that says so (``dlq-resolution``); it is kept as long as the letter, and longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from weelo_cli.reading import TopicReader
from weelo_cli.redaction import shown_event, shown_raw, shown_reason
from weelo_common.dead_letters import RESOLUTION, RESOLVES
from weelo_common.events import MalformedEvent, decode
from weelo_common.events.topics import ALL_TOPICS, Topic
from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.parking import Record

MARKS = "dlq-"  # how the headers begin that were put on a dead letter
RETRIED = "retried"
DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that a consumer group could never handle; ``record`` stands in the dead-letter topic."""

    source: Topic
    group: str
    record: Record
    resolution: str | None

    @property
    def headers(self) -> Mapping[str, str]:
        """All headers as text."""
        return {name: value.decode(errors="replace") for name, value in self.record.headers}

    @property
    def is_truncated(self) -> bool:
        """Whether something of the record was cut off: then it cannot be sent again from here."""
        return self.headers.get("dlq-truncated") == "true"

    @property
    def stood_in(self) -> int | None:
        """The partition of its topic that it came from; None where the record does not say."""
        number = self.headers.get("dlq-partition", "")
        return int(number) if number.isdecimal() and int(number) < self.source.partitions else None

    def document(self) -> dict[str, Any]:
        """What an operator may see of it, without its body."""
        headers = self.headers
        return {
            "topic": self.source.name,
            "group": self.group,
            "offset": self.record.offset,
            "at": self.record.received_at,
            "key": None if self.record.key is None else self.record.key.decode(errors="replace")[:128],
            "eventId": headers.get("ce_id", "")[:255] or None,
            "type": headers.get("ce_type", "")[:128] or None,
            "reason": shown_reason(headers.get("dlq-reason", "")),
            "attempts": headers.get("dlq-attempts"),
            "from": f"{headers.get('dlq-partition')}/{headers.get('dlq-offset')}",
            "truncated": self.is_truncated,
            "resolution": self.resolution,
        }

    def body(self) -> dict[str, Any]:
        """Its body as an operator may see it: decoded where an event class fits."""
        try:
            envelope = decode(self.source, self.record.key, self.own_headers(), self.record.value)
        except MalformedEvent:
            return shown_raw(self.record.value)
        return shown_raw(self.record.value) if envelope.event is None else shown_event(envelope.event)

    def own_headers(self) -> list[tuple[str, bytes]]:
        """The headers that it had before it died."""
        return [(name, value) for name, value in self.record.headers if not name.startswith(MARKS)]


def dead_letter_topics(topic: str | None, group: str | None) -> list[tuple[Topic, str]]:
    """The pairs of topic and group that have dead letters, as far as they are asked for."""
    return [
        (one, name)
        for one in ALL_TOPICS
        for name in one.groups
        if topic in (None, one.name) and group in (None, name)
    ]


async def read_dead_letters(reader: TopicReader, source: Topic, group: str) -> list[DeadLetter]:
    """All dead letters of a group on a topic, oldest first, each with what became of it.

    Raises:
        KafkaUnavailable: the brokers do not answer.
    """
    topic = source.dlq(group)
    pairs = reader.partitions(topic)
    records: list[Record] = []
    resolutions: dict[int, str] = {}
    async for record in reader.between(topic, await reader.beginnings(pairs), await reader.ends(pairs)):
        headers = {name: value.decode(errors="replace") for name, value in record.headers}
        if (resolution := headers.get(RESOLUTION)) and headers.get(RESOLVES, "").isdigit():
            resolutions[int(headers[RESOLVES])] = resolution
        else:
            records.append(record)
    return [DeadLetter(source, group, record, resolutions.get(record.offset)) for record in records]


async def send_again(kafka: KafkaClients, letters: Sequence[DeadLetter]) -> None:
    """Put dead letters back where they came from, each followed by the word that it was retried.

    In this order: a crash between the two leaves a letter that is retried twice, and the inbox knows it then.

    Raises:
        KafkaUnavailable: not all were sent.
    """
    producer = await kafka.start_producer()
    try:
        for letter in letters:
            await _send(
                kafka,
                producer,
                kafka.topic_name(letter.source),
                letter.record.value,
                letter.record.key,
                letter.own_headers(),
                letter.stood_in,
            )
            await _resolve(kafka, producer, letter, RETRIED)
    finally:
        await kafka.stop_producer(producer)


async def drop(kafka: KafkaClients, letters: Sequence[DeadLetter]) -> None:
    """Say of dead letters that nobody will retry them.

    Raises:
        KafkaUnavailable: not all were written.
    """
    producer = await kafka.start_producer()
    try:
        for letter in letters:
            await _resolve(kafka, producer, letter, DROPPED)
    finally:
        await kafka.stop_producer(producer)


async def _resolve(
    kafka: KafkaClients, producer: AIOKafkaProducer, letter: DeadLetter, resolution: str
) -> None:
    headers = [
        *((name, value) for name, value in letter.record.headers if name not in (RESOLUTION, RESOLVES)),
        (RESOLUTION, resolution.encode()),
        (RESOLVES, str(letter.record.offset).encode()),
    ]
    topic = kafka.topic_name(letter.source.dlq(letter.group))
    await _send(kafka, producer, topic, b"", letter.record.key, headers, 0)


async def _send(
    kafka: KafkaClients,
    producer: AIOKafkaProducer,
    topic: str,
    value: bytes | None,
    key: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    partition: int | None,
) -> None:
    try:
        await asyncio.wait_for(
            producer.send_and_wait(topic, value, key=key, headers=list(headers), partition=partition),
            kafka.deadline_s,
        )
    except (KafkaError, OSError, TimeoutError) as error:
        raise KafkaUnavailable(f"{topic}: {type(error).__name__}: {error}") from error
