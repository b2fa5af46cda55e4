"""The consumer loop where something goes wrong at the worst moment, on a real Kafka and a real PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.integration import consumer_rig
from tests.integration.consumer_rig import Member, consuming, effects, patient, send
from tests.integration.events_rig import GROUP, EventsRig, until
from weelo_common import parking
from weelo_common.delivery import PoisonMessage
from weelo_common.events import OrderFullyFilled
from weelo_common.kafka import KafkaClients
from weelo_common.partition_worker import TRIES
from weelo_common.postgres import Connection

rig, producer = consumer_rig.rig, consumer_rig.producer


class Gate:
    """Holds the handler at the events it is told to, until it is opened."""

    def __init__(self, *versions: int) -> None:
        self._versions = versions
        self.reached: list[int] = []
        self.opened = asyncio.Event()

    async def wait(self, connection: Connection, event: OrderFullyFilled) -> None:
        self.reached.append(event.order_version)
        if event.order_version in self._versions:
            await self.opened.wait()


async def test_an_event_in_hand_when_its_member_stops_is_read_by_the_next(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    await send(rig, producer, "o1", 1)
    failing = Member(rig, trouble=lambda event: ConnectionResetError("PostgreSQL is away"))
    async with consuming(failing):
        await until(lambda: failing.count("retries") > 0, "a failed try")
    assert failing.count("consumed") == 0
    well = Member(rig)
    async with consuming(well):
        await until(lambda: well.count("applied") == 1, "the event")
    assert await effects(rig) == [("o1", 1)]


async def test_a_member_that_stops_finishes_the_event_in_hand_and_commits_it(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    await send(rig, producer, "o1", 1)
    gate, stop = Gate(1), asyncio.Event()
    member = Member(patient(rig), also=gate.wait)
    running = asyncio.create_task(member.consumer().run(stop))
    await until(lambda: bool(gate.reached), "the event in hand")
    stop.set()
    ended, _ = await asyncio.wait({running}, timeout=0.3)  # longer than a poll
    assert not ended
    gate.opened.set()
    await running
    await send(rig, producer, "o1", 2)
    heir = Member(rig)
    async with consuming(heir):
        await until(lambda: heir.count("applied") == 1, "the second event")
    assert heir.count("duplicate") == 0
    assert await effects(rig) == [("o1", 1), ("o1", 2)]


async def test_after_a_revoke_the_former_owner_finishes_one_event_and_commits_nothing(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    for version in (1, 2, 3):
        await send(rig, producer, "o1", version)
    gate = Gate(1)
    zombie = Member(rig, also=gate.wait)
    async with consuming(zombie) as (consumer,):
        await until(lambda: bool(gate.reached), "the first event in hand")
        await consumer.on_partitions_revoked(set())
        gate.opened.set()
        await until(lambda: zombie.count("applied") == 1, "the end of the event in hand")
    assert gate.reached == [1]
    heir = Member(rig)
    async with consuming(heir):
        await until(lambda: heir.count("consumed") == 3, "all three, because nothing was committed")
    assert (heir.count("duplicate"), heir.count("applied")) == (1, 2)
    assert await effects(rig) == [("o1", 1), ("o1", 2), ("o1", 3)]


async def test_of_two_owners_at_once_the_second_waits_and_sees_that_the_event_is_handled(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    await send(rig, producer, "o1", 1)
    gate = Gate(1)
    zombie, heir = Member(rig, also=gate.wait), Member(rig)
    async with consuming(zombie) as (consumer,):
        await until(lambda: bool(gate.reached), "the event in the first owner's hand")
        await consumer.on_partitions_revoked(set())
        async with consuming(heir):  # the group gives the partition out anew
            await rig.lock_wait()
            gate.opened.set()
            await until(lambda: zombie.count("duplicate") + heir.count("duplicate") == 1, "the second's word")
            await until(lambda: zombie.count("applied") + heir.count("applied") == 1, "the first's word")
    assert await effects(rig) == [("o1", 1)]


async def test_later_events_of_a_parked_key_wait_behind_it_even_if_they_could_be_applied(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    for version in (1, 2, 3):
        await send(rig, producer, "o1", version)
    member = Member(rig, trouble=lambda e: KeyError("a defect") if e.order_version == 1 else None)
    async with consuming(member):
        await until(lambda: member.count("consumed") == 3, "all three")
    assert await effects(rig) == []
    assert member.count("parked") == 3


async def test_a_handler_that_fails_once_is_tried_again_in_place_before_its_key_is_parked(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    await send(rig, producer, "o1", 1)
    left = [KeyError("once"), KeyError("twice")]
    member = Member(rig, trouble=lambda event: left.pop() if left else None)
    async with consuming(member):
        await until(lambda: member.count("consumed") == 1, "the event")
    assert (member.count("applied"), member.count("parked")) == (1, 0)


async def test_an_event_that_comes_while_a_replay_ends_waits_for_it_and_is_applied(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    await send(rig, producer, "o1", 1)
    failing = Member(rig, trouble=lambda event: KeyError("a defect"))
    async with consuming(failing):
        await until(lambda: failing.count("parked") == 1, "the parked event")
    well = Member(rig)
    async with consuming(well):
        async with rig.database.transaction() as connection:  # what a replay does last
            assert await parking.lock_if_parked(connection, GROUP, "o1")
            await connection.execute("DELETE FROM parked")
            await connection.execute(parking.LIFT_MARK, GROUP, "o1")
            await send(rig, producer, "o1", 2)
            await rig.lock_wait()
        await until(lambda: well.count("consumed") == 1, "the event after the replay")
    assert await effects(rig) == [("o1", 2)]


async def test_poison_whose_dead_letter_cannot_be_written_is_not_passed_over(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    nobody = "a-group-whose-dead-letters-have-no-topic"
    await send(rig, producer, "o1", 1)
    hasty = rig.settings.model_copy(update={"kafka_request_deadline_s": 0.5})
    kafka = KafkaClients(hasty, client_id="test")
    member = Member(
        replace(rig, settings=hasty, kafka=kafka), trouble=lambda event: PoisonMessage("never"), group=nobody
    )
    async with consuming(member):
        await until(lambda: member.count("retries") > 0, "a dead letter that could not be written")
    assert (member.count("consumed"), member.count("dead")) == (0, 0)
    well = Member(rig, group=nobody)
    async with consuming(well):
        await until(lambda: well.count("applied") == 1, "the event, because its offset was not committed")


async def test_nothing_left_for_after_the_commit_is_done_where_the_commit_fails(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    async with rig.database.connection() as connection:
        await connection.execute(
            "CREATE TABLE once (version integer, UNIQUE (version) DEFERRABLE INITIALLY DEFERRED)"
        )
        await connection.execute("INSERT INTO once VALUES (1)")

    async def refused_at_commit(connection: Connection, event: OrderFullyFilled) -> None:
        await connection.execute("INSERT INTO once VALUES ($1)", event.order_version)

    await send(rig, producer, "o1", 1)
    member = Member(rig, also=refused_at_commit)
    async with consuming(member):
        await until(lambda: member.count("parked") == 1, "the end of the tries")
    assert member.committed == []
    assert await effects(rig) == []


class RememberingClients(KafkaClients):
    """Keeps the group's consumer it made, so that a test can ask it what is paused."""

    made: AIOKafkaConsumer

    def consumer(self, *, group: str | None, fetch_max_wait_ms: int | None = None) -> AIOKafkaConsumer:
        consumer = super().consumer(group=group, fetch_max_wait_ms=fetch_max_wait_ms)
        if group is not None:
            self.made = consumer
        return consumer


