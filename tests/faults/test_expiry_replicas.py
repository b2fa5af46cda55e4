"""Replicas of expiry killed, stopped, hung and with wrong clocks, for minutes; and how soon their timers move.

``tests/integration/test_expiry_replicas.py`` is the short form.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from deploy.local.stack import LocalStack
from tests.faults.harm import frozen
from tests.integration.expiry_history import History
from tests.integration.expiry_processes import Client, ExpiryProcess, client_of, needs_faketime, replicas
from tests.integration.expiry_rig import TOPICS, Bench, bench_on, create_topics, expiry_database, settings_for
from weelo_common.events.timers import TimerScheduled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

SETTLE_S = 60.0
HANG_S = 8.0  # longer than a session
STEPS = 12  # of a long history
GRACEFUL_S = 2.0  # timers have moved by then after a stop,
KILLED_S = 10.0  # and by then after a kill
TICK_S = 0.05  # between two timers of the stream whose gap is measured
BUSY_S = 1.0  # that the tests' machine may add


@pytest.fixture(scope="module")
def dsn(stack: LocalStack) -> Iterator[str]:
    with expiry_database(stack) as made:
        yield made


@pytest.fixture
async def bench(stack: LocalStack, dsn: str) -> AsyncIterator[Bench]:
    async with bench_on(settings_for(stack, dsn)) as bench:
        await create_topics(bench.kafka, *TOPICS)
        yield bench


async def long_history(bench: Bench, client: Client, processes: list[ExpiryProcess], random: Random) -> None:
    """Commands, and now and then a fault of one replica; at the end all are up."""
    history = History(client, random)
    for _ in range(STEPS):
        await history.go_on(keys=400, commands=100)
        one = random.choice(processes)
        fault = random.choice(("kill", "stop", "hang", "none"))
        if fault == "kill":
            one.kill()
        elif fault == "stop":
            await asyncio.to_thread(one.stop)
        elif fault == "hang":
            with frozen(one):
                await history.go_on(keys=400, commands=50)
                await asyncio.sleep(HANG_S)  # the fault's own length
        if not one.running:
            await history.go_on(keys=400, commands=50)
            await asyncio.to_thread(one.started)
    await history.all_fired(SETTLE_S)
    history.check(await bench.settled(client))
    assert all(process.running for process in processes)


@pytest.mark.parametrize("seed", ["one", "two", "three"])
async def test_long_random_histories_of_kills_stops_and_hangs_fire_every_timer_once(
    bench: Bench, tmp_path: Path, seed: str
) -> None:
    async with client_of(bench.kafka) as client:
        with replicas(bench.settings, tmp_path, 0, 0, 0) as processes:
            await long_history(bench, client, processes, Random(seed))


@needs_faketime
async def test_a_long_random_history_with_clocks_30_s_apart_fires_every_timer_once(
    bench: Bench, tmp_path: Path
) -> None:
    async with client_of(bench.kafka) as client:
        with replicas(bench.settings, tmp_path, -30, 0, 30) as processes:
            await long_history(bench, client, processes, Random("clocks"))


async def schedule_stream(client: Client, seconds: float) -> int:
    """A timer every ``TICK_S``, over all partitions, scheduled well ahead; how many."""
    count = int(seconds / TICK_S)
    first = datetime.now(UTC) + timedelta(seconds=3)
    for number in range(count):
        await client.send(
            TimerScheduled(
                timer_key=f"order-expiry:s-{number}",
                version=1,
                owner="order-api",
                due_at=first + timedelta(seconds=number * TICK_S),
                order_id=f"s-{number}",
            )
        )
    return count


def worst_lateness_s(client: Client) -> float:
    return max((events[0].fired_at - events[0].due_at).total_seconds() for events in client.fired.values())


async def test_after_a_graceful_stop_timers_move_within_two_seconds(bench: Bench, tmp_path: Path) -> None:
    async with client_of(bench.kafka) as client:
        with replicas(bench.settings, tmp_path, 0, 0) as (first, _):
            count = await schedule_stream(client, seconds=8)
            await client.until(lambda: len(client.fired) > count // 4, "the stream flows", SETTLE_S)
            await asyncio.to_thread(first.stop)
            await client.until(lambda: len(client.fired) == count, "all fired", SETTLE_S)
    assert worst_lateness_s(client) < GRACEFUL_S


async def test_after_a_kill_timers_move_within_ten_seconds_and_nobody_else_waits(
    bench: Bench, tmp_path: Path
) -> None:
    async with client_of(bench.kafka) as client:
        with replicas(bench.settings, tmp_path, 0, 0) as (first, _):
            count = await schedule_stream(client, seconds=14)
            await client.until(lambda: len(client.fired) > count // 4, "the stream flows", SETTLE_S)
            first.kill()
            await client.until(lambda: len(client.fired) == count, "all fired", SETTLE_S)
    lates = sorted(
        (events[0].fired_at - events[0].due_at).total_seconds() for events in client.fired.values()
    )
    assert lates[-1] < KILLED_S
    assert lates[len(lates) // 2] < BUSY_S  # half of the partitions were never without an owner
