"""Our events on Apache Kafka, read by tools that know nothing of this project, as another team would read them."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, to_binary
from cloudevents.core.formats.json import JSONFormat
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from deploy.local.stack import LocalStack
from tests.contract.others import NODE_CHECKS, needs_kcat, needs_node
from tools.contracts.samples import packed_positions, samples
from weelo_common.clock import format_time
from weelo_common.events import Envelope, decode, encode
from weelo_common.events.positions import unpack
from weelo_common.events.topics import ALL_TOPICS, CAPTAINS_LOCATIONS, ORDER_PARTITIONS, ORDERS_EVENTS, Topic
from weelo_common.ids import new_id
from weelo_common.kafka import KafkaClients
from weelo_common.settings import KafkaSettings
from weelo_common.topics import create_topics

PATIENCE_S = 60.0
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
KEYS = 10_000  # for the partitioners


@dataclass(frozen=True)
class Seen:
    """One record as a reader hands it over."""

    key: str
    headers: dict[str, str]
    value: bytes


def written(envelope: Envelope) -> Seen:
    headers, value = encode(envelope, TRACEPARENT)
    return Seen(envelope.key, {name: raw.decode() for name, raw in headers}, value)


@dataclass(frozen=True)
class Published:
    """One event of each type, on topics of this run's own, sent as the services send them."""

    bootstrap: str
    kafka: KafkaClients
    events: dict[str, list[Envelope]]

    def name(self, topic: Topic) -> str:
        return self.kafka.topic_name(topic)

    def wanted(self, topic: Topic) -> list[Seen]:
        return [written(envelope) for envelope in self.events[topic.name]]


EVENT_TOPICS = [topic for topic in ALL_TOPICS if topic is not CAPTAINS_LOCATIONS]
topics = pytest.mark.parametrize("topic", EVENT_TOPICS, ids=[topic.name for topic in EVENT_TOPICS])


@pytest.fixture(scope="module")
def published(stack: LocalStack) -> Iterator[Published]:
    settings = KafkaSettings.model_validate(
        {
            "kafka_bootstrap_servers": stack.servers.kafka_bootstrap,
            "kafka_topic_prefix": f"t{uuid4().hex[:8]}.",
        }
    )
    kafka = KafkaClients(settings, client_id="contract")
    events: dict[str, list[Envelope]] = defaultdict(list)
    for envelope in samples().values():
        events[envelope.topic.name].append(envelope)

    async def send_all() -> None:
        await create_topics(kafka, replication_factor=1)
        producer = await kafka.start_producer()
        for envelope in samples().values():
            headers, value = encode(envelope, TRACEPARENT)
            await producer.send_and_wait(
                kafka.topic_name(envelope.topic), value, key=envelope.key.encode(), headers=headers
            )
        await producer.send_and_wait(kafka.topic_name(CAPTAINS_LOCATIONS), packed_positions())
        await kafka.stop_producer(producer)

    async def remove_all() -> None:
        admin: AIOKafkaAdminClient
        async with kafka.admin() as admin:
            await admin.delete_topics([kafka.topic_name(topic) for topic in ALL_TOPICS])

    asyncio.run(send_all())
    yield Published(stack.servers.kafka_bootstrap, kafka, events)
    asyncio.run(remove_all())


def read_with_librdkafka(bootstrap: str, topic: str, partitions: int, count: int) -> list[Seen]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"{topic}.librdkafka"})
    found: list[Seen] = []
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        while len(found) < count:
            message = consumer.poll(PATIENCE_S)
            assert message is not None, f"{topic}: only {len(found)} of {count} came"
            if message.error():
                raise KafkaException(message.error())
            headers = {name: _text(raw) for name, raw in dict(message.headers() or []).items()}
            found.append(Seen(_text(message.key()), headers, message.value() or b""))
    finally:
        consumer.close()
    return found


def _text(raw: str | bytes | None) -> str:
    return raw if isinstance(raw, str) else (raw or b"").decode()


@topics
def test_confluent_kafka_reads_every_event_in_order(published: Published, topic: Topic) -> None:
    wanted = published.wanted(topic)
    seen = read_with_librdkafka(published.bootstrap, published.name(topic), topic.partitions, len(wanted))
    assert seen == wanted  # all of one order: one key, so one partition and one order


