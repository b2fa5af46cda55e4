"""What is parked and what is dead is told as it stands now, until an operator has settled it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from tests.integration import consumer_rig
from tests.integration.consumer_rig import Member, consuming, send
from tests.integration.events_rig import GROUP, ORDERS_EVENTS, EventsRig, until
from weelo_common.consumer import ConsumerMetrics
from weelo_common.dead_letters import RESOLUTION, RESOLVES
from weelo_common.delivery import PoisonMessage
from weelo_common.events.topics import TIMERS_FIRED
from weelo_common.kafka import KafkaClients
from weelo_common.postgres import Database
from weelo_common.unsettled import MOST_COUNTED, OpenLetters, Unsettled

LOOK_PERIOD_S = 0.05
FORGET_PARKED = "WITH gone AS (DELETE FROM parked) DELETE FROM parked_key"
DAY_MS = 24 * 60 * 60 * 1000

rig, producer = consumer_rig.rig, consumer_rig.producer


class Watched:
    """The gauges of a group, kept true."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def __call__(self, name: str) -> float:
        value = self.registry.get_sample_value(f"weelo_consumer_{name}", {"consumer": GROUP})
        assert value is not None
        return value

    async def becomes(self, name: str, wanted: float) -> None:
        await until(lambda: self(name) == wanted, f"{name} {wanted}: it is {self(name)}")


@contextlib.asynccontextmanager
async def watching(rig: EventsRig) -> AsyncIterator[Watched]:
    watched, stop = Watched(), asyncio.Event()
    metrics = ConsumerMetrics(watched.registry)
    unsettled = Unsettled(
        GROUP, [ORDERS_EVENTS], rig.database, rig.kafka, metrics, look_period_s=LOOK_PERIOD_S
    )
    assert all(math.isnan(watched(name)) for name in ("parked_keys", "parked_events", "dead_unsettled"))
    running = asyncio.create_task(unsettled.run(stop))
    try:
        yield watched
    finally:
        stop.set()
        await running


async def test_parked_keys_and_their_events_are_told_until_they_are_gone(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    for version in (1, 2):
        await send(rig, producer, "o1", version)
    await send(rig, producer, "o2", 1)
    failing = Member(rig, trouble=lambda event: KeyError("a defect"))
    async with watching(rig) as watched:
        await watched.becomes("parked_keys", 0)
        async with consuming(failing):
            await until(lambda: failing.count("parked") == 3, "the parked events")
        await watched.becomes("parked_events", 3)
        assert watched("parked_keys") == 2
        async with rig.database.connection() as connection:
            await connection.execute(FORGET_PARKED)
        await watched.becomes("parked_keys", 0)
        assert watched("parked_events") == 0


async def test_a_dead_letter_is_told_until_somebody_settles_it(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    for version in (1, 2):
        await send(rig, producer, "o1", version)
    poisoned = Member(rig, trouble=lambda event: PoisonMessage("never"))
    async with watching(rig) as watched:
        await watched.becomes("dead_unsettled", 0)
        async with consuming(poisoned):
            await until(lambda: poisoned.count("dead") == 2, "the dead letters")
        await watched.becomes("dead_unsettled", 2)
        word = [(RESOLUTION, b"dropped"), (RESOLVES, b"0")]
        await producer.send_and_wait(rig.kafka.topic_name(ORDERS_EVENTS.dlq(GROUP)), b"", headers=word)
        await watched.becomes("dead_unsettled", 1)
    async with watching(rig) as afterwards:  # a replica that starts later reads what was there before
        await afterwards.becomes("dead_unsettled", 1)


async def test_a_letter_that_lies_behind_many_settled_ones_is_still_told_after_a_start(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    topic = rig.kafka.topic_name(ORDERS_EVENTS.dlq(GROUP))
    sent = [await producer.send(topic, b"", headers=[("dlq-reason", b"never")]) for _ in range(MOST_COUNTED)]
    for offset in range(1, MOST_COUNTED):
        word = [(RESOLUTION, b"dropped"), (RESOLVES, str(offset).encode())]
        sent.append(await producer.send(topic, b"", headers=word))
    await asyncio.gather(*sent)
    async with watching(rig) as watched:
        await watched.becomes("dead_unsettled", 1)


async def test_what_cannot_be_counted_is_not_told_as_nothing(rig: EventsRig) -> None:
    nowhere = rig.settings.model_copy(update={"postgres_dsn": SecretStr("postgresql://a:b@127.0.0.1:1/none")})
    watched, stop = Watched(), asyncio.Event()
    async with Database.open(nowhere, application_name="test") as database:
        metrics = ConsumerMetrics(watched.registry)
        unsettled = Unsettled(
            GROUP, [ORDERS_EVENTS], database, rig.kafka, metrics, look_period_s=LOOK_PERIOD_S
        )
        running = asyncio.create_task(unsettled.run(stop))
        await watched.becomes("dead_unsettled", 0)
        assert math.isnan(watched("parked_keys"))
        stop.set()
        await running


async def test_a_topic_that_is_not_there_leaves_the_number_of_its_dead_letters_unknown(
    rig: EventsRig, caplog: pytest.LogCaptureFixture
) -> None:
    watched, stop = Watched(), asyncio.Event()
    hasty = rig.settings.model_copy(update={"kafka_request_deadline_s": 0.5})
    kafka, metrics = KafkaClients(hasty, client_id="test"), ConsumerMetrics(watched.registry)
    topics = [ORDERS_EVENTS, TIMERS_FIRED]  # this rig made no dead letters for the second
    unsettled = Unsettled(GROUP, topics, rig.database, kafka, metrics, look_period_s=LOOK_PERIOD_S)
    running = asyncio.create_task(unsettled.run(stop))
    await until(lambda: "Dead letters are not counted" in caplog.text, "the warning")
    await watched.becomes("parked_keys", 0)
    assert math.isnan(watched("dead_unsettled"))
    stop.set()
    await running


def test_a_letter_stays_open_until_it_is_settled_or_as_old_as_its_topic_keeps_it() -> None:
    letters = OpenLetters()
    for offset in range(3):
        letters.take(offset, DAY_MS * offset, [("dlq-reason", b"never")])
    letters.take(3, DAY_MS * 3, [(RESOLUTION, b"retried"), (RESOLVES, b"1")])
    letters.take(4, DAY_MS * 3, [(RESOLUTION, b"retried"), (RESOLVES, b"9")])  # one that was there before
    assert len(letters) == 2
    letters.forget_before(DAY_MS)
    assert len(letters) == 1


def test_a_word_that_settles_nothing_is_a_letter_like_any() -> None:
    letters = OpenLetters()
    letters.take(0, 0, [(RESOLUTION, b"retried"), (RESOLVES, b"the first")])
    letters.take(1, 0, [(RESOLUTION, None), (RESOLVES, b"0")])
    assert len(letters) == 2


def test_no_more_letters_are_remembered_than_are_told_apart() -> None:
    letters = OpenLetters()
    for offset in range(MOST_COUNTED + 5):
        letters.take(offset, 0, [])
    assert len(letters) == MOST_COUNTED


def test_a_word_that_names_no_offset_settles_nothing() -> None:
    letters = OpenLetters()
    letters.take(0, 0, [])
    letters.take(1, 0, [(RESOLUTION, b"dropped"), (RESOLVES, b"0" * 5000)])
    letters.take(2, 0, [(RESOLUTION, b"dropped"), (RESOLVES, b"all")])
    assert len(letters) == 3
