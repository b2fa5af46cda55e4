"""Firing on a real PostgreSQL and a real Kafka: what is due is published, through trouble and crashes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from deploy.local.stack import LocalStack
from expiry.publisher import Publisher
from expiry.settings import Settings
from tests.integration.events_rig import until
from tests.integration.expiry_rig import (
    TRACEPARENT,
    Bench,
    bench_on,
    create_topics,
    expiry_database,
    fired_events,
    settings_for,
    timer_of,
)
from weelo_common.events.topics import TIMERS_FIRED
from weelo_common.kafka import KafkaUnavailable

TRACE_ID = TRACEPARENT.split("-")[1]


@pytest.fixture(scope="module")
def dsn(stack: LocalStack) -> Iterator[str]:
    with expiry_database(stack) as made:
        yield made


def settings_of(stack: LocalStack, dsn: str, *, kafka_request_deadline_s: float) -> Settings:
    return settings_for(
        stack,
        dsn,
        kafka_request_deadline_s=kafka_request_deadline_s,
        fire_batch_timers=10,
        fire_look_s=0.2,
        fire_overdue_s=0,
        fire_fresh_s=60,  # the tests' machine may be slow
        fire_abandoned_s=30,  # the same; below the minute of ``Bench.abandon``
    )


@pytest.fixture
async def topicless(stack: LocalStack, dsn: str) -> AsyncIterator[Bench]:
    """Its firings fail at first, each after the deadline."""
    async with bench_on(settings_of(stack, dsn, kafka_request_deadline_s=2)) as bench:
        yield bench


@pytest.fixture
async def bench(stack: LocalStack, dsn: str) -> AsyncIterator[Bench]:
    async with bench_on(settings_of(stack, dsn, kafka_request_deadline_s=20)) as bench:
        await create_topics(bench.kafka, TIMERS_FIRED)
        yield bench


async def test_a_due_timer_is_published_with_all_that_its_owner_gave(bench: Bench) -> None:
    await bench.schedule("o-1")
    async with bench.replica() as replica:
        assert await replica.look_and_fire() == 1
        assert await replica.look_and_fire() == 0
    (envelope,) = await fired_events(bench.kafka, 1)
    event = timer_of(envelope)
    assert (event.timer_key, event.version, event.owner) == ("order-expiry:o-1", 1, "order-api")
    assert (event.payload, event.order_id, envelope.key) == ({"wave": 2}, "o-1", "o-1")
    assert event.fired_at >= event.due_at
    assert envelope.id == event.event_id()
    assert envelope.source == "/weelo/expiry"
    assert envelope.traceparent is not None
    assert envelope.traceparent.split("-")[1] == TRACE_ID
    assert await bench.states() == {"o-1": "fired"}
    assert await bench.open_firings() == 0


async def test_timers_of_partitions_owned_elsewhere_stay(bench: Bench) -> None:
    await bench.schedule("mine", partition=4)
    await bench.schedule("theirs", partition=5)
    async with bench.replica({4}) as replica:
        assert await replica.look_and_fire() == 1
    assert await bench.states() == {"mine": "fired", "theirs": "pending"}


async def test_a_new_timer_that_memory_is_told_of_fires_in_its_time_and_never_early(bench: Bench) -> None:
    async with bench.replica() as replica:
        await replica.keeper.run_once()  # the last look: from here on memory alone knows what is due
        stop = asyncio.Event()
        firing = asyncio.create_task(replica.firer.run(stop))
        timer_id = await bench.schedule("o-1", due_in_s=0.5)
        assert timer_id is not None
        due_ms = int((time.time() + 0.5) * 1000)
        replica.work.note(0, timer_id, due_ms - 400, 500)  # told of it too early, it must ask again
        replica.work.note(0, timer_id, due_ms, 500)
        (envelope,) = await fired_events(bench.kafka, 1)
        stop.set()
        await firing
    event = timer_of(envelope)
    assert event.fired_at >= event.due_at


async def test_what_memory_was_not_told_of_is_found_by_the_next_look(bench: Bench) -> None:
    async with bench.replica() as replica:
        await replica.keeper.run_once()
        await bench.schedule("o-1", due_in_s=0, partition=7)
        assert await replica.firer.run_once() == 0
        assert await replica.look_and_fire() == 1


async def test_what_is_due_soon_is_held_in_memory_and_fires_without_a_look(bench: Bench) -> None:
    await bench.schedule("soon", due_in_s=60)
    await bench.schedule("far", due_in_s=3600)
    now_s = 100.0
    async with bench.replica(monotonic=lambda: now_s) as replica:
        await replica.keeper.run_once()
        assert len(replica.work.wheel) == 1
        wait_s = replica.work.wait_s()
        assert wait_s is not None
        assert 0 < wait_s <= 60
        await bench.let_come_due("soon")
        assert await replica.firer.run_once() == 0  # by memory's clock it is not due yet
        now_s += wait_s + 1
        assert await replica.firer.run_once() == 1
    assert await bench.states() == {"soon": "fired", "far": "pending"}


async def test_a_timer_that_a_command_holds_is_asked_for_once_more_soon_after(bench: Bench) -> None:
    await bench.schedule("o-1", due_in_s=60)
    now_s = 100.0
    async with bench.replica(monotonic=lambda: now_s) as replica:
        await replica.keeper.run_once()
        await bench.let_come_due("o-1")
        async with bench.database.transaction() as holder:
            await holder.execute("SELECT FROM timers FOR UPDATE")
            wait_s = replica.work.wait_s()
            assert wait_s is not None
            now_s += wait_s + 1
            assert await replica.firer.run_once() == 0
        wait_s = replica.work.wait_s()
        assert wait_s is not None
        assert 0 < wait_s < 1
        now_s += wait_s + 0.1
        assert await replica.firer.run_once() == 1


async def test_a_crash_before_the_note_is_dropped_fires_again_with_the_same_event_id(bench: Bench) -> None:
    await bench.schedule("o-1")
    publisher = Publisher(bench.kafka)
    assert await publisher.publish(await bench.claim()) == []
    await publisher.close()  # and here the process dies
    await bench.abandon()
    async with bench.replica() as successor:
        assert await successor.look_and_fire() == 1
    first, second = await fired_events(bench.kafka, 2)
    assert first == second
    assert await bench.open_firings() == 0


async def test_a_crash_before_the_publish_fires_rather_than_never(bench: Bench) -> None:
    await bench.schedule("o-1")
    await bench.claim()  # and here the process dies
    await bench.abandon()
    async with bench.replica(()) as successor:  # whoever owns the partition
        assert await successor.look_and_fire() == 1
    assert len(await fired_events(bench.kafka, 1)) == 1


async def test_a_firing_that_somebody_works_on_is_left_to_him(bench: Bench) -> None:
    await bench.schedule("o-1")
    firing = await bench.claim()
    async with bench.replica() as other:
        assert await other.look_and_fire() == 0
        await bench.abandon()
        await other.keeper.run_once()  # takes it
    async with bench.replica() as third:
        assert await third.look_and_fire() == 0
    assert await bench.open_firings() == 1
    assert firing.timers[0].key == "order-expiry:o-1"


async def test_what_kafka_did_not_take_is_fired_once_it_does(topicless: Bench) -> None:
    bench = topicless
    await bench.schedule("o-1")
    await bench.schedule("o-2", partition=3)
    async with bench.replica() as replica:
        await replica.keeper.run_once()
        for _ in range(2):
            with pytest.raises(KafkaUnavailable):  # there is no such topic yet
                await replica.firer.run_once()
        assert await bench.open_firings() == 1
        await create_topics(bench.kafka, TIMERS_FIRED)
        fired = 0
        async with asyncio.timeout(60):
            while fired < 2:
                try:
                    fired += await replica.firer.run_once()
                except KafkaUnavailable:
                    await asyncio.sleep(0.1)
    assert await bench.states() == {"o-1": "fired", "o-2": "fired"}
    count = 2  # and more, where the brokers had taken what was given up
    while len({envelope.id for envelope in await fired_events(bench.kafka, count)}) < 2:
        count += 1
    assert await bench.open_firings() == 0


async def test_an_outage_is_told_once_and_its_end_with_it(
    topicless: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = topicless
    await bench.schedule("o-1")
    async with bench.replica() as replica, replica.running():
        await until(lambda: replica.metrics.errors._value.get() >= 3, "it was tried three times", 60)
        assert replica.firer.trouble == "KafkaUnavailable"
        await create_topics(bench.kafka, TIMERS_FIRED)
        await until(lambda: replica.firer.trouble is None, "it fires")
    assert await bench.states() == {"o-1": "fired"}
    told = [record.getMessage() for record in caplog.records if record.name == "expiry.firing"]
    assert told == ["Firing waits", "Firing goes on"]


async def test_a_firing_that_another_has_finished_is_not_published_again(topicless: Bench) -> None:
    bench = topicless
    await bench.schedule("o-1")
    async with bench.replica() as replica:
        await replica.keeper.run_once()
        with pytest.raises(KafkaUnavailable):
            await replica.firer.run_once()
        async with bench.database.connection() as conn:
            await conn.execute("DELETE FROM firings")  # the other was faster
        assert await replica.firer.run_once() == 0


async def test_a_timer_moved_while_its_firing_failed_fires_once_at_its_new_time(bench: Bench) -> None:
    await bench.schedule("o-1")
    await bench.claim()  # and here the process dies
    await bench.schedule("o-1", version=2)
    await bench.abandon()
    async with bench.replica() as successor:
        await successor.keeper.run_once()
        while await bench.open_firings():
            await successor.firer.run_once()
        await successor.look_and_fire()
    (envelope,) = await fired_events(bench.kafka, 1)
    assert timer_of(envelope).version == 2


async def test_a_backlog_drains_in_batches_oldest_first_while_new_timers_are_on_time(bench: Bench) -> None:
    for number in range(25):
        await bench.schedule(f"old-{number:02}", due_in_s=-600 + number)
    await bench.schedule("new", due_in_s=-0.01)
    rounds: list[set[str]] = []
    async with bench.replica({0}) as replica:
        await replica.keeper.run_once()
        for _ in range(4):
            before = {key for key, state in (await bench.states()).items() if state == "fired"}
            assert await replica.firer.run_once() > 0
            after = {key for key, state in (await bench.states()).items() if state == "fired"}
            rounds.append(after - before)
    assert [len(fired) for fired in rounds] == [10, 1, 10, 5]
    assert rounds[0] == {f"old-{number:02}" for number in range(10)}
    assert rounds[1] == {"new"}
    assert rounds[2] == {f"old-{number:02}" for number in range(10, 20)}


async def test_a_replica_that_is_told_of_no_partitions_keeps_its_own_until_a_rebalance_must_be_over(
    bench: Bench,
) -> None:
    now_s = 100.0
    async with bench.replica({0}, lambda: now_s) as replica:
        await replica.keeper.run_once()
        replica.keeper.own(())
        await bench.schedule("meanwhile", due_in_s=0)
        assert await replica.look_and_fire() == 1
        now_s += bench.settings.fire_rebalance_s + 1
        await bench.schedule("afterwards", due_in_s=0)
        assert await replica.look_and_fire() == 0
        assert replica.work.owned == frozenset()


async def test_the_gauges_say_how_many_timers_wait_and_how_many_are_due(bench: Bench) -> None:
    for number in range(3):
        await bench.schedule(f"due-{number}")
    await bench.schedule("soon", due_in_s=60)
    await bench.schedule("far", due_in_s=3600)
    await bench.schedule("elsewhere", due_in_s=60, partition=9)
    async with bench.replica({0}) as replica:
        await replica.keeper.run_once()
        metrics = replica.metrics
        read = {
            gauge._name.removeprefix("weelo_expiry_"): gauge._value.get()
            for gauge in (metrics.pending, metrics.due, metrics.held, metrics.partitions)
        }
    assert read == {"pending": 5, "due": 3, "held": 4, "partitions_owned": 1}