async def test_a_partition_is_paused_while_its_queue_is_full_and_goes_on_when_it_has_room(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    events, queue, fetched = 60, 10, 5
    narrow = rig.settings.model_copy(
        update={"kafka_partition_queue_records": queue, "kafka_max_poll_records": fetched}
    )
    kafka = RememberingClients(narrow, client_id="test")
    for version in range(1, events + 1):
        await send(rig, producer, "o1", version)
    gate = Gate(1)
    member = Member(replace(rig, settings=narrow, kafka=kafka), also=gate.wait)
    async with consuming(member):
        await until(lambda: bool(gate.reached) and bool(kafka.made.paused()), "a pause")
        (paused,) = kafka.made.paused()
        assert isinstance(paused, TopicPartition)
        assert await kafka.made.position(paused) <= queue + fetched
        gate.opened.set()
        await until(lambda: member.count("applied") == events, "all of them")
        await until(lambda: not kafka.made.paused(), "an open partition")
    assert [version for _, version in await effects(rig)] == list(range(1, events + 1))


async def test_a_member_far_behind_is_not_ready(rig: EventsRig, producer: AIOKafkaProducer) -> None:
    for version in range(1, 6):
        await send(rig, producer, "o1", version)
    strict = rig.settings.model_copy(update={"kafka_lag_ready_records": 2})
    gate = Gate(1)
    member = Member(replace(rig, settings=strict), also=gate.wait)
    async with consuming(member) as (consumer,):
        await until(lambda: "5 records behind" in (consumer.trouble() or ""), "the word of the lag")
        gate.opened.set()
        await until(lambda: consumer.trouble() is None, "readiness")


async def test_a_row_that_another_holds_for_too_long_is_waited_for_and_parks_nothing(
    rig: EventsRig, producer: AIOKafkaProducer
) -> None:
    async with rig.database.connection() as connection:
        await connection.execute("CREATE TABLE held (id integer PRIMARY KEY)")
        await connection.execute("INSERT INTO held VALUES (1)")

    async def wants_the_row(connection: Connection, event: OrderFullyFilled) -> None:
        await connection.execute("SET LOCAL lock_timeout = '50ms'")
        await connection.execute("SELECT FROM held FOR UPDATE")

    member = Member(rig, also=wants_the_row)
    async with consuming(member):
        async with rig.database.transaction() as holder:
            await holder.execute("SELECT FROM held FOR UPDATE")
            await send(rig, producer, "o1", 1)
            await until(lambda: member.count("retries") >= TRIES, "more tries than a defect gets")
        await until(lambda: member.count("applied") == 1, "the event")
    assert member.count("parked") == 0
