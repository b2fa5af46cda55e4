"""Several dispatchers: they share the work by partitions, and one that goes leaves no order behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiokafka import TopicPartition

from deploy.local.processes import Nursery
from deploy.local.stack import LocalStack
from tests.integration.dispatcher_orders import fired
from tests.integration.dispatcher_rig import Home, Rig, dispatcher, dispatcher_home, start, until
from tests.integration.service_process import RunningService
from weelo_common.events import TimerScheduled, decode
from weelo_common.events.topics import TIMERS_COMMANDS

WAVES_S = 0.15  # from a timer's command to its firing: waves go on while replicas come and go
ORDERS_IN_MOTION = 24
SELECT_WAVES = """
SELECT order_id, array_agg(wave ORDER BY round) AS waves FROM match_rounds
 WHERE cause = 'wave' AND order_id = ANY($1::text[]) GROUP BY order_id
"""

OFFERS_OF_AN_ORDER = """
SELECT order_id, captain_id, count(*) AS times FROM offers GROUP BY order_id, captain_id HAVING count(*) > 1
"""
OVER_THE_CAP = """
SELECT captain_id, count(*) FROM offers WHERE status = 'live' GROUP BY captain_id HAVING count(*) > 3
"""


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with dispatcher_home(stack) as home:
        yield home


async def test_two_replicas_share_the_orders_and_no_captain_gets_two_offers_of_one(home: Home) -> None:
    async with dispatcher(home, replicas=2) as rig:
        for number in range(8):
            await rig.captain(100 * number)
        orders = [rig.order() for _ in range(12)]
        await rig.publish(*(order.created() for order in orders))
        for order in orders:
            await rig.eventually(
                lambda order=order: rig.rows("SELECT FROM match_rounds WHERE order_id = $1", order.order_id),  # type: ignore[misc]
                bool,
            )
        assert await rig.rows(OFFERS_OF_AN_ORDER) == []
        assert await rig.rows(OVER_THE_CAP) == []
        made = await rig.rows("SELECT captain_id FROM offers WHERE vehicle_subtype = $1", rig.subtype)
        assert Counter(row["captain_id"] for row in made).most_common()[-1][1] == 3  # 8 captains × 3 offers


async def test_an_order_goes_on_with_its_waves_after_its_replica_is_gone_in_the_middle(home: Home) -> None:
    async with contextlib.AsyncExitStack() as second:
        async with dispatcher(home) as first:
            subtype = first.subtype
            captain = await first.captain(4_000)
            orders = [first.order(lifetime_s=600, created_ago_s=200) for _ in range(3)]
            await first.publish(*(order.created() for order in orders))
            timers = [await first.timer(order, 2) for order in orders]
            heir = await start(second, home.settings())  # a rebalance in the middle of the waves
            await first.publish(timers[0], event_id=timers[0].event_id())
            assert (await first.live(orders[0], 1)).keys() == {captain.user_id}
        async with dispatcher(home) as rig:  # the first is gone; its heir, and this one, go on
            rig.subtype = subtype
            await rig.place_again(captain.user_id, 4_000)
            await rig.publish(timers[0], event_id=timers[0].event_id())  # a repeat
            for order, timer in zip(orders[1:], timers[1:], strict=True):
                await rig.publish(timer, event_id=timer.event_id())
                assert (await rig.live(order, 1)).keys() == {captain.user_id}
            rows = await rig.rows(
                "SELECT order_id, count(*) AS rounds FROM match_rounds WHERE order_id = ANY($1::text[]) "
                "GROUP BY order_id",
                [order.order_id for order in orders],
            )
            assert {row["order_id"]: row["rounds"] for row in rows} == {order.order_id: 2 for order in orders}
        await until(lambda: heir.life.health.not_ready() == [], "the heir, alone and ready")


async def test_a_replica_killed_in_the_middle_of_a_wave_loses_no_order(home: Home, tmp_path: Path) -> None:
    nursery = Nursery()
    process = RunningService(nursery, "dispatcher", tmp_path / "dispatcher.log", home.environment())
    try:
        async with dispatcher(home, replicas=0) as outside:
            async with dispatcher(home) as before:
                captain, subtype = await before.captain(100), before.subtype
            outside.subtype = subtype
            await asyncio.to_thread(process.start)
            await outside.tell_position(captain.user_id, 100)  # the heir comes late, and must find it fresh
            orders = [outside.order(lifetime_s=600) for _ in range(2)]
            async with outside.database.transaction() as connection:  # holds the wave in its transaction
                await connection.execute(
                    "SELECT FROM captains WHERE captain_id = $1 FOR NO KEY UPDATE", captain.user_id
                )
                await outside.publish(*(order.created() for order in orders))
                await outside.lock_wait()
                process.kill()
            assert await outside.rows("SELECT FROM offers WHERE vehicle_subtype = $1", subtype) == []
            async with dispatcher(home) as heir:
                for order in orders:
                    assert (await heir.live(order, 1)).keys() == {captain.user_id}
                assert await heir.rows(OFFERS_OF_AN_ORDER) == []
    finally:
        nursery.close()


@contextlib.asynccontextmanager
async def timekeeper(rig: Rig) -> AsyncIterator[None]:
    """Fires every timer of a wave a moment after it is scheduled, as expiry does; now and then twice."""
    consumer = rig.kafka.consumer(group=None)
    await rig.kafka.start_consumer(consumer)
    topic = rig.kafka.topic_name(TIMERS_COMMANDS)
    consumer.assign([TopicPartition(topic, number) for number in range(TIMERS_COMMANDS.partitions)])
    stop = asyncio.Event()

    async def fire() -> None:
        while not stop.is_set():
            for records in (await consumer.getmany(timeout_ms=50)).values():
                for record in records:
                    event = decode(TIMERS_COMMANDS, record.key, record.headers, record.value).event
                    if isinstance(event, TimerScheduled):
                        await asyncio.sleep(WAVES_S / ORDERS_IN_MOTION)  # the pace of the evening
                        timer = fired(event)
                        await rig.publish(timer, event_id=timer.event_id())
                        if event.version % 3 == 0:
                            await rig.publish(timer, event_id=timer.event_id())

    await consumer.seek_to_end()
    task = asyncio.create_task(fire())
    try:
        yield
    finally:
        stop.set()
        await task
        await rig.kafka.stop_consumer(consumer)


@pytest.mark.timeout(90)
async def test_while_replicas_come_and_go_every_order_has_each_of_its_waves_once(home: Home) -> None:
    async with dispatcher(home) as rig, timekeeper(rig):
        for number in range(10):
            await rig.captain(100 * number)
        # So old that every wave is due, and with time left for all of them.
        orders = [rig.order(lifetime_s=600, created_ago_s=500) for _ in range(ORDERS_IN_MOTION)]
        replicas = [*rig.replicas]
        async with contextlib.AsyncExitStack() as coming:
            half = len(orders) // 2
            await rig.publish(*(order.created() for order in orders[:half]))
            async with contextlib.AsyncExitStack() as going:
                replicas.append(await start(going, home.settings()))  # takes over in mid-wave
                await rig.publish(*(order.created() for order in orders[half:]))
            replicas.append(await start(coming, home.settings()))  # and another, once that one has left
            waves = await rig.eventually(
                lambda: rig.rows(SELECT_WAVES, [order.order_id for order in orders]),
                lambda rows: [len(row["waves"]) for row in rows] == [6] * len(orders),
            )
        assert all(row["waves"] == [1, 2, 3, 4, 5, 6] for row in waves)
        assert await rig.rows(OFFERS_OF_AN_ORDER) == []
        assert await rig.rows(OVER_THE_CAP) == []
        assert await rig.rows("SELECT FROM parked") == []
        for replica in replicas:
            outcomes = ("applied", "duplicate", "ignored", "parked", "dead")
            counts = [
                rig.metric(f"weelo_consumer_{outcome}_total", replica, consumer="dispatcher")
                for outcome in ("consumed", *outcomes)
            ]
            assert counts[0] == sum(counts[1:])
            assert counts[-2:] == [0, 0]
        repeats = [
            rig.metric("weelo_consumer_duplicate_total", replica, consumer="dispatcher")
            for replica in replicas
        ]
        assert sum(repeats) > 0


async def test_a_replica_that_starts_knows_the_fleet_before_it_takes_orders(home: Home) -> None:
    async with dispatcher(home) as rig:
        captain = await rig.captain(100)
        subtype = rig.subtype
    async with dispatcher(home) as later:
        later.subtype = subtype
        order = later.order()
        await later.publish(order.created())
        assert (await later.live(order, 1)).keys() == {captain.user_id}