@topics
def test_the_cloudevents_sdk_understands_every_event(published: Published, topic: Topic) -> None:
    envelopes = published.events[topic.name]
    seen = read_with_librdkafka(published.bootstrap, published.name(topic), topic.partitions, len(envelopes))
    for envelope, record in zip(envelopes, seen, strict=True):
        raw = {name: text.encode() for name, text in record.headers.items()}
        event = from_binary(KafkaMessage(raw, record.key.encode(), record.value), JSONFormat())
        assert event.get_specversion() == "1.0"
        assert event.get_id() == envelope.id
        assert event.get_type() == envelope.type
        assert event.get_source() == envelope.source
        assert event.get_subject() == envelope.subject
        assert event.get_dataschema() == f"urn:weelo:schema:{envelope.type}"
        assert event.get_datacontenttype() == "application/json"
        assert event.get_extension("partitionkey") == envelope.key
        time = event.get_time()
        assert time is not None
        assert format_time(time) == format_time(envelope.time)
        assert event.get_data() == json.loads(record.value)


@topics
def test_what_the_cloudevents_sdk_writes_our_readers_read(published: Published, topic: Topic) -> None:
    for envelope in published.events[topic.name]:
        headers, value = encode(envelope)
        event = from_binary(KafkaMessage(dict(headers), envelope.key, value), JSONFormat())
        again = to_binary(event, JSONFormat())
        read = decode(topic, envelope.key.encode(), again.headers.items(), again.value)
        assert (read.id, read.type, read.time, read.event) == (
            envelope.id,
            envelope.type,
            envelope.time,
            envelope.event,
        )


@needs_kcat
@topics
def test_kcat_reads_every_event(published: Published, topic: Topic) -> None:
    done = subprocess.run(
        [
            "kcat",
            "-C",
            "-b",
            published.bootstrap,
            "-t",
            published.name(topic),
            "-o",
            "beginning",
            "-e",
            "-q",
            "-J",
            "-X",
            "fetch.wait.max.ms=10",  # it asks until every partition says that there is no more
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    seen = []
    for line in done.stdout.splitlines():
        record = json.loads(line)
        pairs = record["headers"]
        headers = dict(zip(pairs[::2], pairs[1::2], strict=True))
        seen.append(Seen(record["key"], headers, record["payload"].encode()))
    assert seen == published.wanted(topic)


@needs_node
def test_kafkajs_reads_every_order_event(published: Published) -> None:
    wanted = published.wanted(ORDERS_EVENTS)
    done = subprocess.run(
        ["node", "read_events.mjs", published.bootstrap, published.name(ORDERS_EVENTS), str(len(wanted))],
        cwd=NODE_CHECKS,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert [
        Seen(record["key"], record["headers"], base64.b64decode(record["value"])) for record in seen
    ] == wanted
    assert len({record["partition"] for record in seen}) == 1


def test_packed_positions_come_through_byte_for_byte(published: Published) -> None:
    (record,) = read_with_librdkafka(
        published.bootstrap, published.name(CAPTAINS_LOCATIONS), CAPTAINS_LOCATIONS.partitions, 1
    )
    assert record.value == packed_positions()
    assert len(unpack(record.value)) == 2


def many_keys() -> list[bytes]:
    """Keys as we make them, and any other: ids, timer keys, foreign scripts, and bytes of every length."""
    chance = random.Random(20260203)
    keys = {new_id().encode() for _ in range(4000)}
    keys |= {f"order-expiry:{new_id()}".encode() for _ in range(2000)}
    keys |= {f"चालक-{number}".encode() for number in range(1000)}
    while len(keys) < KEYS:
        keys.add(chance.randbytes(chance.randint(1, 80)))
    return sorted(keys)


def test_ten_thousand_keys_go_where_librdkafka_would_send_them(published: Published) -> None:
    topic, keys = published.name(ORDERS_EVENTS), many_keys()
    assert len(keys) == KEYS

    theirs: dict[bytes, int] = {}

    def placed(error: KafkaError | None, message: Message) -> None:
        key, partition = message.key(), message.partition()
        assert error is None
        assert isinstance(key, bytes)
        assert partition is not None
        theirs[key] = partition

    producer = Producer(
        {"bootstrap.servers": published.bootstrap, "partitioner": "murmur2_random", "linger.ms": 20}
    )
    for key in keys:
        producer.produce(topic, b"", key=key, on_delivery=placed)
        producer.poll(0)
    assert producer.flush(PATIENCE_S) == 0

    async def send() -> dict[bytes, int]:
        ours = await published.kafka.start_producer(linger_ms=20)
        try:
            futures = [await ours.send(topic, b"", key=key) for key in keys]
            async with asyncio.timeout(PATIENCE_S):
                records = await asyncio.gather(*futures)
        finally:
            await published.kafka.stop_producer(ours)
        return {key: record.partition for key, record in zip(keys, records, strict=True)}

    assert asyncio.run(send()) == theirs
    assert set(theirs.values()) == set(range(ORDER_PARTITIONS))
